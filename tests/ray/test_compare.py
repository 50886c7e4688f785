"""A comparison end to end: search, replicates, a stop in the middle, and going on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
import ray
import yaml

from orchestrator import __version__
from orchestrator.errors import RunConflictError, RunHeldError
from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
from orchestrator.runs.champion import champion_alias
from orchestrator.runs.compare import CompareOutcome, run_compare
from orchestrator.runs.compare_folder import load_comparison
from orchestrator.runs.folder import open_run
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.load import load_job
from orchestrator.storage.lease import acquire_lease
from orchestrator.storage.store import Store, open_store
from orchestrator.training.checkpoint_folders import PROMOTED, list_stored
from orchestrator.training.data_parts import chunk_tables, load_indexes, sample_order
from ray_processes import ray_processes

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
LocalCluster = Callable[..., ClusterSpec]
SMOKE = ROOT / "jobs" / "smoke" / "compare-scenes.yaml"
PAIR = (
    "objectives=[{label: clip, objective: {name: clip}}, {label: catlip, objective: {name: catlip, min_count: 2}}]",
)
SEARCH = "{optimizer.learning_rate: {choice: [1.0e-3, 1.0e-7]}}"


def compare_job(*overrides: str) -> CompareSpec:
    """CLIP, searched, against CatLIP."""
    job = load_job(
        str(SMOKE),
        [
            "objectives=[{label: clip, objective: {name: clip}, search: " + SEARCH + "}, "
            "{label: catlip, objective: {name: catlip, min_count: 2}}]",
            "search={algorithm: grid, scheduler: asha, first_rung: 0.5, budget_fraction: 0.5}",
            "replicates=1",
            "budget.steps=40",
            "run.checkpoint.every_steps=20",
            *overrides,
        ],
    )
    assert isinstance(job, CompareSpec)
    return job


@pytest.fixture(scope="module")
def place(scenes: Path, local_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    return local_cluster(scenes, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def outcome(place: ClusterSpec) -> CompareOutcome:
    """A comparison that nothing happens to; shared by the tests that only look at it."""
    return run_compare(compare_job(), place)


def kept(outcome: CompareOutcome) -> ComparisonResult:
    result = load_comparison(open_store(outcome.folder))
    assert result is not None
    return result


def test_every_trial_ends_and_is_kept(outcome: CompareOutcome) -> None:
    assert outcome.status == "finished"
    result = kept(outcome)
    assert result == outcome.result
    runs = [trial.run.removeprefix("smoke-compare-scenes--") for trial in result.trials]
    cooldowns = ["clip-r0-cooldown-20", "catlip-r0-cooldown-20"]
    assert runs == ["clip-s0", "clip-s1", "clip-r0", "catlip-r0", *cooldowns]
    verdict = [trial for trial in result.trials if trial.phase == "verdict"]
    assert all(trial.status == "finished" and trial.step == 40 for trial in verdict)
    assert all(result.primary_metric in trial.scores for trial in verdict)
    assert all(trial.ledger["trained_once"] == trial.ledger["expected"] == 40 * 32 for trial in verdict)
    assert all(trial.curve[-1].schedule_ended and trial.cost.samples == 40 * 32 for trial in verdict)
    assert all(trial.cost.attempts == 1 for trial in result.trials)
    assert {trial.objective for trial in verdict if trial.duplicate_caption_fraction is not None} == {"clip"}


def test_the_point_of_a_rung_comes_from_a_cooldown_off_the_replicate(outcome: CompareOutcome) -> None:
    result = outcome.result
    (trunk,) = (trial for trial in result.trials if trial.run.endswith("clip-r0") and trial.objective == "clip")
    for cooldown in (trial for trial in result.trials if trial.phase == "cooldown"):
        assert (cooldown.status, cooldown.step, cooldown.cost.samples) == ("finished", 20, 4 * 32)
        counts = {"expected": 20 * 32, "inherited": 16 * 32, "trained_once": 4 * 32, "missing": 0, "repeated": 0}
        assert cooldown.ledger | counts == cooldown.ledger
        (point,) = cooldown.curve
        assert point.schedule_ended
        assert point.samples == 20 * 32
        assert result.primary_metric in point.scores
    (cooldown,) = result.cooldowns_of(trunk)
    assert cooldown.settings == trunk.settings
    assert 0 < cooldown.curve[0].train_s < trunk.curve[-1].train_s
    store, plan, _ = open_run(trunk.run_uri, S3Spec())
    assert [one.record.step for one in list_stored(store)] == [40, 20, 16]
    client = mlflow.MlflowClient(result.tracking_uri)
    assert cooldown.mlflow_run_id is not None
    rates = client.get_metric_history(cooldown.mlflow_run_id, "train/learning_rate")
    shares = {rate.step: rate.value / plan.optimizer.learning_rate for rate in rates}
    assert shares == pytest.approx({18: 0.625, 20: 0.125})  # of a decay over four steps


def test_nothing_of_it_is_left_in_ray(outcome: CompareOutcome) -> None:
    assert outcome.status == "finished"
    boards = ray_processes(os.getpid(), "ray::Board")
    _, left = psutil.wait_procs(boards, timeout=30)
    assert left == []


def test_the_search_chooses_on_validation_rows_for_its_own_objective(outcome: CompareOutcome) -> None:
    result = outcome.result
    search = [trial for trial in result.trials if trial.phase == "search"]
    assert all(name.endswith("validation_quality") for trial in search for name in trial.scores)
    finished = [trial for trial in search if trial.status == "finished"]
    metric = result.plan["search_metric"]
    best = max(finished, key=lambda trial: trial.scores[metric])
    assert {entry.label: entry.chosen for entry in result.objectives} == {"clip": best.settings, "catlip": {}}
    assert all(trial.settings == best.settings for trial in result.trials if trial.run.endswith("clip-r0"))
    _, plan, _ = open_run(f"{outcome.folder}--clip-r0", S3Spec())
    assert plan.optimizer.learning_rate == best.settings["optimizer.learning_rate"]


def read_order(run_uri: str) -> Any:
    """The samples of a run, as its plan orders them."""
    _, plan, _ = open_run(run_uri, S3Spec())
    order = sample_order(plan, chunk_tables(load_indexes(plan)))
    assert order is not None
    return order.window_visits(0, plan.samples), order.shuffle.positions(0, plan.samples)


def test_a_replicate_shows_the_same_samples_in_the_same_order_to_all(outcome: CompareOutcome) -> None:
    of_clip, of_catlip = (read_order(trial.run_uri) for trial in outcome.result.trials if trial.phase == "verdict")
    for clip_samples, catlip_samples in zip(of_clip, of_catlip, strict=True):
        assert np.array_equal(clip_samples, catlip_samples)


def test_a_catlip_trial_is_named_by_its_synset_rows_and_measured_against_its_prior(outcome: CompareOutcome) -> None:
    (trial,) = (trial for trial in outcome.result.trials if trial.run.endswith("catlip-r0"))
    assert trial.mlflow_run_id is not None
    found = mlflow.MlflowClient(outcome.result.tracking_uri).get_run(trial.mlflow_run_id).data.metrics
    wanted = {"train/loss_over_prior", "train/positives_per_image", "train/precision_at_5", "train/all_zero_fraction"}
    assert wanted <= set(found)
    assert found["train/flops"] == pytest.approx(trial.curve[-1].flops)
    assert found["train/seconds"] == pytest.approx(trial.curve[-1].train_s)
    assert any("zero_shot" in name and "synset_rows" in name for name in found), sorted(found)


def test_runs_are_recorded_below_the_comparison_once(outcome: CompareOutcome) -> None:
    result = outcome.result
    client = mlflow.MlflowClient(result.tracking_uri)
    assert result.mlflow_run_id is not None
    parent = client.get_run(result.mlflow_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["comparison/clip/primary_mean"] == pytest.approx(sum(result.primary_scores("clip")))
    assert parent.data.tags["orchestrator.version"] == __version__
    inputs = {one.dataset.name: one.dataset.digest for one in parent.inputs.dataset_inputs}
    assert set(inputs) == {"train", "heldout", "scenes-eval"}
    below = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert sorted(run.info.run_name for run in below) == sorted(trial.run for trial in result.trials)
    assert {run.info.run_id for run in below} == {trial.mlflow_run_id for trial in result.trials}
    for run in below:
        assert run.data.tags["orchestrator.ray"] == ray.__version__
        assert inputs == {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}


def test_the_best_replicate_is_a_version_of_a_registered_model(outcome: CompareOutcome, place: ClusterSpec) -> None:
    result = outcome.result
    replicates = [trial for trial in result.trials if trial.phase == "verdict"]
    best = max(replicates, key=lambda trial: trial.scores[result.primary_metric])
    client = mlflow.MlflowClient(result.tracking_uri)
    alias = champion_alias(result.primary_metric)
    version = client.get_model_version_by_alias(result.name, alias)
    assert (version.run_id, version.tags["orchestrator.checkpoint"]) == (best.mlflow_run_id, best.checkpoint_uri)
    store, _, _ = open_run(best.run_uri, S3Spec())
    assert [info.path for info in store.list(PROMOTED)] == [f"promoted/{result.name}@{alias}.json"]


def test_the_same_file_again_runs_nothing(outcome: CompareOutcome, place: ClusterSpec) -> None:
    again = run_compare(compare_job(), place)
    assert again.status == "finished"
    assert again.result.trials == outcome.result.trials


@pytest.mark.full
def test_a_baseline_that_is_named_later_is_judged_as_the_replicates_were(
    outcome: CompareOutcome, place: ClusterSpec
) -> None:
    (trial,) = (trial for trial in outcome.result.trials if trial.run.endswith("catlip-r0"))
    again = run_compare(compare_job(f"baselines=[{trial.run}]"), place)
    assert again.status == "finished"
    assert again.result.trials == outcome.result.trials
    (row,) = again.result.baselines
    assert row.scores == pytest.approx(trial.scores), "the same weights, sets, splits and division of classes"


def test_another_plan_under_the_name_and_a_live_one_are_refused(outcome: CompareOutcome, place: ClusterSpec) -> None:
    with pytest.raises(RunConflictError, match=r"(?s)catlip: steps: 40 -> 60"):
        run_compare(compare_job("budget.steps=60"), place)
    with acquire_lease(open_store(outcome.folder), "elsewhere:7"), pytest.raises(RunHeldError, match="elsewhere:7"):
        run_compare(compare_job(), place)


def test_seconds_become_steps_by_runs_that_leave_nothing(place: ClusterSpec) -> None:
    overrides = ("name=timed", *PAIR, "replicates=1", "budget={train_seconds: 0.5}", "rungs=[]")
    job = load_job(str(SMOKE), list(overrides))
    assert isinstance(job, CompareSpec)
    timed = run_compare(job, place)
    assert timed.status == "finished"
    seconds = timed.result.plan["seconds_per_step"]
    steps = {trial.objective: trial.steps for trial in timed.result.trials}
    assert steps == {label: int(0.5 / seconds[label]) for label in ("clip", "catlip")}
    store = open_store(timed.folder)
    assert store.list("calibration") == ()
    client = mlflow.MlflowClient(timed.result.tracking_uri)
    experiment = client.get_experiment_by_name(job.experiment)
    assert experiment is not None
    runs = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert {name for name in runs if name.startswith("timed")} == {"timed", *(one.run for one in timed.result.trials)}
    again = run_compare(job, place)
    assert again.result.plan["seconds_per_step"] == seconds


def small_job(name: str, *overrides: str) -> CompareSpec:
    """Two objectives, one replicate of each, nothing searched."""
    job = load_job(str(SMOKE), [f"name={name}", *PAIR, "budget.steps=200", "run.checkpoint.every_steps=20", *overrides])
    assert isinstance(job, CompareSpec)
    return job


def check_gone_on(outcome: CompareOutcome, before: ComparisonResult) -> None:
    """Everything was trained once, in the same MLflow runs, and what was lost is counted."""
    assert outcome.status == "finished"
    for trial, earlier in zip(outcome.result.trials, before.trials, strict=True):
        assert trial.ledger["trained_once"] == trial.ledger["expected"] == 200 * 32
        assert earlier.mlflow_run_id in (None, trial.mlflow_run_id)
        assert trial.cost.samples >= 200 * 32
    assert max(trial.cost.attempts for trial in outcome.result.trials) == 2


@pytest.mark.full
def test_a_stop_writes_checkpoints_and_the_same_file_goes_on(place: ClusterSpec) -> None:
    asked = threading.Event()

    def stop_once(progress: Progress) -> None:
        if progress.unit == "steps" and progress.done >= 2 and not asked.is_set():
            asked.set()
            os.kill(os.getpid(), signal.SIGINT)

    stopped = run_compare(small_job("stopped"), place, on_progress=stop_once)
    assert stopped.status == "stopped"
    waiting = [trial for trial in stopped.result.trials if trial.status == "waiting"]
    assert any(0 < trial.step < 200 and "SIGINT at step" in trial.reason for trial in waiting)
    check_gone_on(run_compare(small_job("stopped"), place), stopped.result)


@pytest.mark.full
def test_a_killed_driver_s_comparison_goes_on(place: ClusterSpec, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(place.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-m", "orchestrator.cli.main", "run", str(SMOKE), "--cluster", str(tmp_path)]
    for override in ("name=killed", *PAIR, "budget.steps=200", "run.checkpoint.every_steps=20"):
        command += ["--set", override]
    folder = open_store(f"{place.storage.runs}/killed")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        wait_for(lambda: any(trial.checkpoint_uri for trial in read_trials(folder)), driver)
        driver.kill()
    before = load_comparison(folder)
    assert before is not None
    assert any(trial.status == "running" for trial in before.trials)
    folder.delete("lease.json")  # or wait for a minute, until the lease of the dead driver has ended
    check_gone_on(run_compare(small_job("killed"), place), before)


def read_trials(folder: Store) -> Sequence[TrialResult]:
    result = load_comparison(folder)
    return () if result is None else result.trials


def wait_for(is_there: Callable[[], bool], driver: "subprocess.Popen[bytes]") -> None:
    while not is_there():
        assert driver.poll() is None, "the driver ended before it could be killed"
        time.sleep(0.2)
