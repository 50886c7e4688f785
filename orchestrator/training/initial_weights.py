"""A fresh objective takes over weights that exist: ``init`` of a job. Executed on every worker, the same everywhere."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.errors import ModelSourceError
from orchestrator.models.source import read_model, shown
from orchestrator.objectives.adopt import find_weights, names_in_a_model
from orchestrator.objectives.objective import Objective
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.init import InitSpec
from orchestrator.spec.plan import Plan, load_plan
from orchestrator.storage.store import ObjectNotFoundError, open_store
from orchestrator.training.checkpoint_folders import find_stored
from orchestrator.training.stored_tensors import load_weights

logger = logging.getLogger(__name__)

_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_HEADS = ("visual_projection.weight", "text_projection.weight")
"""Of a tower in a job's eyes, but only there where two towers meet."""


def initialize_from(objective: Objective, init: InitSpec, plan: Plan) -> None:
    """Fill the towers that ``init`` names; the rest keeps its fresh weights where nothing fits, and the log says so.

    Raises:
        ModelSourceError: nothing there, towers of another variant, or a tower that does not fit (names the keys).
    """
    state, variant = _read_state(init.from_, plan.model.variant, plan.s3)
    if variant != plan.model.variant:
        raise ModelSourceError(
            f"init.from {init.from_}: its towers are of variant '{variant}', this job's of '{plan.model.variant}'; "
            f"set model.variant: {variant}"
        )
    towers = _towers_to_fill(objective, init, state)
    problems, fresh = [], []
    for name, parameter in objective.named_parameters():
        is_wanted = name.partition(".")[0] in towers and not name.endswith(_HEADS)
        given = find_weights(name, state)
        weights = None if given is None else _resample_positions(given, state[given], parameter)
        if not is_wanted and name.startswith(("vision.", "text.")) and name.partition(".")[0] not in towers:
            fresh.append(name)
        elif weights is not None and weights.numel() == parameter.numel():
            with torch.no_grad():
                parameter.copy_(weights.reshape(parameter.shape))
        elif is_wanted:
            problems.append(f"{name} is {'missing' if weights is None else list(weights.shape)}")
        else:
            fresh.append(name)
    if problems:
        raise ModelSourceError(f"init.from {init.from_} does not fit towers {', '.join(towers)}: {shown(problems)}")
    logger.info("started from %s; fresh weights: %s", init.from_, shown(fresh) or "none")


def _read_state(source: str, variant: str, s3: S3Spec) -> tuple[dict[str, Tensor], str]:
    """Weights under the names of a whole model, and whose towers they are."""
    if "://" not in source and not (Path(source) / "plan.json").is_file():
        lone_file = Path(source).is_file()
        model = read_model(source, variant if lone_file else None)
        return model.state, model.variant
    store = open_store(source, s3)
    try:
        plan = load_plan(store.read_bytes("plan.json").decode(), f"{source}/plan.json")
    except ObjectNotFoundError as error:
        raise ModelSourceError(
            f"init.from {source}: no run there; 'orchestrator runs' lists those there are"
        ) from error
    stored = find_stored(store)
    if stored is None:
        raise ModelSourceError(f"init.from {source}: the run has no complete checkpoint yet")
    weights = load_weights(store, stored, average=False)
    return {names_in_a_model(name)[0]: tensor for name, tensor in weights.items()}, plan.model.variant


def _towers_to_fill(objective: Objective, init: InitSpec, state: Mapping[str, Tensor]) -> list[str]:
    there = [tower for tower in objective.towers() if any(name.startswith(f"{tower}_model.") for name in state)]
    missing = [tower for tower in init.towers or () if tower not in there]
    if missing or not there:
        raise ModelSourceError(
            f"init.from {init.from_} has {', '.join(there) or 'no'} towers for this objective, which has "
            f"{', '.join(objective.towers())}; wanted {', '.join(init.towers or objective.towers())}"
        )
    return [tower for tower in there if init.towers is None or tower in init.towers]


def _resample_positions(name: str, weights: Tensor, parameter: Tensor) -> Tensor:
    """Image positions of another grid, resized as an image is (bicubic, antialiased); a class token's stays."""
    if name != _POSITIONS or weights.shape == parameter.shape or weights.shape[1] != parameter.shape[1]:
        return weights
    old, new = math.isqrt(len(weights)), math.isqrt(len(parameter))
    num_class_tokens = len(weights) - old**2
    if num_class_tokens != len(parameter) - new**2:
        return weights
    grid = weights[num_class_tokens:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
    return torch.cat([weights[:num_class_tokens], grid.permute(0, 2, 3, 1).flatten(0, 2)])
