"""Checkpoints are averaged into ordinary ones: exact means, choices by what evaluation finds, refusals by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel
from typer.testing import CliRunner

from foreign import save_clip, small_clip
from orchestrator.cli.main import app
from orchestrator.data.scenes.write import write_scenes
from orchestrator.data.tokens import CaptionTokenizer
from orchestrator.errors import ModelSourceError, RunNotFoundError
from orchestrator.runs.average import average_runs, find_parents
from orchestrator.runs.evaluate import evaluate_run
from orchestrator.runs.export import export_run
from orchestrator.runs.folder import open_run
from orchestrator.runs.import_weights import import_weights
from orchestrator.runs.made import write_made_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.targets import TARGETS_FILE
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import open_store
from orchestrator.training.average import Shares, best_trial, greedy_soup, interpolate, mean_tensors
from orchestrator.training.checkpoint_folders import StoredCheckpoint, find_stored, list_stored
from orchestrator.training.made_checkpoint import open_tensors, write_checkpoint
from orchestrator.training.stored_tensors import load_weights

ZERO_SHOT = EvaluationSpec(sets=("scenes/eval",), probes=("zero_shot",))
Weights = dict[str, torch.Tensor]


def stored_in(uri: str) -> StoredCheckpoint:
    stored = find_stored(open_store(uri))
    assert stored is not None
    return stored


def weights_in(uri: str) -> Weights:
    return load_weights(open_store(uri), stored_in(uri), average=False)


def write_noise(folder: Path, seed: int) -> tuple[LocalStore, StoredCheckpoint, Weights]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"a.weight": torch.randn(3, 4, generator=generator), "scale": torch.randn(1, generator=generator)}
    store = LocalStore(str(folder))
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_checkpoint(store, 7, {}, shapes, tensors.items())
    return store, stored_in(str(folder)), tensors


def test_what_is_written_tensor_by_tensor_is_read_as_any_checkpoint(tmp_path: Path) -> None:
    store, stored, tensors = write_noise(tmp_path, seed=0)
    assert (stored.record.step, stored.record.engine.ema_updates) == (7, None)
    for name, tensor in load_weights(store, stored, average=False).items():
        assert torch.equal(tensor, tensors[name])
    with open_tensors(store, stored, average=False) as opened:
        assert torch.equal(opened.read("a.weight"), tensors["a.weight"])


def test_a_mean_is_that_of_the_shares_and_one_parent_alone_is_exact(tmp_path: Path) -> None:
    first, second = (write_noise(tmp_path / str(seed), seed) for seed in (1, 2))
    with open_tensors(*first[:2], average=False) as one, open_tensors(*second[:2], average=False) as two:
        mean = dict(mean_tensors([one, two], (0.25, 0.75)))
        alone = dict(mean_tensors([one, two], (0.0, 1.0)))
        twice = dict(mean_tensors([one, one], (0.5, 0.5)))
    for name in mean:
        expected = 0.25 * first[2][name].double() + 0.75 * second[2][name].double()
        assert torch.equal(mean[name], expected.float())
        assert torch.equal(alone[name], second[2][name])
        assert torch.equal(twice[name], first[2][name])


def score_of(scores: dict[Shares, float]) -> Callable[[Shares], float]:
    return lambda shares: scores[tuple(round(share, 3) for share in shares)]


def test_a_greedy_soup_takes_what_makes_it_no_worse() -> None:
    alone = {(1.0, 0.0, 0.0): 0.5, (0.0, 1.0, 0.0): 0.7, (0.0, 0.0, 1.0): 0.6}
    pairs = {(0.0, 0.5, 0.5): 0.65, (0.5, 0.5, 0.0): 0.8}
    trials = greedy_soup(3, score_of(alone | pairs))
    assert [trial.score for trial in trials] == [0.5, 0.7, 0.6, 0.65, 0.8]
    assert best_trial(trials).shares == (0.5, 0.5, 0.0)
    equal = dict.fromkeys([(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)], 0.5)
    assert best_trial(greedy_soup(2, score_of(equal))).shares == (0.5, 0.5)


def test_interpolation_goes_from_the_first_to_the_second() -> None:
    trials = interpolate([0.0, 0.5, 1.0], lambda shares: shares[0] * shares[1])
    assert [trial.shares for trial in trials] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    assert best_trial(trials).shares == (0.5, 0.5)


@pytest.fixture(scope="module")
def judged(
    cluster: ClusterSpec, tokenizer: CaptionTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """Two runs of one architecture, and an evaluation set below the cluster's data."""
    data = Path(cluster.storage.data.removeprefix("file://")) / "scenes"
    write_scenes(str(data), num_train=8, num_eval=60, seed=0, samples_per_shard=60)
    targets = json.loads((data / "eval" / TARGETS_FILE).read_text())
    one = {"targets": {"shape": targets["targets"]["shape"]}}  # one question is enough
    (data / "eval" / TARGETS_FILE).write_text(json.dumps(one))
    uris = []
    for seed in (0, 1):
        folder = save_clip(small_clip(tokenizer, seed=seed), tokenizer, tmp_path_factory.mktemp("parent"))
        made = import_weights(str(folder), f"parent-{seed}", cluster, evaluation_sets=["scenes/eval"])
        uris.append(made.plan.run_uri)
    return uris[0], uris[1]


