"""An imported model is judged on sets of public layouts, by their paths alone or as an evaluate job describes them."""

from pathlib import Path

import pytest

from comparisons import COMPARE_JOB
from layout_files import write_coco, write_flickr, write_folders
from orchestrator.errors import DatasetError, PlanError
from orchestrator.evaluation.results import ProbeResult
from orchestrator.evaluation.verdict import find_verdict
from orchestrator.runs import evaluate
from orchestrator.runs.baselines import judge_baselines, start_baseline
from orchestrator.runs.check import check_job
from orchestrator.runs.comparison_record import ComparisonRecord, start_result
from orchestrator.runs.evaluate import evaluate_run
from orchestrator.runs.import_weights import import_weights
from orchestrator.runs.interrupts import StopRequest
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import EvaluateSpec
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare
from orchestrator.spec.targets import TargetSpec
from orchestrator.storage.store import open_store
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.mlflow import open as mlflow_open
from orchestrator.training.judge import judge_checkpoint

SETS = ["public/imagenet", "public/coco", "public/flickr"]


def by_key(results: list[ProbeResult]) -> dict[tuple[str, str, str], ProbeResult]:
    return {(one.set, one.probe, one.target): one for one in results if one.feature != "pooled"}


@pytest.fixture(scope="module")
def imported(cluster: ClusterSpec, clip_folder: Path) -> str:
    """A run whose plan names three sets; their files lie below the cluster's data."""
    data = Path(cluster.storage.data.removeprefix("file://")) / "public"
    write_folders(data / "imagenet/val", 20)
    write_folders(data / "imagenet/train", 20)
    write_coco(data / "coco", num_images=40)
    (data / "coco/val2017/000000000007.jpg").write_bytes(b"broken")
    write_flickr(data / "flickr")
    made = import_weights(str(clip_folder), "on-public-sets", cluster, evaluation_sets=SETS)
    return made.plan.run_uri


def test_an_imported_model_is_judged_on_public_layouts(cluster: ClusterSpec, imported: str) -> None:
    found = by_key(evaluate_run(imported, cluster))
    zero_shot = found["public-imagenet", "zero_shot", "class"]
    assert (zero_shot.num_test, zero_shot.num_classes) == (60, 3)
    assert found["public-imagenet", "linear_probe", "class"].num_test < 60
    assert "num_left_out" not in zero_shot.details
    for direction, answers in (("image_to_text", 195), ("text_to_image", 39)):
        coco = found["public-coco", "retrieval", direction]
        assert (coco.num_test, coco.num_classes) == (39, answers)
        assert found["public-flickr", "retrieval", direction].num_test == 2
    categories = found["public-coco", "linear_probe", "category"]
    assert list(categories.scores) == ["mean_average_precision"]
    assert categories.details["num_left_out"] == 1


