"""A comparison's folder: plan, key, lease and journal as in a run's, and what was found.

plan.json            the ComparePlan of the last start
calibration.json     how long steps take, of a budget in seconds
comparison.json      all that is known of its runs (``evaluation/comparison.py``), current after every trial
run.json, lease.json, tracking/   as in a run's folder (``runs/folder.py``)

The runs' own folders lie beside it and are runs like any other.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import RunConflictError, RunNotFoundError
from orchestrator.evaluation.comparison import ComparisonResult
from orchestrator.runs.folder import KEY_FILE
from orchestrator.spec.compare_plan import ComparePlan
from orchestrator.spec.plan import PLAN_FILE
from orchestrator.spec.plan_differences import compare_identities
from orchestrator.storage.store import ObjectNotFoundError, Store

COMPARISON_FILE = "comparison.json"
CALIBRATION_FILE = "calibration.json"


def claim_comparison(store: Store, plan: ComparePlan) -> str:
    """Make the folder this plan's, and return its key. The caller holds the lease.

    Raises:
        RunConflictError: the folder belongs to a run, or to a comparison of another identity; says what differs.
    """
    check_comparison(store, plan)
    store.write_bytes(PLAN_FILE, plan.model_dump_json(indent=2).encode())
    if _read(store, KEY_FILE) is None:
        store.create_bytes(KEY_FILE, json.dumps({"key": secrets.token_hex(8)}).encode())
    return str(json.loads(store.read_bytes(KEY_FILE))["key"])


def check_comparison(store: Store, plan: ComparePlan) -> None:
    """Whether the folder is free or this plan's; writes nothing. Raises as ``claim_comparison``."""
    before = _read(store, PLAN_FILE)
    if before is not None:
        _check_same(store, plan, before)


def read_claim(store: Store) -> tuple[ComparePlan, str] | None:
    """Plan and key of a comparison's folder; none where no comparison of this version has claimed it."""
    plan, key = _read(store, PLAN_FILE), _read(store, KEY_FILE)
    if plan is None or key is None:
        return None
    try:
        return ComparePlan.model_validate_json(plan), str(json.loads(key)["key"])
    except ValidationError:
        return None


def load_comparison(store: Store) -> ComparisonResult | None:
    """What was found so far; None before the first start.

    Raises:
        RunNotFoundError: the file is not one of this version.
    """
    data = _read(store, COMPARISON_FILE)
    if data is None:
        return None
    try:
        return ComparisonResult.model_validate_json(data)
    except ValidationError as error:
        raise RunNotFoundError(f"{store.uri}/{COMPARISON_FILE} is no comparison of this version: {error}") from error


def save_comparison(store: Store, result: ComparisonResult) -> None:
    """Replace what was found."""
    store.write_bytes(COMPARISON_FILE, result.model_dump_json(indent=1).encode())


def load_calibration(store: Store, timed: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a step by label, as measured at the first start; empty before, or where something else was timed.

    Args:
        timed: what is to be timed, ``ComparePlan.identities`` of the plan before its steps are known.
    """
    kept = json.loads(_read(store, CALIBRATION_FILE) or b"{}")
    if kept.get("timed") != json.loads(json.dumps(timed)):
        return {}
    return {str(label): float(seconds) for label, seconds in kept["seconds_per_step"].items()}


def save_calibration(store: Store, timed: Mapping[str, Any], seconds_per_step: Mapping[str, float]) -> None:
    """Keep what was measured, and of what: the steps of a budget in seconds are fixed from then on."""
    content = {"seconds_per_step": dict(seconds_per_step), "timed": timed}
    store.write_bytes(CALIBRATION_FILE, json.dumps(content, indent=1).encode())


def _check_same(store: Store, plan: ComparePlan, before: bytes) -> None:
    try:
        theirs = ComparePlan.model_validate_json(before)
    except ValidationError as error:
        raise RunConflictError(
            f"'{plan.name}' in {store.uri} is a run, or a comparison of another version; use another name "
            f"(--set name=...)"
        ) from error
    if not theirs.evaluation_digests:  # an earlier version kept none
        theirs = theirs.model_copy(update={"evaluation_digests": plan.evaluation_digests})
    differences = compare_identities(plan.identity, theirs.identity)
    if differences:
        raise RunConflictError(
            f"comparison '{plan.name}' in {store.uri} belongs to another plan; its values -> yours:\n  "
            + "\n  ".join(differences)
            + "\nuse another name (--set name=...), or restore these values to go on with it"
        )


def _read(store: Store, path: str) -> bytes | None:
    try:
        return store.read_bytes(path)
    except ObjectNotFoundError:
        return None
