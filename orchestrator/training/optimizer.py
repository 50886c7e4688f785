"""AdamW over the parameters of an objective: which are trained, decayed, how fast, and to which tower they belong.

Neither the engine's precision nor its sharding is known here; the learning rate's course is in ``schedule``.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from orchestrator.errors import PlanError
from orchestrator.models.layers import count_layers, layer_of
from orchestrator.objectives.objective import Objective
from orchestrator.spec.optimizer import FreezeSpec, OptimizerSpec, ScheduleSpec
from orchestrator.training.schedule import learning_rate_factor

HEAD = "head"
"""Where parameters outside of every tower count: classifiers and learnable scalars."""


class _Treatment(NamedTuple):
    """What makes a parameter group; parameters that are treated alike share one."""

    tower: str
    rate_factor: float
    trained_from: float
    """Share of the budget; 1: never."""
    is_matrix: bool


def freeze_parameters(objective: Objective, spec: OptimizerSpec) -> None:
    """Takes what is never trained out of the backward pass. Call it before ``parameter_groups``.

    Raises:
        PlanError: a tower that the objective does not have, or nothing is left to train.
    """
    treatments = _treatments(objective, spec)
    for name, parameter in objective.named_parameters():
        if treatments[name].trained_from == 1:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        raise PlanError("optimizer.freeze leaves nothing to train; freeze fewer layers")


def parameter_groups(objective: Objective, spec: OptimizerSpec) -> list[dict[str, Any]]:
    """Groups with keys ``params``, ``weight_decay``, ``tower``, ``rate_factor`` and ``trained_from``.

    Matrices are decayed, embedding tables and position embeddings among them; whatever has fewer than two
    dimensions (norms, biases, scalars, the class embedding) is not. That is open_clip's rule. The learning rate of
    layer l of a tower with L layers (0: embeddings, L + 1: what follows the layers) is multiplied by
    layer_decay^(L + 1 - l), as in BEiT (arXiv 2106.08254). Call it before weights are partitioned: ZeRO-3 leaves
    parameters without their shape.
    """
    treatments = _treatments(objective, spec)
    groups: dict[_Treatment, list[torch.nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(treatments[name], []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": spec.weight_decay if treatment.is_matrix else 0.0,
            "tower": treatment.tower,
            "rate_factor": treatment.rate_factor,
            "trained_from": treatment.trained_from,
        }
        for treatment, parameters in groups.items()
    ]


def build_optimizer(groups: list[dict[str, Any]], spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW with decoupled decay (arXiv 1711.05101), its arithmetic fused into one pass over each tensor."""
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=spec.betas, eps=spec.eps, fused=True)


def set_learning_rates(
    groups: Iterable[dict[str, Any]], spec: OptimizerSpec, schedule: ScheduleSpec, progress: float
) -> None:
    """The rates after ``progress`` (0 to 1) of the budget. A group that is still frozen gets zero, which stops its
    decay as well.

    Its moments follow its gradient meanwhile, so that its first update is as long as any other; at every ZeRO stage
    the optimizer is the same before and after.
    """
    rate = spec.learning_rate * learning_rate_factor(schedule, progress)
    for group in groups:
        group["lr"] = 0.0 if progress < group["trained_from"] else rate * group["rate_factor"]


def _treatments(objective: Objective, spec: OptimizerSpec) -> dict[str, _Treatment]:
    """Of each parameter, by name."""
    towers = objective.towers()
    for key, named in (("layer_decay", spec.layer_decay), ("freeze", spec.freeze)):
        if unknown := sorted(named.keys() - towers.keys()):
            raise PlanError(f"optimizer.{key} names {unknown[0]}; this objective has the towers {', '.join(towers)}")
    place = {id(parameter): (tower, name) for tower in towers for name, parameter in towers[tower].named_parameters()}
    num_layers = {tower: count_layers(name for of, name in place.values() if of == tower) for tower in towers}
    treatments = {}
    for name, parameter in objective.named_parameters():
        tower, local = place.get(id(parameter), (HEAD, name))
        rate_factor, trained_from = 1.0, 0.0
        if tower in towers:
            layer, last = layer_of(f".{local}", num_layers[tower]), num_layers[tower] + 1
            rate_factor = spec.layer_decay.get(tower, 1.0) ** (last - layer)  # type: ignore[call-overload]
            trained_from = _trained_from(spec.freeze.get(tower), layer)  # type: ignore[call-overload]
        treatments[name] = _Treatment(tower, rate_factor, trained_from, parameter.ndim >= 2)
    return treatments


def _trained_from(freeze: FreezeSpec | None, layer: int) -> float:
    if freeze is None or (freeze.layers is not None and layer > freeze.layers):
        return 0.0
    return 1.0 if freeze.until_fraction is None else freeze.until_fraction
