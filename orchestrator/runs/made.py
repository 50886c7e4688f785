"""Runs that were not trained: weights that were imported or averaged, in a run's folder like any other's.

Their plan says where they come from (``origin``); evaluating, exporting, averaging and starting from them works as
with any run, going on with training does not.
"""

import json
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from orchestrator.env import holder_name
from orchestrator.errors import RunConflictError
from orchestrator.runs.code_version import code_tags
from orchestrator.runs.folder import claim_run, tracking_folder
from orchestrator.runs.target import run_target
from orchestrator.spec.plan import Plan
from orchestrator.storage.lease import acquire_lease
from orchestrator.storage.store import Store
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.tracker import RunStatus, flat_params
from orchestrator.training.checkpoint_folders import CheckpointRecord, find_checkpoint
from orchestrator.training.made_checkpoint import Shapes, write_checkpoint


def write_made_run(
    store: Store, plan: Plan, step: int, state: dict[str, Any], shapes: Shapes, tensors: Iterable[tuple[str, Tensor]]
) -> CheckpointRecord:
    """Claim the run's folder, write its one checkpoint, and record both.

    Raises:
        RunConflictError: the name is taken.
        RunHeldError: another process works on a run of that name.
    """
    check_free(store, plan.name)
    with acquire_lease(store, holder_name()):
        key = claim_run(store, plan)
        tracker = open_tracker(run_target(plan, key), tracking_folder(plan.run_uri, key), "driver", owns_run=True)
        try:
            tracker.set_tags(code_tags())
            tracker.log_params(flat_params(plan.model_dump(mode="json")))
            tracker.log_text("plan.json", plan.model_dump_json(indent=2))
            tracker.log_text("origin.json", json.dumps(state, indent=2))
            record = write_checkpoint(store, step, state, shapes, tensors)
            tracker.log_checkpoint(record.uri, step, {})
            tracker.finish(RunStatus.FINISHED, plan.origin or "")
        finally:
            tracker.close()
    return record


def check_free(store: Store, name: str) -> None:
    """Raises RunConflictError where a run of that name has a checkpoint."""
    if (there := find_checkpoint(store)) is not None:
        raise RunConflictError(f"run '{name}' is there already ({there.uri}); choose another --name")