def test_a_uniform_mean_is_an_ordinary_checkpoint_that_names_its_parents(
    cluster: ClusterSpec, judged: tuple[str, str], tmp_path: Path
) -> None:
    made = average_runs(find_parents(judged, cluster), "mean", cluster)
    uri = made.plan.run_uri
    one, two = (weights_in(parent) for parent in judged)
    for name, tensor in weights_in(uri).items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2)
    parents = stored_in(uri).record.state["parents"]
    assert [parent["uri"] for parent in parents] == [stored_in(parent).record.uri for parent in judged]
    assert [parent["share"] for parent in parents] == [0.5, 0.5]
    assert made.plan.origin is not None
    assert all(parent["uri"] in made.plan.origin for parent in parents)
    assert {result.set for result in evaluate_run(uri, cluster, evaluation=ZERO_SHOT)} == {"scenes-eval"}
    export_run(uri, str(tmp_path / "export"), cluster)
    exported = CLIPModel.from_pretrained(tmp_path / "export").visual_projection.weight
    assert torch.equal(exported, weights_in(uri)["vision.visual_projection.weight"])


def test_wise_ft_is_judged_at_each_alpha_and_the_best_is_written(cluster: ClusterSpec, judged: tuple[str, str]) -> None:
    parents = find_parents(judged, cluster)
    made = average_runs(parents, "between", cluster, method="wise_ft", alphas=[0.0, 0.5, 1.0])
    assert [trial.shares for trial in made.trials] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    assert max(trial.score for trial in made.trials) == best_trial(made.trials).score
    assert made.shares == best_trial(made.trials).shares
    ends = [weights_in(parent) for parent in judged]
    for name, tensor in weights_in(made.plan.run_uri).items():
        expected = sum(share * end[name].double() for share, end in zip(made.shares, ends, strict=True))
        assert torch.equal(tensor, expected.float())
    recorded = stored_in(made.plan.run_uri).record.state
    assert recorded["method"] == "wise_ft"
    assert [trial["score"] for trial in recorded["trials"]] == [trial.score for trial in made.trials]


def test_the_last_checkpoints_of_a_run_are_averaged(cluster: ClusterSpec, judged: tuple[str, str]) -> None:
    _, plan, _ = open_run(judged[0], cluster.storage.s3)
    weights = weights_in(judged[0])
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    uri = judged[0].replace("parent-0", "several")
    several = plan.model_copy(update={"name": "several", "run_uri": uri})
    made_in = open_store(uri)
    write_made_run(made_in, several, 3, {}, shapes, weights.items())
    for step, factor in ((1, 0.0), (5, 2.0)):
        write_checkpoint(made_in, step, {}, shapes, ((name, factor * tensor) for name, tensor in weights.items()))
    assert [stored.record.step for stored in list_stored(made_in)] == [5, 3, 1]
    made = average_runs(find_parents([uri], cluster, last=2), "last-two", cluster)
    assert stored_in(made.plan.run_uri).record.step == 5
    for name, tensor in weights_in(made.plan.run_uri).items():
        torch.testing.assert_close(tensor, 1.5 * weights[name])
    (first, second) = find_parents([f"{uri}@1", f"{uri}@5"], cluster)
    assert (first.stored.record.step, second.stored.record.step) == (1, 5)
    with pytest.raises(RunNotFoundError, match=r"at steps 5, 3, 1; wanted 4"):
        find_parents([uri], cluster, last=4)
    with pytest.raises(RunNotFoundError, match=r"wanted one at step 2"):
        find_parents([f"{uri}@2", uri], cluster)


def test_another_architecture_is_refused_by_what_differs(
    cluster: ClusterSpec, judged: tuple[str, str], tokenizer: CaptionTokenizer, tmp_path: Path
) -> None:
    folder = save_clip(small_clip(tokenizer, "quick_gelu"), tokenizer, tmp_path / "other")
    other = import_weights(str(folder), "other-activation", cluster).plan.run_uri
    with pytest.raises(ModelSourceError, match=r"another model than .*parent-0.*model\.variant: 'clip' -> 'openai'"):
        find_parents([judged[0], other], cluster)
    with pytest.raises(ModelSourceError, match=r"is its own mean"):
        find_parents([judged[0]], cluster)


def test_the_command_says_what_it_took(cluster: ClusterSpec, judged: tuple[str, str], tmp_path: Path) -> None:
    storage = f"{{data: '{cluster.storage.data}', runs: '{cluster.storage.runs}'}}"
    (tmp_path / "cluster.yaml").write_text(f"name: here\nworkers: {{count: 1, accelerator: cpu}}\nstorage: {storage}\n")
    command = ["average", "parent-0", "parent-1", "--name", "by-command", "--cluster", str(tmp_path)]
    shown = CliRunner().invoke(app, [*command, "--method", "greedy"])
    assert shown.exit_code == 0, shown.output
    assert "by-command: greedy average" in shown.output
    assert "accuracy" in shown.output
    wrong = CliRunner().invoke(app, [*command, "--method", "wise_ft", "--alphas", "0,2"])
    assert wrong.exit_code == 2
    assert "wanted numbers from 0 to 1" in wrong.output
