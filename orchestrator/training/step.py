"""One optimizer step, and the plainest engine that can take it.

Knows neither Ray, DeepSpeed nor MLflow, and needs no process group: that is how one device is measured. The engine
that shards over workers is ``training/engine.py``; the loop around steps is in ``training/worker.py``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from orchestrator.collectives import rank_and_world_size
from orchestrator.objectives.objective import Features, Objective
from orchestrator.spec.batches import Batches
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.training.micro_batches import features_for_losses
from orchestrator.training.optimizer import build_optimizer, freeze_parameters, parameter_groups, set_learning_rates

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself: means over this rank's rows, detached, 0-dim, still on the device."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Engine(Protocol):
    """What a step needs: an objective's two calls, their gradient, and the update."""

    @property
    def objective(self) -> Objective:
        """The objective that is trained, as built (its weights may be partitioned)."""

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """The objective's ``encode``."""

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's ``loss``."""

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Adds the gradient of ``loss``, exactly as given, to what the next ``step`` averages over ranks.

        ``is_last``: the step follows.
        """

    def step(self) -> None:
        """Averages, clips and applies the gradient, keeps bounds, moves the schedule on, forgets the gradient."""

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norms of the last step's averaged gradient before clipping: ``total`` and one per tower and head."""


def train_step(engine: Engine, micro_batches: Sequence[Mapping[str, Tensor]]) -> StepResult:
    """One update from one worker batch, given in micro batches of equal size on the engine's device.

    The update is that of the whole worker batch at once, whatever the objective. All ranks have as many.
    """
    count = len(micro_batches)
    results = []
    for features in features_for_losses(engine.encode, micro_batches, engine.objective.contrastive):
        loss, metrics = engine.loss(features)
        results.append({**metrics, "loss": loss.detach()})
        engine.backward(loss / count, is_last=len(results) == count)
    engine.step()
    means = {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}
    return StepResult(loss=means.pop("loss"), metrics=means)


def to_device(batch: Mapping[str, NDArray[np.generic]], columns: Iterable[str], device: torch.device) -> Batch:
    """The named columns as tensors on ``device``; the copy to a GPU is given to the current stream (``feed.py``)."""
    return {name: _to_device(batch[name], device) for name in columns}


def _to_device(column: NDArray[np.generic], device: torch.device) -> Tensor:
    # One copy on the host, since arrays from an object store are read-only and their memory is not pinned.
    dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
    host = torch.empty(column.shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.copyto(host.numpy(), column)
    return host.to(device, non_blocking=True)


class BareEngine:
    """Plain torch: AdamW over fp32 master weights, gradients averaged over ranks if there are several; no guard.

    With bf16 the module's weights are bf16 and the masters a copy apart, as under DeepSpeed; with fp32 they are one.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerSpec,
        schedule: ScheduleSpec,
        num_steps: int,
        precision: Literal["fp32", "bf16"],
        batches: Batches = Batches(global_size=1),
    ) -> None:
        """``objective``: fp32 and on its device; it is cast in place. ``num_steps``: the whole budget, in steps of one
        size, whatever that is, unless ``batches`` says otherwise.
        """
        self.objective = objective
        self._spec, self._schedule, self._num_steps = optimizer, schedule, num_steps
        self._batches, self._steps_taken = batches, 0
        self._norms: dict[str, Tensor] = {}
        freeze_parameters(objective, optimizer)
        groups = parameter_groups(objective, optimizer)
        self._weights = [weight for group in groups for weight in group["params"]]
        if precision == "bf16":
            groups = [{**group, "params": [weight.detach().clone() for weight in group["params"]]} for group in groups]
            objective.bfloat16()
        self._masters = [master for group in groups for master in group["params"]]
        self._optimizer = build_optimizer(groups, optimizer)
        name_of = {id(weight): name for name, weight in objective.named_parameters()}
        bounds = objective.bounds()
        self._bounded = [
            (master, *bounds[name_of[id(weight)]])
            for weight, master in zip(self._weights, self._masters, strict=True)
            if name_of[id(weight)] in bounds
        ]

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        features: Features = self.objective(batch, stage="encode")
        return features

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        loss: tuple[Tensor, dict[str, Tensor]] = self.objective(features, stage="loss")
        return loss

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        for weight, master in zip(self._weights, self._masters, strict=True):
            if weight is master or weight.grad is None:
                continue
            # Added up in fp32: micro batches in bf16 would lose what is small.
            gradient, weight.grad = weight.grad.float(), None
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    @torch.no_grad()
    def step(self) -> None:
        self._average_over_ranks()
        self._norms = self._measure()
        if self._spec.gradient_clip > 0:
            clip_grads_with_norm_(self._masters, self._spec.gradient_clip, self._norms["total"])
        progress = self._batches.progress(self._steps_taken, self._num_steps)
        set_learning_rates(self._optimizer.param_groups, self._spec, self._schedule, progress)
        self._optimizer.step()
        self._optimizer.zero_grad()
        for master, low, high in self._bounded:
            master.clamp_(low, high)
        if self._weights[0] is not self._masters[0]:
            torch._foreach_copy_(self._weights, self._masters)
        self._steps_taken += 1

    def gradient_norms(self) -> dict[str, Tensor]:
        return self._norms

    def _average_over_ranks(self) -> None:
        _, world_size = rank_and_world_size()
        if world_size == 1:
            return
        gradients = [master.grad for master in self._masters if master.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= world_size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _measure(self) -> dict[str, Tensor]:
        by_tower: dict[str, list[Tensor]] = {}
        for group in self._optimizer.param_groups:
            gradients = [master.grad for master in group["params"] if master.grad is not None]
            by_tower.setdefault(group["tower"], []).extend(gradients)
        norms = {tower: get_total_norm(gradients) for tower, gradients in by_tower.items()}
        return {**norms, "total": get_total_norm(list(norms.values()))}
