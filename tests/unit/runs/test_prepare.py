"""Preparation: what is missing is made once, beside the shards; what is wrong is said before anything starts."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.concept_labels import ConceptReader
from orchestrator.data.decode import decoder_version
from orchestrator.data.index import load_index
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.tokens import load_tokenizer
from orchestrator.errors import AnnotationError, DatasetError, PlanError, StorageAccessError
from orchestrator.runs import captions as captions_module
from orchestrator.runs.check import check_job
from orchestrator.runs.compare_facts import prepare_compare_facts, read_compare_facts
from orchestrator.runs.compare_folder import claim_comparison
from orchestrator.runs.indexing import index_shards
from orchestrator.runs.prepare import machine_facts, prepare_facts, read_facts
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.describe import describe_plan
from orchestrator.spec.facts import FinderFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.resolve import resolve_plan
from orchestrator.spec.resolve_compare import resolve_compare
from orchestrator.storage.store import open_store
from orchestrator.wordnet.table import load_noun_table
from orchestrator.wordnet.vocabulary import Vocabulary

NUM_SAMPLES = 60
TARGETS = '{"targets": {"shape": {"classes": ["cube", "ball"], "named_in_captions": true, "templates": ["a {}"]}}}'
CLIP = {"name": "clip"}
CATLIP = {"name": "catlip", "min_count": 10}
SYNTHETIC = {"kind": "synthetic", "num_samples": 64}


def write_shard(path: Path, captions: list[str | None]) -> None:
    """Samples of an image member (its content does not matter here) and a caption, where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, caption in enumerate(captions):
            members = {"jpg": b"not read"} | ({} if caption is None else {"txt": caption.encode()})
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{number:05d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterSpec:
    shapes = ["a red cube on the grass", "a large ball near a cube"]
    write_shard(tmp_path / "data/train/00000.tar", [shapes[number % 2] for number in range(NUM_SAMPLES // 2)])
    write_shard(tmp_path / "data/train/00001.tar", [None, *shapes * (NUM_SAMPLES // 4)][: NUM_SAMPLES // 2])
    write_shard(tmp_path / "data/val/00000.tar", shapes * 4)
    write_shard(tmp_path / "data/eval/00000.tar", shapes * 4)
    (tmp_path / "data/eval/targets.json").write_text(TARGETS)
    return ClusterSpec.model_validate(
        {
            "name": "here",
            "workers": {"count": 2, "accelerator": "cpu"},
            "storage": {"data": (tmp_path / "data").as_uri(), "runs": (tmp_path / "runs").as_uri()},
        }
    )


def job(objective: dict[str, Any], **sections: Any) -> PretrainSpec:
    document = {
        "kind": "pretrain",
        "name": "small",
        "objective": objective,
        "data": {"kind": "shards", "train": "train", "heldout": "val"},
        "model": {"preset": "vit_nano_32"},
        "text": {"trained_size": 300},
        "batch": {"global_size": 8},
        "budget": {"steps": 2},
        "optimizer": {"learning_rate": 1e-3},
        "evaluation": {"sets": ["eval"]},
    }
    return PretrainSpec.model_validate(document | sections)


def made(tmp_path: Path) -> set[str]:
    """Names of all files below the data folder that are not shards."""
    files = (path for path in (tmp_path / "data").rglob("*") if path.is_file())
    return {str(path.relative_to(tmp_path / "data")) for path in files if path.suffix != ".tar"}


def test_reading_facts_makes_nothing(tmp_path: Path, cluster: ClusterSpec) -> None:
    before = made(tmp_path)
    facts = read_facts(job(CLIP), cluster)
    assert (facts.train, facts.heldout, facts.tokenizer, facts.vocabulary) == ((), None, None, None)
    assert made(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_preparing_a_clip_job_indexes_and_trains_a_tokenizer_once(tmp_path: Path, cluster: ClusterSpec) -> None:
    shown: list[Progress] = []
    facts = prepare_facts(job(CLIP), cluster, shown.append)
    assert facts.train
    assert facts.heldout is not None
    assert (facts.train[0].num_samples, facts.train[0].num_shards, facts.heldout.num_samples) == (NUM_SAMPLES, 2, 8)
    assert facts.vocabulary is None
    assert facts.tokenizer is not None
    assert load_tokenizer(facts.tokenizer.uri, cluster.storage.s3).digest == facts.tokenizer.digest
    activities = {progress.activity.split()[0] for progress in shown}
    assert activities == {"index", "read"}
    assert resolve_plan(job(CLIP), cluster, facts).model.tokenizer == facts.tokenizer

    files = {name: (tmp_path / "data" / name).read_bytes() for name in made(tmp_path)}
    again: list[Progress] = []
    assert prepare_facts(job(CLIP), cluster, again.append) == facts == read_facts(job(CLIP), cluster)
    assert again == [], "a second run finds everything"
    assert {name: (tmp_path / "data" / name).read_bytes() for name in made(tmp_path)} == files


def test_preparing_a_catlip_job_counts_its_concepts(cluster: ClusterSpec) -> None:
    facts = prepare_facts(job(CATLIP), cluster)
    assert facts.tokenizer is None
    assert facts.vocabulary is not None
    folder, _, name = facts.vocabulary.uri.rpartition("/")
    vocabulary = Vocabulary.from_bytes(open_store(folder).read_bytes(name))
    names = {load_noun_table().name(offset) for offset in vocabulary.offsets}
    assert {"cube.n.01", "grass.n.01", "ball.n.01"} <= names
    assert vocabulary.data == tuple(shards.digest for shards in facts.train)
    assert (vocabulary.digest, len(vocabulary)) == (facts.vocabulary.digest, facts.vocabulary.size)
    assert vocabulary.num_captions == NUM_SAMPLES - 1, "one sample has no caption"
    named = job({**CATLIP, "vocabulary": facts.vocabulary.uri}, data=SYNTHETIC)
    assert prepare_facts(named, cluster).vocabulary == facts.vocabulary


def store_concepts(cluster: ClusterSpec) -> None:
    """What ``orchestrator label concepts`` leaves beside the training shards."""
    index = load_index(open_store(f"{cluster.storage.data}/train"))
    assert index is not None
    finder = FinderFacts(mode="corenet", noun_table=None, tagger=None)
    store = open_store(f"{cluster.storage.data}/train")
    reader = ConceptReader((ShardsSource.now(store, index.digest),), ("txt",), finder, cluster.storage.s3, keeps=True)
    for shard in range(len(index.shards)):
        reader.read(0, shard)


def test_stored_labels_are_asked_for_before_anything_starts(cluster: ClusterSpec) -> None:
    stored = job({**CATLIP, "labels": "stored"})
    with pytest.raises(AnnotationError, match=r"00000\.tar is absent; make it with 'orchestrator label concepts"):
        prepare_facts(stored, cluster)
    store_concepts(cluster)
    assert prepare_facts(stored, cluster).vocabulary == prepare_facts(job(CATLIP), cluster).vocabulary


def test_samples_without_a_label_are_filtered_from_the_plan_where_the_job_says_so(cluster: ClusterSpec) -> None:
    prepare_facts(job(CATLIP), cluster)
    store_concepts(cluster)
    dropping = job({**CATLIP, "labels": "stored", "no_concept": "drop"})
    assert read_facts(dropping, cluster).train == (), "not made yet"
    (train,) = prepare_facts(dropping, cluster).train
    assert (train.num_kept, train.filtered) == (NUM_SAMPLES - 1, {"no_concept": 1})
    assert resolve_plan(dropping, cluster, read_facts(dropping, cluster)).data.num_samples == NUM_SAMPLES - 1


def test_a_vocabulary_of_other_data_is_refused_unless_the_job_takes_it(tmp_path: Path, cluster: ClusterSpec) -> None:
    facts = prepare_facts(job(CATLIP), cluster)
    assert facts.vocabulary is not None
    write_shard(tmp_path / "data/train/00002.tar", ["a purple cone"] * 9)
    index_shards(open_store(str(tmp_path / "data/train")))
    foreign = {**CATLIP, "vocabulary": facts.vocabulary.uri}
    with pytest.raises(DatasetError, match=r"was counted on other data .*objective\.foreign_vocabulary: true"):
        prepare_facts(job(foreign), cluster)
    assert prepare_facts(job({**foreign, "foreign_vocabulary": True}), cluster).vocabulary == facts.vocabulary


def test_a_vocabulary_of_more_concepts_than_the_job_wants_is_refused(cluster: ClusterSpec) -> None:
    facts = prepare_facts(job(CATLIP), cluster)
    assert facts.vocabulary is not None
    named = {**CATLIP, "vocabulary": facts.vocabulary.uri}
    with pytest.raises(DatasetError, match=rf"holds {facts.vocabulary.size} concepts, objective\.max_concepts is 2"):
        read_facts(job({**named, "max_concepts": 2}), cluster)
    assert read_facts(job({**named, "max_concepts": 100}), cluster).vocabulary == facts.vocabulary


def test_other_settings_or_shards_make_another_file(tmp_path: Path, cluster: ClusterSpec) -> None:
    first = prepare_facts(job(CLIP), cluster).tokenizer
    other = prepare_facts(job(CLIP, text={"trained_size": 310}), cluster).tokenizer
    assert first is not None
    assert other is not None
    assert first.uri != other.uri
    write_shard(tmp_path / "data/train/00002.tar", ["a purple cone"] * 9)
    index_shards(open_store(str(tmp_path / "data/train")))
    third = prepare_facts(job(CLIP), cluster).tokenizer
    assert third is not None
    assert third.uri != first.uri


def test_no_more_samples_than_the_limit_are_read(cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions_module, "MOST_SAMPLES", 12)
    shown: list[Progress] = []
    prepare_facts(job(CLIP), cluster, shown.append)
    assert (shown[-1].activity, shown[-1].done, shown[-1].total) == ("read captions", 12, 12)


def test_a_source_behind_a_large_one_is_read_too(
    tmp_path: Path, cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read of the captions is shared out as the samples are."""
    monkeypatch.setattr(captions_module, "MOST_SAMPLES", 12)
    (tmp_path / "data/more").mkdir()
    write_shard(tmp_path / "data/more/00000.tar", ["an ultramarine teapot"] * 9)
    for name in ("train", "more"):
        index_shards(open_store(str(tmp_path / "data" / name)))
    both = [{"uri": "train", "weight": 1}, {"uri": "more", "weight": 2}]
    captions = captions_module.Captions(job(CLIP, data={"kind": "shards", "train": both}), cluster, None)
    assert sum(caption == "an ultramarine teapot" for caption in captions) == 8


def test_synthetic_data_needs_no_folder_and_its_tokenizer_lies_in_the_run(tmp_path: Path, cluster: ClusterSpec) -> None:
    facts = prepare_facts(job(CLIP, data=SYNTHETIC, evaluation={}), cluster)
    assert not facts.train
    assert facts.tokenizer is not None
    assert facts.tokenizer.uri.startswith((tmp_path / "runs" / "small").as_uri())
    with pytest.raises(PlanError, match=r"objective\.vocabulary: synthetic data has no captions"):
        prepare_facts(job(CATLIP, data=SYNTHETIC, evaluation={}), cluster)


def test_what_is_wrong_with_the_data_is_said_by_name(tmp_path: Path, cluster: ClusterSpec) -> None:
    shards = {"kind": "shards", "train": "train"}
    with pytest.raises(StorageAccessError, match=r"data/nowhere does not exist"):
        prepare_facts(job(CLIP, data={**shards, "train": "nowhere"}), cluster)
    (tmp_path / "data/empty").mkdir()
    with pytest.raises(DatasetError, match=r"data/empty"):
        prepare_facts(job(CLIP, data={**shards, "train": "empty"}), cluster)
    with pytest.raises(DatasetError, match=r"none of 60 samples has a caption in txt2; correct data\.caption_fields"):
        prepare_facts(job(CLIP, data={**shards, "caption_fields": ["txt2"]}), cluster)
    with pytest.raises(DatasetError, match=r"min_count"):
        prepare_facts(job({**CATLIP, "min_count": 1000}), cluster)
    with pytest.raises(DatasetError, match=r"data/val: no layout of labelled images fits \(shards: no targets\.json; "):
        prepare_facts(job(CLIP, evaluation={"sets": ["val"]}), cluster)
    (tmp_path / "data/val/targets.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"data/val/targets\.json does not describe"):
        prepare_facts(job(CLIP, evaluation={"sets": ["val"]}), cluster)


def test_ray_gets_two_logical_cpus_a_core_unless_the_cluster_says_otherwise(cluster: ClusterSpec) -> None:
    machine = machine_facts(cluster)
    assert machine.num_cpus == 2 * machine.num_cores
    assert machine.decoder == decoder_version()
    given = ClusterSpec.model_validate({**cluster.model_dump(), "ray": {"num_cpus": 9}})
    assert machine_facts(given).num_cpus == 9


def test_a_laptop_of_one_core_reads_beside_its_workers(cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ClusterSpec.model_validate({**cluster.model_dump(), "workers": {"count": 2, "accelerator": "cpu"}})
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 1)  # two hyperthreads of one core
    assert machine_facts(given).num_cpus == 3
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert (machine_facts(given).num_cores, machine_facts(given).num_cpus) == (3, 6)


def test_what_would_run_holds_in_check_before_and_after_it_is_prepared(tmp_path: Path, cluster: ClusterSpec) -> None:
    before = made(tmp_path)
    assert [finding for finding in check_job(job(CLIP), cluster) if not finding.holds] == []
    assert made(tmp_path) == before
    prepare_facts(job(CLIP), cluster)
    findings = {finding.subject: finding for finding in check_job(job(CLIP), cluster)}
    assert all(finding.holds for finding in findings.values())
    assert findings["plan"].detail.startswith("2 workers x 1 micro batch x 4 = 8 samples a step; 2 steps")


def test_check_goes_on_behind_the_first_thing_that_is_wrong(tmp_path: Path, cluster: ClusterSpec) -> None:
    prepare_facts(job(CLIP), cluster)
    wrong = job(CLIP, batch={"global_size": 7}, evaluation={"sets": ["eval", "nowhere"]})
    findings = {finding.subject: finding for finding in check_job(wrong, cluster)}
    assert [subject for subject, finding in findings.items() if not finding.holds] == [
        "evaluation set nowhere",
        "plan",
    ]
    assert "7 does not divide by 2 workers" in findings["plan"].detail
    assert findings["data train"].detail == f"{NUM_SAMPLES} samples in 2 shards"


def test_a_comparison_holds_in_check_before_and_after_its_data_is_indexed(tmp_path: Path, cluster: ClusterSpec) -> None:
    of_one = job(CLIP).model_dump(mode="json", exclude_unset=True)
    shared = {key: of_one[key] for key in ("data", "model", "text", "batch", "optimizer", "evaluation")}
    comparison = CompareSpec.model_validate(
        {
            "kind": "compare",
            "name": "which",
            "mode": "controlled",
            "run": {**shared, "workers": 1},
            "objectives": [{"label": "clip", "objective": CLIP}, {"label": "catlip", "objective": CATLIP}],
            "replicates": 1,
            "budget": {"steps": 2},
            "primary_metric": "eval/eval/linear_probe/shape/accuracy",
        }
    )
    before = made(tmp_path)
    findings = {finding.subject: finding for finding in check_job(comparison, cluster)}
    assert [finding for finding in findings.values() if not finding.holds] == []
    assert findings["plan"].detail == "objectives and cluster fit; the plan follows from the index"
    wrong = comparison.model_copy(update={"run": comparison.run.model_copy(update={"workers": 3})})
    assert [finding.subject for finding in check_job(wrong, cluster) if not finding.holds] == ["plan"]
    assert made(tmp_path) == before
    assert read_compare_facts(comparison, cluster).asked.digests == {}
    facts = prepare_compare_facts(comparison, cluster, None).facts
    assert list(facts.asked.digests) == ["eval"]
    assert read_compare_facts(comparison, cluster).asked.digests == facts.asked.digests
    findings = {finding.subject: finding for finding in check_job(comparison, cluster)}
    assert [finding for finding in findings.values() if not finding.holds] == []
    assert findings["plan"].detail.startswith("2 that count: 32 samples")
    plan = resolve_compare(comparison, cluster, facts)
    claim_comparison(open_store(plan.run_uri), plan)
    longer = comparison.model_copy(update={"budget": comparison.budget.model_copy(update={"steps": 3})})
    for asked, wrong_in in ((comparison, []), (longer, ["plan"])):
        assert [finding.subject for finding in check_job(asked, cluster) if not finding.holds] == wrong_in


def test_each_objective_is_charged_what_making_its_own_took_whoever_made_it(cluster: ClusterSpec) -> None:
    of_one = job(CLIP).model_dump(mode="json", exclude_unset=True)
    shared = {key: of_one[key] for key in ("data", "model", "text", "batch", "optimizer", "evaluation")}
    labels = {"clip": CLIP, "catlip": CATLIP, "faster": CATLIP, "rare": {**CATLIP, "min_count": 9}}
    comparison = CompareSpec.model_validate(
        {
            "kind": "compare",
            "name": "which",
            "mode": "recipe",
            "run": {**shared, "workers": 1},
            "objectives": [{"label": label, "objective": objective} for label, objective in labels.items()],
            "replicates": 1,
            "budget": {"steps": 2},
            "primary_metric": "eval/eval/linear_probe/shape/accuracy",
        }
    )
    found = prepare_compare_facts(comparison, cluster, None).prepared
    assert found["catlip"] == found["faster"]
    assert [len(found[label]) for label in labels] == [1, 1, 1, 1]
    assert len({uri for made in found.values() for uri in made}) == 3
    assert all(seconds > 0 for made in found.values() for seconds in made.values())
    assert prepare_compare_facts(comparison, cluster, None).prepared == found, "another comparison on the same data"


def test_counts_are_enough_to_plan_and_a_run_adds_the_chunk_tables(tmp_path: Path, cluster: ClusterSpec) -> None:
    for number in range(2):
        stats = {"count": 99, "successes": NUM_SAMPLES // 2}
        (tmp_path / f"data/train/{number:05d}_stats.json").write_text(json.dumps(stats))
    index_shards(open_store(str(tmp_path / "data/train")), counts_suffice=True)
    index_shards(open_store(str(tmp_path / "data/val")))
    planned = job(CLIP, evaluation={"sets": []})
    facts = read_facts(planned, cluster)
    assert (facts.train[0].num_samples, facts.train[0].num_counted) == (NUM_SAMPLES, 2)
    text = dict(describe_plan(resolve_plan(planned, cluster, facts)))["data"]
    assert "60 samples in 2 shards" in text
    assert "2 shards counted by _stats.json (a run reads their headers first)" in text
    assert facts.train[0].layout is None
    (found,) = prepare_facts(planned, cluster).train
    assert found.layout is not None
    assert found == facts.train[0].model_copy(update={"num_counted": 0, "layout": found.layout})


def test_a_folder_that_takes_no_index_is_refused_with_the_command_to_run(tmp_path: Path, cluster: ClusterSpec) -> None:
    (tmp_path / "data/train/_orchestrator").write_text("a file where the folder should be")
    with pytest.raises(StorageAccessError, match=r"takes no index .* orchestrator data index .*/data/train"):
        index_shards(open_store(str(tmp_path / "data/train")))


def test_a_damaged_shard_is_named_when_it_is_indexed(
    tmp_path: Path, cluster: ClusterSpec, caplog: pytest.LogCaptureFixture
) -> None:
    shard = tmp_path / "data/train/00000.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    index = index_shards(open_store(str(tmp_path / "data/train"))).index
    assert 0 < index.num_samples < NUM_SAMPLES
    assert "data/train/00000.tar: " in caplog.text
