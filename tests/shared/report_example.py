"""A comparison as a driver leaves it, over real test images: three objectives, a search, a baseline."""

from pathlib import Path

import numpy as np

from orchestrator.data.evaluation_set import read_evaluation_rows
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.scenes.write import write_scenes
from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.evaluation.comparison import (
    COMPARISON_FILE,
    ComparisonResult,
    CurvePoint,
    ObjectiveEntry,
    TrialCost,
    TrialResult,
)
from orchestrator.evaluation.predictions import write_predictions
from orchestrator.evaluation.results import EMBEDDING, POOLED, Nearest, Predictions, ProbeResult, summarise
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import Facts, FinderFacts, MachineFacts, VocabularyFacts
from orchestrator.spec.load import load_cluster, load_job
from orchestrator.spec.plan import PLAN_FILE
from orchestrator.spec.resolve import resolve_plan
from orchestrator.spec.targets import TARGETS_FILE, TargetSpec, load_targets
from orchestrator.storage.store import open_store
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_noun_table
from orchestrator.wordnet.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
METRIC = "eval/scenes-eval/linear_probe/all/mean_accuracy"
KNOWN_SHAPES = ("cube", "sphere", "torus")
_SKILL = {"clip": 1.5, "siglip": 1.4, "catlip": 0.8}
_STEPS, _BATCH = 600, 64


def write_example(folder: Path, num_rows: int = 40, num_replicates: int = 3, **fields: object) -> str:
    """Write scenes, runs and ``comparison.json`` below ``folder``; returns the comparison's URI."""
    write_scenes(str(folder / "scenes"), 1, num_rows, 0, annotate=False, num_processes=1)
    scenes = open_store(str(folder / "scenes" / "eval"))
    index = index_dataset(scenes)
    save_index(scenes, index)
    asked = load_targets(scenes.read_bytes(TARGETS_FILE))
    targets = {name: target for name, target in asked.items() if not target.multi_label}
    rng = np.random.default_rng(0)
    rows = list(read_evaluation_rows(scenes, index, 8))
    labels = {
        name: np.array([target.classes.index(str(row.targets[name])) for row in rows])
        for name, target in targets.items()
    }
    hardness = {name: rng.normal(0, 1.2, num_rows) for name in targets}
    trials = [
        _replicate(folder, label, number, targets, labels, hardness, rng)
        for label in _SKILL
        for number in range(num_replicates)
    ]
    searched = [
        TrialResult(
            objective=label,
            phase="search",
            replicate=0,
            settings={"optimizer.learning_rate": rate},
            run=f"example-{label}-search-{number}",
            run_uri=str(folder / f"example-{label}-search-{number}"),
            status="finished" if number else "stopped",
            reason="" if number else "below the median of its rung",
            steps=_STEPS,
            step=_STEPS if number else 200,
            scores={METRIC: 0.4 + 0.05 * number},
            cost=_cost(rng, 0.3 + number),
        )
        for label in ("clip", "siglip")
        for number, rate in enumerate((1e-4, 1e-3))
    ]
    values = {
        "name": "scenes-clip-siglip-catlip",
        "mode": "controlled",
        "primary_metric": METRIC,
        "budget": "38,400 samples",
        "objectives": (
            ObjectiveEntry(label="clip", tuned=True, num_search_trials=2, chosen={"optimizer.learning_rate": 1e-3}),
            ObjectiveEntry(label="siglip", tuned=True, num_search_trials=2, chosen={"optimizer.learning_rate": 1e-3}),
            ObjectiveEntry(label="catlip", tuned=False, prepared={"concepts.parquet": 6.4}),
        ),
        "trials": (*trials, *searched, *(_cooldown(trial, rng) for trial in trials)),
        "mlflow_run_id": None,
        "tracking_uri": "http://mlflow.example:5000",
        "plan": {"budget": {"samples": 38400}, "steps": _STEPS, "replicates": list(range(num_replicates))},
        "baselines": (
            trials[0].model_copy(update={"objective": "openai-vit-b32", "scores": {METRIC: 0.71}}),
            trials[0].model_copy(update={"objective": "moved", "scores": {}, "status": "failed", "reason": "it moved"}),
        ),
    }
    result = ComparisonResult(**{**values, **fields})
    comparison = open_store(str(folder / "comparison"))
    comparison.write_bytes(COMPARISON_FILE, result.model_dump_json(indent=1).encode())
    return comparison.uri


