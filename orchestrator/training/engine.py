"""The engine that trains over workers: DeepSpeed at ZeRO 0-3 behind the protocol of ``training/step.py``.

The only file that imports deepspeed, and only once an engine is built. Owns its configuration, the place of the
learning rate, clipping, clamping, gradient norms and the leaving out of a step (``guard.py`` judges it). What ranks
hold of the master weights is in ``partition.py``; averaging over time in ``ema.py``; storage in ``checkpoint.py``.

Precision. At ZeRO 1-3 the weights are bf16 (fp16) and their fp32 masters lie apart, spread over ranks. At ZeRO 0 the
weights are the fp32 masters and run under autocast: deepspeed's own optimizers for that case add up and reduce
gradients in half precision, and take a first step of weight decay when they are built.
"""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from orchestrator.objectives.objective import Features, Objective
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.spec.plan import BatchPlan
from orchestrator.training.guard import StepGuard
from orchestrator.training.optimizer import build_optimizer, freeze_parameters, parameter_groups, set_learning_rates
from orchestrator.training.partition import FlatPartition, Partition, ReplicatedPartition, ShardedPartition
from orchestrator.training.schedule import learning_rate_factor

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]


class DeepSpeedEngine:
    """An objective spread over the ranks of the default process group; all ranks call the same methods in step.

    A step whose loss or averaged gradient is not finite on any rank is left out on all of them, and counted; so is one
    that the guard calls a spike. The weights, their moments and, unless it made the step fail, the loss scale stay.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerSpec,
        schedule: ScheduleSpec,
        num_steps: int,
        precision: Precision,
        zero_stage: Literal[0, 1, 2, 3],
        batch: BatchPlan,
        accelerator: Literal["cpu", "cuda"],
    ) -> None:
        """``objective``: fp32, equal on all ranks, on any device; it is moved and cast in place. Needs a process group.

        ``num_steps``: the whole budget, over the samples of which ``schedule`` runs.
        """
        self.objective = objective
        self.guard = StepGuard(optimizer.guard, is_speaker=dist.get_rank() == 0)
        self.was_left_out = False
        """Whether the last step changed nothing."""
        self.num_skipped_steps = 0
        self.steps_taken = 0
        """Batches that were stepped on, left-out ones included: the schedule's position."""
        self._spec, self._schedule, self._num_steps = optimizer, schedule, num_steps
        self._batches, self._is_complete = batch, False
        self._bounds = objective.bounds()
        self._losses: list[Tensor] = []
        self._norms: dict[str, Tensor] = {}
        freeze_parameters(objective, optimizer)
        groups = parameter_groups(objective, optimizer)
        self._adamw = build_optimizer(groups, optimizer)
        self._tower_of = {id(parameter): group["tower"] for group in groups for parameter in group["params"]}
        initial = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
        self.shapes = {name: list(parameter.shape) for name, parameter in initial.items()}
        """Of whole parameters: at ZeRO 3 they do not know it themselves."""
        config = _configuration(optimizer, precision, zero_stage, batch, accelerator)
        self._deepspeed = _initialize(objective, self._adamw, config, accelerator)
        self.device: torch.device = self._deepspeed.device
        self._is_sharded, self._computes_in = zero_stage == 3, _autocast_dtype(precision, zero_stage)
        self.partition = _find_partition(self._deepspeed, self._adamw, zero_stage)
        self.partition.set_masters(initial)  # deepspeed makes them from weights that are rounded already
        self._num_clipped_steps = torch.zeros((), device=self.device)

    @property
    def learning_rate(self) -> float:
        """Of the last step, where no layer decay lowers it; before any, of the first."""
        progress = self._batches.progress(max(self.steps_taken - 1, 0), self._num_steps)
        return self._spec.learning_rate * learning_rate_factor(self._schedule, progress)

    @property
    def num_clipped_steps(self) -> int:
        """Steps of this attempt whose gradient was longer than ``gradient_clip``."""
        return int(self._num_clipped_steps.item())

    @property
    def loss_scale(self) -> float:
        """The factor on fp16 losses; 1 for other precisions."""
        scaler = self._deepspeed.torch_autocast_z0_gradscaler
        scale = scaler.get_scale() if scaler else getattr(self._deepspeed.optimizer, "loss_scale", 1.0)
        return float(scale)

    @loss_scale.setter
    def loss_scale(self, scale: float) -> None:
        if scaler := self._deepspeed.torch_autocast_z0_gradscaler:
            scaler.load_state_dict({**scaler.state_dict(), "scale": scale})
        elif self._deepspeed.fp16_enabled():
            self._deepspeed.optimizer._set_loss_scale(scale)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        features: Features = self._deepspeed(batch, stage="encode")
        return features

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        loss: tuple[Tensor, dict[str, Tensor]] = self._deepspeed(features, stage="loss")
        self._losses.append(loss[0].detach())
        return loss

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        # A loss that is not finite may have a finite gradient; this factor spreads it to every rank without a word.
        self._is_complete = is_last
        self._deepspeed.set_gradient_accumulation_boundary(is_last)
        self._deepspeed.backward(loss * torch.where(loss.detach().isfinite(), 1.0, math.nan), scale_wrt_gas=False)

    @torch.no_grad()
    def step(self) -> None:
        assert self._is_complete, "a step follows its last micro batch"
        self._is_complete = False
        progress = self._batches.progress(self.steps_taken, self._num_steps)
        set_learning_rates(self._adamw.param_groups, self._spec, self._schedule, progress)
        loss, self._norms = self._measure()
        values = dict(zip(["loss", *self._norms], torch.stack([loss, *self._norms.values()]).tolist(), strict=True))
        is_allowed = self.guard.allows(self.steps_taken + 1, values.pop("loss"), values)
        self.was_left_out = not self._take_or_leave(is_allowed, math.isfinite(values["total"]))
        self.num_skipped_steps += self.was_left_out
        if not self.was_left_out and self._spec.gradient_clip > 0:
            self._num_clipped_steps += self._norms["total"] > self._spec.gradient_clip
        self.partition.clamp(self._bounds)
        self.steps_taken += 1

    def gradient_norms(self) -> dict[str, Tensor]:
        return self._norms

    @contextmanager
    def gathered(self) -> Iterator[Objective]:
        """The objective with whole weights on every rank, to be evaluated without gradients; a collective at ZeRO 3.

        Inside, ranks may call any of its methods, and differently often.
        """
        was_training = self.objective.training
        self.objective.eval()
        try:
            with torch.no_grad(), self._autocast(), self._whole():
                yield self.objective
        finally:
            self.objective.train(was_training)

    def close(self) -> None:
        """Gives back hooks and buffers; the engine is of no use afterwards."""
        self._deepspeed.destroy()

    def _measure(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the norms of the averaged gradient, over all ranks, in one small collective."""
        towers = sorted(set(self._tower_of.values()))
        gradients: dict[str, list[Tensor]] = {tower: [] for tower in towers}
        self._unscale_replicated()
        for fragment in self.partition.trained:
            gradient = self.partition.gradient(fragment)
            if gradient is not None:
                gradients[self._tower_of[id(fragment.parameter)]].append(gradient)
        squares = torch.stack([self._sum_of_squares(gradients[tower]) for tower in towers])
        loss = torch.stack(self._losses).mean().float() / dist.get_world_size()
        self._losses.clear()
        sums = loss.reshape(1) if self.partition.is_replicated else torch.cat([loss.reshape(1), squares])
        dist.all_reduce(sums)
        if not self.partition.is_replicated:
            squares = sums[1:] / self.loss_scale**2
        return sums[0], {**dict(zip(towers, squares.sqrt(), strict=True)), "total": squares.sum().sqrt()}

    def _sum_of_squares(self, gradients: list[Tensor]) -> Tensor:
        if not gradients:  # a rank may hold nothing of a tower
            return torch.zeros((), device=self.device)
        return torch.stack(torch._foreach_norm(gradients, 2, torch.float32)).square().sum()

    def _unscale_replicated(self) -> None:
        if scaler := self._deepspeed.torch_autocast_z0_gradscaler:
            scaler.unscale_(self._adamw)

    def _take_or_leave(self, is_allowed: bool, is_finite: bool) -> bool:
        """Whether the step was taken. What is not finite in fp16 goes to deepspeed, which lowers the loss scale."""
        scaler = self._deepspeed.torch_autocast_z0_gradscaler
        has_scale = scaler is not None or self._deepspeed.fp16_enabled()
        if not is_allowed and (is_finite or not has_scale):
            self.partition.drop_gradients()
            if scaler is not None:
                scaler.update()  # else it takes the next gradient for one that it has unscaled already
            return False
        if is_finite and self.partition.is_replicated and self._spec.gradient_clip > 0:
            clip_grads_with_norm_(self.objective.parameters(), self._spec.gradient_clip, self._norms["total"])
        self._deepspeed.step()
        return is_allowed and bool(self._deepspeed.was_step_applied())

    @contextmanager
    def _whole(self) -> Iterator[None]:
        if not self._is_sharded:
            yield
            return
        import deepspeed

        # With deepspeed's hooks a forward pass would let go of weights as it proceeds, and talk to other ranks.
        offload = self._deepspeed.optimizer.parameter_offload
        with deepspeed.zero.GatheredParameters(list(self.objective.parameters())):
            offload._remove_module_hooks()
            offload.forward_hooks, offload.backward_hooks = [], []
            try:
                yield
            finally:
                offload.setup_zero_stage3_hooks()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._computes_in, enabled=self._computes_in is not None)


def _autocast_dtype(precision: Precision, zero_stage: int) -> torch.dtype | None:
    if precision == "fp32" or zero_stage > 0:
        return None
    return torch.bfloat16 if precision == "bf16" else torch.float16


def _configuration(
    optimizer: OptimizerSpec, precision: Precision, zero_stage: int, batch: BatchPlan, accelerator: str
) -> dict[str, Any]:
    """Every setting that matters is said: several of deepspeed's defaults (clipping at 1.0) would go unnoticed."""
    computes_in = _autocast_dtype(precision, zero_stage)
    return {
        "train_micro_batch_size_per_gpu": batch.micro_size,
        "gradient_accumulation_steps": batch.most_micro,  # of each step, ``backward`` says which is its last
        # At ZeRO 0 the engine clips itself, since it also decides whether to step.
        "gradient_clipping": optimizer.gradient_clip if zero_stage > 0 else 0.0,
        "zero_optimization": {"stage": zero_stage, "overlap_comm": accelerator == "cuda"},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16" and zero_stage > 0, "check_grad_overflow": True},
        "fp16": {"enabled": precision == "fp16" and zero_stage > 0},
        "torch_autocast": {"enabled": computes_in is not None, "dtype": str(computes_in or torch.float32)},
        # Micro batches add up in fp32, so that nothing small is lost. Not at ZeRO 1: for that combination deepspeed
        # takes another optimizer, under which the temperature's gradient stays zero (measured with 0.19.8).
        "data_types": {"grad_accum_dtype": None if zero_stage == 1 else "fp32"},
        # Over many ranks a sum that is rounded to bf16 at each of them loses what all of them agree on.
        "communication_data_type": "fp32",
        "steps_per_print": None,
    }


def _initialize(objective: nn.Module, adamw: torch.optim.Optimizer, config: dict[str, Any], accelerator: str) -> Any:
    if accelerator == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read at the import
    with _absent("mlflow"):
        import deepspeed

    # Deepspeed calls collectives by names that torch has renamed, once per step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if accelerator == "cpu":
        # Else each start probes for a compiler and builds a shared-memory collective; workers need not have one.
        deepspeed.ops.__compatible_ops__ = {}
    # Its warnings are of an AdamW that is not its own, and of steps left out, which we say ourselves.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    backend = "gloo" if accelerator == "cpu" else "nccl"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)
    initialized, *_ = deepspeed.initialize(model=objective, optimizer=adamw, config=config)
    return initialized


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Deepspeed's autotuner imports mlflow where it can: 1.6 of the seconds in which a worker starts, for nothing."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        del sys.modules[module]


def _find_partition(initialized: Any, adamw: torch.optim.Optimizer, zero_stage: int) -> Partition:
    module = initialized.module
    if zero_stage == 0:
        return ReplicatedPartition(module, adamw)
    if zero_stage == 3:
        return ShardedPartition(module, adamw, initialized.optimizer, dist.get_rank())
    return FlatPartition(module, adamw, initialized.optimizer)