def test_a_set_is_described_beside_its_files(cluster: ClusterSpec, imported: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("tench\ngold fish\nbird crane\n")
    layout = {"class_names": str(tmp_path / "names.txt"), "train_samples": 40}
    evaluation = {"sets": SETS[:1], "layouts": {SETS[0]: layout}, "probes": ["zero_shot", "linear_probe"]}
    found = by_key(evaluate_run(imported, cluster, evaluation=EvaluationSpec.model_validate(evaluation)))
    for probe in ("zero_shot", "linear_probe"):
        assert found["public-imagenet", probe, "class"].num_test == 60
    assert found["public-imagenet", "linear_probe", "class"].details["num_train"] == 40


def test_an_imported_model_is_fine_tuned(cluster: ClusterSpec, imported: str) -> None:
    tune = {"steps": 2, "batch_size": 8, "label_fractions": [0.5]}
    evaluation = {"sets": SETS[:1], "probes": ["fine_tune"], "fine_tune": tune}
    found = evaluate_run(imported, cluster, evaluation=EvaluationSpec.model_validate(evaluation))
    assert [(one.probe, one.feature, list(one.scores)) for one in found] == [
        ("fine_tune", "pooled", ["accuracy_50_percent"]),
        ("fine_tune", "random_weights", ["accuracy_50_percent"]),
    ]


def test_a_folder_of_no_layout_is_named_before_anything_is_judged(cluster: ClusterSpec, imported: str) -> None:
    Path(cluster.storage.data.removeprefix("file://"), "public/notes").mkdir()
    evaluation = EvaluationSpec(sets=("public/notes",))
    with pytest.raises(DatasetError, match=r"public/notes: no layout of labelled images fits"):
        evaluate_run(imported, cluster, evaluation=evaluation)


def test_a_target_to_fine_tune_on_that_no_set_has_is_named_before_anything_is_judged(
    cluster: ClusterSpec, imported: str, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = EvaluationSpec.model_validate({"sets": SETS[:1], "fine_tune": {"targets": ["clas"]}})
    with pytest.raises(PlanError, match=r"evaluation.fine_tune.targets names \['clas'\]; the sets have \['class'\]"):
        evaluate_run(imported, cluster, evaluation=evaluation)
    assert "judging" not in caplog.text


@pytest.mark.parametrize("holder", ["another command", "nobody, but the folder takes nothing"])
def test_scores_are_returned_when_the_journal_cannot_be_had(
    cluster: ClusterSpec,
    imported: str,
    holder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mlflow_open, "_LOCK_PATIENCE_S", 0.0)
    (tmp_path / "file").write_text("")
    folder = tmp_path if holder == "another command" else tmp_path / "file"
    monkeypatch.setattr(evaluate, "tracking_folder", lambda uri, key: folder)
    held = Journal(tmp_path / "evaluate.jsonl")
    one = EvaluationSpec(sets=tuple(SETS[:1]), probes=("zero_shot",))
    assert evaluate_run(imported, cluster, evaluation=one)
    held.close()
    assert "are not in MLflow: journal" in caplog.text


def test_what_is_judged_later_leaves_the_run_s_own_predictions(cluster: ClusterSpec, imported: str) -> None:
    """A comparison's verdict is computed from them again and again."""
    folder = Path(imported.removeprefix("file://"), "predictions")
    before = {file.name for file in folder.iterdir()} if folder.exists() else set()
    one = EvaluationSpec(sets=SETS[:1], probes=("nearest_neighbours", "zero_shot"))
    evaluate_run(imported, cluster, evaluation=one, is_own=True)
    own = {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in before}
    assert set(own) == {"step-00000000-raw.parquet", "nearest-00000000-raw.parquet", "step-00000000-raw.judged"}
    other = one.model_copy(update={"max_samples": 40})
    for evaluation in (one, other, other):
        evaluate_run(imported, cluster, evaluation=evaluation)
    assert {name: (folder / name).read_bytes() for name in own} == own
    added = {file.name for file in folder.glob("evaluate-*-step-*-raw.parquet")} - before
    assert len(added) == 2


def test_check_refuses_a_set_whose_classes_the_checkpoint_cannot_name(cluster: ClusterSpec, imported: str) -> None:
    folder = Path(cluster.storage.data.removeprefix("file://"), "unnamed")
    folder.mkdir()
    (folder / "targets.json").write_text('{"targets": {"kind": {"classes": ["a", "b"], "named_in_captions": false}}}')
    (folder / "00000.tar").write_bytes(bytes(10240))
    document = {"kind": "evaluate", "name": "judge", "run": "on-public-sets"}
    job = EvaluateSpec.model_validate({**document, "evaluation": {"sets": [SETS[0], "unnamed"]}})
    found = {finding.subject: finding for finding in check_job(job, cluster)}
    assert [subject for subject, finding in found.items() if not finding.holds] == ["classes of unnamed"]
    assert "can name no class of unnamed (kind): they have no templates; leave zero_shot" in found[
        "classes of unnamed"
    ].detail  # fmt: skip
    assert found[f"classes of {SETS[0]}"].detail == "zero-shot names class: 3 of 3"
    probes = {"sets": ["unnamed"], "probes": ["linear_probe"]}
    without = EvaluateSpec.model_validate({**document, "evaluation": probes})
    assert all(finding.holds for finding in check_job(without, cluster))


def comparison_with(baselines: list[str]) -> CompareSpec:
    evaluation = {"sets": SETS[:1], "probes": ["linear_probe"], "max_samples": 40}
    metric = "eval/public-imagenet/linear_probe/class/accuracy"
    run = {**COMPARE_JOB["run"], "evaluation": evaluation}
    return CompareSpec.model_validate({**COMPARE_JOB, "run": run, "primary_metric": metric, "baselines": baselines})


def test_a_run_stands_in_a_comparison_judged_by_its_evaluation(
    cluster: ClusterSpec, imported: str, tmp_path: Path
) -> None:
    spec = comparison_with(["on-public-sets"])
    asked = AskedFacts({"public-imagenet": {"class": TargetSpec(classes=("a", "b"), named_in_captions=True)}})
    facts = Facts(machine=MachineFacts(num_cores=1, num_cpus=2, decoder="d"))
    plan = resolve_compare(spec, cluster, CompareFacts({"clip": facts, "siglip": facts}, asked))
    rows = [start_baseline(name, cluster) for name in spec.baselines]
    started = start_result(plan, cluster.storage.runs, {"clip": {}, "siglip": {}}, None, rows)
    record = ComparisonRecord(open_store(str(tmp_path)), started)
    asked_to_stop, go_on = StopRequest(), StopRequest()
    asked_to_stop.ask("SIGINT")
    judge_baselines(spec, cluster, None, record, asked_to_stop, judge_checkpoint)
    assert [row.status for row in record.result.baselines] == ["waiting"]
    judge_baselines(spec, cluster, None, record, go_on, judge_checkpoint)
    (row,) = record.result.baselines
    assert (row.objective, row.run_uri, row.status) == ("on-public-sets", imported, "finished")
    again = evaluate_run(imported, cluster, evaluation=spec.run.evaluation)
    assert row.scores[spec.primary_metric] == again[0].accuracy
    assert again[0].num_test < 20, "the comparison's settings, not the run's own"
    later = start_result(plan, cluster.storage.runs, {"clip": {}, "siglip": {}}, record.result, rows)
    assert later.baselines == (row,)
    assert find_verdict(later, {}).sentence.startswith("No verdict yet: 2 of 2 replicates"), "it has no part"


def test_a_baseline_that_cannot_be_opened_is_refused_in_check(cluster: ClusterSpec, imported: str) -> None:
    findings = {one.subject: one for one in check_job(comparison_with([imported, "nowhere"]), cluster)}
    assert findings[f"baseline {imported}"].holds
    assert not findings["baseline nowhere"].holds
    assert "holds no plan.json" in findings["baseline nowhere"].detail
