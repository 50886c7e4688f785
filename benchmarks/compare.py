"""What running trials side by side costs: wall time of a comparison over its trials' training time, divided by how many
run at once.

Six trials (three objectives, two replicates) on scenes that are rendered first. Training time is what trials report:
steps and waits for data; so start-up, checkpoints, evaluation and idle shares are what is above 1.
Usage: python benchmarks/compare.py [--samples 10000] [--model vit_tiny_64] [--workers 2]
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from orchestrator.env import apply_quiet_env

apply_quiet_env()
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from orchestrator.data.scenes.write import write_scenes
from orchestrator.runs.compare import CompareOutcome, run_compare
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.load import load_job

JOB = Path(__file__).parents[1] / "jobs" / "compare-scenes.yaml"


def load(model: str, samples: int) -> CompareSpec:
    overrides = [
        "replicates=2",
        f"run.model.preset={model}",
        f"budget.samples={samples}",
        "run.evaluation.max_samples=300",
    ]
    job = load_job(str(JOB), overrides)
    assert isinstance(job, CompareSpec)
    return job


def report(outcome: CompareOutcome, wall_s: float) -> dict[str, object]:
    trials, at_once = outcome.result.trials, outcome.result.plan["share"]["at_once"]
    train_s = sum(trial.cost.step_s + trial.cost.data_wait_s for trial in trials)
    return {
        "status": outcome.status,
        "at_once": at_once,
        "wall_s": wall_s,
        "train_s": train_s,
        "evaluation_s": sum(trial.cost.evaluation_s for trial in trials),
        "evaluation_share": max(trial.cost.evaluation_s / trial.cost.wall_s for trial in trials),
        "wall_of_trials_s": sum(trial.cost.wall_s for trial in trials),
        "ratio": wall_s / (train_s / at_once),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--model", default="vit_tiny_64")
    parser.add_argument("--workers", type=int, default=2)
    setting = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scenes(str(root / "data" / "scenes"), num_train=4000, num_eval=600, seed=0)
        cluster = ClusterSpec.model_validate(
            {
                "name": "here",
                "workers": {"count": setting.workers, "accelerator": "cpu"},
                "storage": {"data": (root / "data").as_uri(), "runs": (root / "runs").as_uri()},
            }
        )
        started_s = time.monotonic()
        outcome = run_compare(load(setting.model, setting.samples), cluster)
        print(json.dumps({"setting": vars(setting), **report(outcome, time.monotonic() - started_s)}, indent=1))


if __name__ == "__main__":
    main()
