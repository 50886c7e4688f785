"""What a compare job cannot say: what is one objective's own, and what all of them share."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import JobFileError
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.load import load_job
from orchestrator.spec.search import DomainSpec, SearchSpec

JOB: dict[str, Any] = {
    "kind": "compare",
    "name": "which",
    "mode": "controlled",
    "run": {
        "data": {"kind": "shards", "train": "scenes/train"},
        "model": {"preset": "vit_tiny_64"},
        "batch": {"global_size": 256},
        "optimizer": {"learning_rate": 1e-3},
        "evaluation": {"sets": ["scenes/eval"]},
    },
    "objectives": [
        {"label": "clip", "objective": {"name": "clip"}},
        {"label": "catlip", "objective": {"name": "catlip"}, "overrides": {"optimizer.betas": [0.9, 0.999]}},
    ],
    "budget": {"samples": 10_000},
    "primary_metric": "eval/scenes-eval/linear_probe/all/mean_accuracy",
}


def load(tmp_path: Path, change: dict[str, Any]) -> CompareSpec:
    """The job with values by dotted key; numbers are places in a list."""
    document = copy.deepcopy(JOB)
    for key, value in change.items():
        *above, last = key.split(".")
        node: Any = document
        for part in above:
            node = node[int(part) if part.isdigit() else part]
        node[int(last) if last.isdigit() else last] = value
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    job = load_job(str(file))
    assert isinstance(job, CompareSpec)
    return job


def test_a_comparison_loads_with_three_replicates(tmp_path: Path) -> None:
    job = load(tmp_path, {})
    assert job.seeds == (0, 1, 2)
    assert job.search_seed == 3
    assert load(tmp_path, {"replicates": [5, 9]}).search_seed == 10


SIGLIP = {"label": "siglip", "objective": {"name": "siglip", "towers": "clip"}}
RANGE = {"log_uniform": [1e-4, 1e-2]}
MANY = {"choice": [number / 1000 for number in range(1, 41)]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"objectives.0.overrides": {"schedule.warmup_fraction": 0.1}}, r"warmup_fraction is the same .*recipe"),
        (
            {"objectives.0.search": {"batch.global_size": {"choice": [64, 128]}}, "search": {"trials": 2}},
            "mode: recipe",
        ),
        ({"objectives.0.overrides": {"seed.data": 7}, "mode": "recipe"}, r"seed.data is the same for all"),
        (
            {"objectives.0.search": {"budget.steps": {"choice": [1, 2]}}, "search": {"trials": 2}, "mode": "recipe"},
            r"'clip': budget.steps is the same for all objectives",
        ),
        ({"objectives.0.overrides": {"data.train": "other"}, "mode": "recipe"}, r"data.train is the same for all"),
        ({"objectives.0.overrides": {"evaluation.sets": []}, "mode": "recipe"}, r"evaluation.sets is the same for all"),
        ({"objectives.0.overrides": {"objective.name": "siglip"}}, r"objective.name is the same for all"),
        ({"objectives.0.overrides": {"optimizer.learning_rate": -1}}, r"learning_rate: .*greater than 0 \(given: -1\)"),
        ({"objectives.0.overrides": {"objective.sclae": 1}}, r"'clip': objective.sclae"),
        (
            {"objectives.0.search": {"optimizer.learning_rate": {"uniform": [-1, 1]}}, "search": {"trials": 2}},
            r"learning_rate: .*greater than 0 \(given: -1.0\)",
        ),
        (
            {"objectives.0.search": {"optimizer.learning_rate": {"log_uniform": [0, 1]}}, "search": {"trials": 2}},
            "above 0",
        ),
        (
            {
                "objectives.1.search": {"objective.min_count": {"uniform": [2, 20]}},
                "search": {"trials": 2},
            },
            r"'catlip': objective.min_count: .*integer.* list what such a key takes as 'choice'",
        ),
        (
            {
                "objectives.0.search": {"optimizer.learning_rate": MANY, "optimizer.weight_decay": MANY},
                "search": {"algorithm": "grid"},
                "mode": "recipe",
            },
            r"'clip': the choices of .*learning_rate, .*weight_decay combine to 1,600 trials; wanted at most 1,000",
        ),
        ({"objectives.0.search": {"optimizer.learning_rate": RANGE}}, r"add search.trials"),
        ({"search": {"trials": 2}}, r"no objective has a search space"),
        (
            {"objectives.0.search": {"optimizer.learning_rate": RANGE}, "search": {"algorithm": "grid"}},
            "a grid needs choices",
        ),
        (
            {
                "objectives.0.search": {"optimizer.learning_rate": {"choice": [1e-3, 1e-4]}},
                "objectives.1.search": {"optimizer.learning_rate": {"choice": [1e-3, 1e-4, 1e-5]}},
                "search": {"algorithm": "grid"},
            },
            r"as many search trials .*clip 2, catlip 3",
        ),
        (
            {"objectives.1.search": {"optimizer.betas": {"choice": [[0.9, 0.9], [0.8, 0.9]]}}, "search": {"trials": 2}},
            r"both overrides and searches optimizer.betas",
        ),
        ({"objectives.1.label": "clip"}, r"labels clip, clip; wanted each once"),
        ({"objectives.0.objective": {"name": "siglip"}}, r"objective.towers: clip"),
        ({"objectives.1.objective": {"name": "catlip", "no_concept": "resample"}}, r"no_concept: keep"),
        (
            {"objectives.0": {**SIGLIP, "overrides": {"objective.towers": "siglip"}}},
            r"'siglip': towers 'siglip' are .*objective.towers: clip",
        ),
        (
            {
                "objectives.0": {**SIGLIP, "search": {"objective.towers": {"choice": ["clip", "siglip"]}}},
                "search": {"algorithm": "grid"},
            },
            r"'siglip': towers 'siglip' are .*objective.towers: clip",
        ),
        (
            {
                "objectives.1.objective": {"name": "catlip", "labels": "stored"},
                "objectives.1.search": {"objective.no_concept": {"choice": ["keep", "drop"]}},
                "search": {"algorithm": "grid"},
            },
            r"'catlip': no_concept 'drop' trains on other samples .*no_concept: keep",
        ),
        ({"replicates": [1, 1]}, r"each once"),
        ({"weights": "ema"}, r"add run.ema.decay"),
        ({"rungs": [0.5, 0.25]}, r"rungs are \[0.5, 0.25\]; wanted rising shares"),
        ({"rungs": [1.0]}, r"less than 1"),
        (
            {"rungs": [0.5], "run.schedule": {"kind": "constant"}},
            r"schedule.kind is 'constant', but the cooldowns of 'rungs' branch off .*rungs: \[\] for none",
        ),
        (
            {"rungs": [0.5], "mode": "recipe", "objectives.1.overrides": {"schedule.kind": "cosine"}},
            r"'catlip': schedule.kind is 'cosine'",
        ),
        (
            {
                "objectives.0.search": {"schedule.decay_fraction": {"choice": [0.1, 0.2]}},
                "search": {"trials": 2, "scheduler": "median"},
                "mode": "recipe",
            },
            r"'clip' searches schedule.decay_fraction, but 'rungs' fixes where cooldowns begin",
        ),
        ({"budget": {"steps": 5, "flops": 1e9}}, r"wanted exactly one of .*flops; given: \['steps', 'flops'\]"),
    ],
)
def test_what_is_not_fair_or_not_possible_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(JobFileError, match=said):
        load(tmp_path, change)


def test_what_keys_say_together_is_told_without_the_file_around_it(tmp_path: Path) -> None:
    with pytest.raises(JobFileError) as caught:
        load(tmp_path, {"weights": "ema"})
    file = tmp_path / "job.yaml"
    assert str(caught.value) == (
        f"{file}: weights is 'ema', but run.ema is not given; add run.ema.decay, or set weights: raw"
    )


def test_a_list_is_not_called_too_short_for_a_mistake_in_an_item(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"^.*objectives\[0\].objective: 'clp' is none of .*'clip'\?$"):
        load(tmp_path, {"objectives.0.objective": {"name": "clp"}})
    with pytest.raises(JobFileError, match=r"objectives: .* at least 2 items"):
        load(tmp_path, {"objectives": JOB["objectives"][:1]})


def test_a_misspelt_key_of_the_shared_block_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"run.batch.global_sise: unknown key .*did you mean 'global_size'"):
        load(tmp_path, {"run.batch": {"global_sise": 3}})


def test_what_is_searched_is_a_function_of_the_seed() -> None:
    space = {"a": DomainSpec(log_uniform=(1e-4, 1e-2)), "b": DomainSpec(choice=(1, 2, 3))}
    search = SearchSpec(trials=50, seed=4)
    tried = search.settings(space, "clip")
    assert tried == search.settings(space, "clip") != SearchSpec(trials=50, seed=5).settings(space, "clip")
    assert tried != search.settings(space, "siglip"), "objectives draw apart"
    assert all(1e-4 <= one["a"] <= 1e-2 for one in tried)
    assert sum(one["a"] < 1e-3 for one in tried) == pytest.approx(25, abs=10), "each decade is as likely"
    assert {one["b"] for one in tried} == {1, 2, 3}


def test_a_grid_is_every_combination() -> None:
    space = {"a": DomainSpec(choice=(1, 2)), "b": DomainSpec(choice=("x", "y"))}
    search = SearchSpec(algorithm="grid")
    assert search.num_trials(space) == 4
    assert [tuple(one.values()) for one in search.settings(space, "")] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_a_uniform_draw_stays_within_its_ends() -> None:
    draws = random.Random(0)
    values = [DomainSpec(uniform=(2, 3)).draw(draws) for _ in range(100)]
    assert all(2 <= value <= 3 for value in values)
    assert max(values) - min(values) > 0.8


def test_a_controlled_comparison_asks_for_what_is_trained_not_for_how_it_is_said(tmp_path: Path) -> None:
    said = {"label": "siglip", "objective": {"name": "siglip"}, "overrides": {"objective.towers": "clip"}}
    assert load(tmp_path, {"objectives.0": said}).objectives[0].overrides == {"objective.towers": "clip"}