def _replicate(
    folder: Path,
    label: str,
    number: int,
    targets: dict[str, TargetSpec],
    labels: dict[str, np.ndarray],
    hardness: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> TrialResult:
    run = f"example-{label}-{number}"
    skill = _SKILL[label] + rng.normal(0, 0.05)
    points = []
    for share in (0.25, 0.5, 0.75, 1.0):
        results = [
            _result(name, target, labels[name], hardness[name], skill * share**0.35, rng)
            for name, target in targets.items()
        ]
        scores = {name: value for one in results for name, value in one.metrics().items()} | summarise(results)
        points.append(
            CurvePoint(
                step=int(_STEPS * share),
                samples=int(_STEPS * share) * _BATCH,
                train_s=(70 if label == "catlip" else 82) * share,
                flops=1.6e13 * share * (0.62 if label == "catlip" else 1),
                scores=scores,
                schedule_ended=share == 1.0,
            )
        )
    store = open_store(str(folder / run))
    write_predictions(store, _STEPS, "raw", [*results, *_nearest(label, len(hardness["shape"]))])
    store.write_bytes(PLAN_FILE, _plan(folder, with_vocabulary=label == "catlip").encode())
    return TrialResult(
        objective=label,
        phase="verdict",
        replicate=number,
        run=run,
        run_uri=store.uri,
        mlflow_run_id=f"{label}{number}",
        checkpoint_uri=f"{store.uri}/checkpoints/step-{_STEPS:08d}",
        status="finished",
        steps=_STEPS,
        step=_STEPS,
        cost=_cost(rng, 0.85 if label == "catlip" else 1.0),
        scores=scores,
        curve=tuple(points),
        duplicate_caption_fraction=None if label == "catlip" else 0.034,
        ledger={"expected": _STEPS * _BATCH, "trained_once": _STEPS * _BATCH - 3, "skipped": 3, "substituted": 3},
    )


def _cooldown(replicate: TrialResult, rng: np.random.Generator) -> TrialResult:
    """Of half the budget; a little better than the replicate there."""
    (before,) = (point for point in replicate.curve if point.step == _STEPS // 2)
    scores = {**before.scores, METRIC: before.scores[METRIC] + 0.01}
    return replicate.model_copy(
        update={
            "phase": "cooldown",
            "run": f"{replicate.run}-cooldown-{before.step}",
            "steps": before.step,
            "step": before.step,
            "cost": _cost(rng, 0.1),
            "scores": scores,
            "curve": (before.model_copy(update={"scores": scores, "schedule_ended": True}),),
            "ledger": {"expected": before.samples, "inherited": before.samples * 4 // 5},
        }
    )


def _result(
    name: str, target: TargetSpec, label_N: np.ndarray, hardness_N: np.ndarray, skill: float, rng: np.random.Generator
) -> ProbeResult:
    right_N = rng.random(len(label_N)) < 1 / (1 + np.exp(hardness_N - skill))
    wrong_N = (label_N + rng.integers(1, len(target.classes), len(label_N))) % len(target.classes)
    predicted_N = np.where(right_N, label_N, wrong_N)
    hit_N = predicted_N == label_N
    known_K = np.array([label in KNOWN_SHAPES for label in target.classes])
    parts = {"": np.full(len(label_N), True)}
    if known_K.any():
        parts |= {"_in_vocabulary": known_K[label_N], "_outside_vocabulary": ~known_K[label_N]}
    accuracies = {part: float(hit_N[within_N].mean()) for part, within_N in parts.items()}
    return ProbeResult(
        "scenes-eval",
        "linear_probe",
        name,
        POOLED,
        target.named_in_captions,
        len(target.classes),
        scores={f"accuracy{part}": Estimate(value, value - 0.03, value + 0.03) for part, value in accuracies.items()},
        predictions=Predictions(list(range(len(label_N))), label_N.tolist(), predicted_N.tolist()),
    )


def _nearest(label: str, num_rows: int) -> list[ProbeResult]:
    """The image behind each row; of clip its own caption, of siglip that of the row behind it, of catlip none."""
    rows = list(range(num_rows))
    following = [*rows[1:], 0]
    found = [("nearest_neighbours", "shape", POOLED, Nearest(rows, following, [-1] * num_rows))]
    if label != "catlip":
        captions = Nearest(rows, rows if label == "clip" else following, [0] * num_rows)
        found.append(("retrieval", "image_to_text", EMBEDDING, captions))
    return [
        ProbeResult("scenes-eval", probe, target, feature, True, num_rows, nearest=nearest)
        for probe, target, feature, nearest in found
    ]


def _cost(rng: np.random.Generator, scale: float) -> TrialCost:
    step_s, wait_s = 70 * scale + rng.normal(0, 1), 9 + rng.normal(0, 0.5)
    return TrialCost(
        wall_s=step_s + wait_s + 31,
        step_s=step_s,
        data_wait_s=wait_s,
        evaluation_s=7.5,
        device_s=2 * (step_s + wait_s),
        flops=1.6e13 * scale,
        samples=_STEPS * _BATCH,
        samples_per_s=_STEPS * _BATCH / (step_s + wait_s),
        attempts=1,
    )


def _plan(folder: Path, with_vocabulary: bool) -> str:
    facts = Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="pillow 13.0.0"))
    plan = resolve_plan(
        load_job(str(ROOT / "jobs/smoke/synthetic.yaml")), load_cluster(str(ROOT / "cluster/laptop")), facts
    )
    update = {
        "evaluation": EvaluationSpec(sets=("scenes/eval",)),
        "evaluation_uris": (str(folder / "scenes" / "eval"),),
    }
    if with_vocabulary:
        update["model"] = plan.model.model_copy(update={"vocabulary": _write_vocabulary(folder)})
    return plan.model_copy(update=update).model_dump_json()


def _write_vocabulary(folder: Path) -> VocabularyFacts:
    """Of three shapes."""
    finder, table = packaged_finder(), load_noun_table()
    offsets = tuple(table.synsets(word)[0] for word in KNOWN_SHAPES)
    vocabulary = Vocabulary(offsets, (3, 2, 1), 100, 1, finder.version)
    (folder / "concepts.parquet").write_bytes(vocabulary.to_bytes(table))
    facts = FinderFacts(mode="corenet", noun_table=None, tagger=None)
    return VocabularyFacts(uri=str(folder / "concepts.parquet"), digest=vocabulary.digest, size=3, finder=facts)
