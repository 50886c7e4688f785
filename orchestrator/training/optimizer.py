"""AdamW over the parameters of an objective: which are decayed, and to which tower they belong.

Neither the engine's precision nor its sharding is known here; the learning rate's course is in ``schedule``.
"""

from typing import Any

import torch

from orchestrator.objectives.objective import Objective
from orchestrator.spec.job import OptimizerSpec

HEAD = "head"
"""Where parameters outside of every tower count: classifiers and learnable scalars."""


def parameter_groups(objective: Objective, weight_decay: float) -> list[dict[str, Any]]:
    """One group per tower and kind of decay, with keys ``params``, ``weight_decay`` and ``tower``.

    Matrices are decayed, embedding tables and position embeddings among them; whatever has fewer than two
    dimensions (norms, biases, scalars, the class embedding) is not. That is open_clip's rule. Call it before
    weights are partitioned: ZeRO-3 leaves parameters without their shape.
    """
    tower_of = {id(parameter): name for name, tower in objective.towers().items() for parameter in tower.parameters()}
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for parameter in objective.parameters():
        if parameter.requires_grad:
            key = (tower_of.get(id(parameter), HEAD), parameter.ndim >= 2)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if is_matrix else 0.0, "tower": tower}
        for (tower, is_matrix), parameters in groups.items()
    ]


def build_optimizer(groups: list[dict[str, Any]], spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW with decoupled decay (arXiv 1711.05101), its arithmetic fused into one pass over each tensor."""
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=spec.betas, eps=spec.eps, fused=True)
