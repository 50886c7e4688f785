"""A run's folder: its plan, its key, and the local place of its journal.

plan.json            the Plan of the last start
run.json             the run's key, made once: under it MLflow finds the same run again
lease.json           who holds the run (storage/lease.py)
promoted/            steps that have an alias in the model registry (training/checkpoint_folders.py)
predictions/         what each test row got, by step and weights (evaluation/predictions.py)
checkpoints/         step-NNNNNNNN/ with their complete markers (training/checkpoint.py)
tracking/            journal of what MLflow gets (below the user's state folder when the run lies in a bucket)
"""

import json
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path

from orchestrator.env import state_folder, temporary_state_folder
from orchestrator.errors import RunConflictError, RunNotFoundError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.load import local_path
from orchestrator.spec.plan import PLAN_FILE, Plan, load_plan
from orchestrator.spec.plan_differences import compare_plans
from orchestrator.storage.store import ObjectNotFoundError, Store, open_store
from orchestrator.training.checkpoint_folders import find_checkpoint

logger = logging.getLogger(__name__)

KEY_FILE = "run.json"
_OF_LENGTH = ("steps: ", "schedule: ", "model.resolutions: {")  # with phases that end at shares of it


def claim_run(store: Store, plan: Plan) -> str:
    """Make the run's folder this plan's, and return the run's key. The caller holds the lease.

    Raises:
        RunConflictError: the folder belongs to a plan of another identity; says what differs.
    """
    check_claim(store, plan)
    store.write_bytes(PLAN_FILE, plan.model_dump_json(indent=2).encode())
    if _read(store, KEY_FILE) is None:
        store.create_bytes(KEY_FILE, json.dumps({"key": secrets.token_hex(8)}).encode())
    return str(json.loads(store.read_bytes(KEY_FILE))["key"])


def check_claim(store: Store, plan: Plan) -> None:
    """Whether the run's folder is free or this plan's; writes nothing.

    Raises:
        RunConflictError: it belongs to a plan of another identity; says what differs.
    """
    before = _read(store, PLAN_FILE)
    if before is None:
        return
    theirs = load_plan(before.decode(), f"{store.uri}/{PLAN_FILE}")
    differences = compare_plans(plan, theirs)
    if differences:
        raise RunConflictError(
            f"run '{plan.name}' in {store.uri} belongs to another plan; its values -> yours:\n  "
            + "\n  ".join(differences)
            + "\nuse another name (--set name=...), or restore these values to go on with it"
            + _way_on(store, plan, differences)
        )


def _way_on(store: Store, plan: Plan, differences: Sequence[str]) -> str:
    """Who only wants another length need not begin anew."""
    last = find_checkpoint(store)
    is_length = all(line.startswith(_OF_LENGTH) for line in differences)
    if last is None or last.step >= plan.steps or not is_length:
        return ""
    return f"; for another length from where it is, another name and start: {{run: {plan.name}, step: {last.step}}}"


def open_run(run_uri: str, s3: S3Spec) -> tuple[Store, Plan, str]:
    """The folder, plan and key of a run that exists.

    Raises:
        RunNotFoundError: there is no run at ``run_uri``.
    """
    store = open_store(run_uri, s3)
    text = _read(store, PLAN_FILE)
    if text is None:
        raise RunNotFoundError(f"{run_uri} holds no {PLAN_FILE}; 'orchestrator runs' lists the runs there are")
    plan = load_plan(text.decode(), f"{run_uri}/{PLAN_FILE}")
    return store, plan, str(json.loads(store.read_bytes(KEY_FILE))["key"])


def tracking_folder(run_uri: str, key: str) -> Path:
    """The local folder of the run's journal, which makes it when missing."""
    if run_uri.startswith("file://"):
        return local_path(run_uri) / "tracking"
    if (state := state_folder()) is None:
        state = temporary_state_folder()
        logger.warning(
            "no home folder that can be written: the journal of what MLflow gets lies in %s; what a server that is "
            "away has not got when this machine goes is lost (set XDG_STATE_HOME to a folder that stays)",
            state,
        )
    return state / "tracking" / key


def _read(store: Store, path: str) -> bytes | None:
    try:
        return store.read_bytes(path)
    except ObjectNotFoundError:
        return None
