"""Where a rank keeps its part of the fp32 master weights, of their gradients and of AdamW's moments.

DeepSpeed's optimizers each keep them in their own place; this file finds them and gives them back as one kind of
thing: fragments. A fragment is a run of elements of one flattened parameter. Whatever needs the master weights
(clamping, averaging, gradient norms, checkpoints) works on fragments alone, so it is the same at ZeRO 0-3 and costs
no communication. Weights that are never trained are fragments too, without moments: deepspeed keeps no fp32 copy of
them, and a checkpoint must hold all. Does not import deepspeed: it reads attributes of the optimizers that it is
handed.

Trade-off: those attributes are not public, hence the narrow version range of deepspeed; the distributed tests hold
every one of them at every stage.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """Elements ``start`` to ``start + numel`` of the flattened parameter ``name``; tensors are fp32 views [numel]."""

    name: str
    parameter: nn.Parameter
    start: int
    master: Tensor
    moments: dict[str, Tensor]
    """AdamW's state by the names that torch gives it; empty for what is never trained."""
    is_shared: bool = False
    """Whether every rank holds these elements; otherwise one does."""

    @property
    def is_frozen(self) -> bool:
        """Whether it is never trained."""
        return not self.moments

    @property
    def numel(self) -> int:
        return self.master.numel()


class Partition(ABC):
    """This rank's fragments, and what depends on the kind of optimizer that holds them."""

    is_replicated = False
    """Whether every rank holds all that is trained; otherwise each element is held by exactly one rank."""

    def __init__(self, module: nn.Module, adamw: torch.optim.Optimizer) -> None:
        """``adamw``: the torch optimizer itself, after deepspeed has put its master tensors into it."""
        self._adamw = adamw
        self._parameters = dict(module.named_parameters())
        self.fragments = list(self._find())

    @property
    def trained(self) -> list[Fragment]:
        """The fragments that the optimizer updates."""
        return [fragment for fragment in self.fragments if not fragment.is_frozen]

    @property
    def num_updates(self) -> int:
        """AdamW's count of updates, from which its bias correction comes."""
        return max((int(state["step"].item()) for state in self._adamw.state.values()), default=0)

    @num_updates.setter
    def num_updates(self, num_updates: int) -> None:
        for state in self._adamw.state.values():
            state["step"].fill_(float(num_updates))

    @torch.no_grad()
    def set_masters(self, values: Mapping[str, Tensor]) -> None:
        """Takes this rank's part of whole parameters by name; the forward pass sees them after ``refresh``."""
        for fragment in self.fragments:
            fragment.master.copy_(values[fragment.name].flatten()[fragment.start : fragment.start + fragment.numel])

    @abstractmethod
    def gradient(self, fragment: Fragment) -> Tensor | None:
        """A trained fragment's gradient [numel], averaged over ranks, still loss-scaled; None: there is none."""

    @abstractmethod
    def refresh(self) -> None:
        """Makes the weights that the forward pass reads from the master weights. A collective at ZeRO 1-3."""

    @abstractmethod
    def drop_gradients(self) -> None:
        """Forgets the gradient of a step that is left out, as if it had never been computed."""

    @torch.no_grad()
    def clamp(self, bounds: Mapping[str, tuple[float, float]]) -> None:
        """Clamps parameters both where the optimizer keeps them and where the forward pass reads them.

        Rounding is monotonous, so clamping the rounded copy gives the rounded copy of the clamped master: no
        communication. Clamping that copy alone lets the master run away (measured: 98.9 forward, 133 exported).
        """
        for fragment in self.fragments:
            if fragment.name in bounds:
                fragment.master.clamp_(*bounds[fragment.name])
        for name, (low, high) in bounds.items():
            for copy in self._forward_copies(self._parameters[name]):
                copy.clamp_(low, high)

    @abstractmethod
    def _find(self) -> Iterator[Fragment]: ...

    def _forward_copies(self, parameter: nn.Parameter) -> list[Tensor]:
        return [parameter.data]

    def _fragment(
        self, name: str, start: int, owner: Tensor, offset: int, numel: int, is_shared: bool = False
    ) -> Fragment:
        state = self._adam_state(owner)
        return Fragment(
            name=name,
            parameter=self._parameters[name],
            start=start,
            master=owner.detach().view(-1).narrow(0, offset, numel),
            moments={key: state[key].view(-1).narrow(0, offset, numel) for key in MOMENTS},
            is_shared=is_shared,
        )

    def _adam_state(self, owner: Tensor) -> dict[str, Tensor]:
        # Zero moments now, not at the first update: a restore writes into them.
        state: dict[str, Tensor] = self._adamw.state[owner]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=owner.device)
            state.update({key: torch.zeros_like(owner, requires_grad=False) for key in MOMENTS})
        return state


class ReplicatedPartition(Partition):
    """ZeRO 0: the parameters are the fp32 master weights, on every rank."""

    is_replicated = True

    def gradient(self, fragment: Fragment) -> Tensor | None:
        gradient = fragment.parameter.grad
        return None if gradient is None else gradient.view(-1)

    def refresh(self) -> None:
        pass

    def drop_gradients(self) -> None:
        self._adamw.zero_grad()

    def _find(self) -> Iterator[Fragment]:
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                yield self._fragment(name, 0, parameter, 0, parameter.numel(), is_shared=True)
            else:
                yield Fragment(name, parameter, 0, parameter.detach().view(-1), {}, is_shared=True)


class FlatPartition(Partition):
    """ZeRO 1 and 2: parameters lie in flat groups, of which each rank holds one range in fp32."""

    def __init__(self, module: nn.Module, adamw: torch.optim.Optimizer, zero_optimizer: Any) -> None:
        self._zero_optimizer = zero_optimizer
        super().__init__(module, adamw)

    def gradient(self, fragment: Fragment) -> Tensor | None:
        parameter: Any = fragment.parameter
        gradient: Tensor = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        return gradient.view(-1)

    @torch.no_grad()
    def refresh(self) -> None:
        self._zero_optimizer.update_lp_params()
        for fragment in self.fragments:
            if fragment.is_frozen:
                fragment.parameter.copy_(fragment.master.view_as(fragment.parameter))

    def drop_gradients(self) -> None:
        # What its own step does with a gradient that overflowed.
        zero = self._zero_optimizer
        zero.micro_step_id = -1
        zero.zero_grad(set_to_none=True)
        zero._release_preflattened_grad_buffers()
        for gradients in (zero.averaged_gradients, zero.all_grad_tensors):
            gradients.update(dict.fromkeys(gradients))

    def _find(self) -> Iterator[Fragment]:
        for name, parameter in self._parameters.items():
            if not parameter.requires_grad:
                # Whole on every rank, as the parameter is, but where it costs no device memory.
                master = torch.empty(parameter.numel(), dtype=torch.float32, device="cpu")
                yield Fragment(name, parameter, 0, master, {}, is_shared=True)
                continue
            mapping: Any = getattr(parameter, "_hp_mapping", None)
            if mapping is not None:  # None: this rank holds no element of the parameter
                owner = self._adamw.param_groups[mapping.param_group_index]["params"][0]
                address = mapping.hp_fragment_address
                yield self._fragment(name, mapping.lp_fragment_address.start, owner, address.start, address.numel)


class ShardedPartition(Partition):
    """ZeRO 3: each parameter is cut into one equal piece per rank (the last ones may be short or empty)."""

    def __init__(self, module: nn.Module, adamw: torch.optim.Optimizer, zero_optimizer: Any, rank: int) -> None:
        self._zero_optimizer = zero_optimizer
        self._rank = rank
        super().__init__(module, adamw)

    def gradient(self, fragment: Fragment) -> Tensor | None:
        gradient: Tensor = self._zero_optimizer.get_local_fp32_grad_for_param(fragment.parameter)
        return gradient.view(-1).narrow(0, 0, fragment.numel)

    @torch.no_grad()
    def refresh(self) -> None:
        zero = self._zero_optimizer
        zero._partition_all_parameters()
        for fragment in self.fragments:
            if fragment.is_frozen:
                described: Any = fragment.parameter
                described.ds_tensor.view(-1)[: fragment.numel].copy_(fragment.master)
        for group in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        if zero.persistent_parameters:  # small ones that stay whole on every rank
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def drop_gradients(self) -> None:
        # What its own step does with a gradient that overflowed.
        zero = self._zero_optimizer
        zero._pre_step()
        zero._partition_all_parameters()
        zero.zero_grad(set_to_none=True)
        zero.averaged_gradients = {}

    def _find(self) -> Iterator[Fragment]:
        zero = self._zero_optimizer
        for name, parameter in self._parameters.items():
            described: Any = parameter
            piece = described.ds_tensor.ds_numel
            start = self._rank * piece
            numel = min(piece, described.ds_numel - start)
            if numel <= 0:
                continue
            if parameter.requires_grad:
                group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
                yield self._fragment(name, start, zero.fp32_partitioned_groups_flat[group], offset, numel)
            else:
                master = torch.empty(numel, dtype=torch.float32, device="cpu")
                yield Fragment(name, parameter, start, master, {})

    def _forward_copies(self, parameter: nn.Parameter) -> list[Tensor]:
        described: Any = parameter
        return [parameter.data, described.ds_tensor.data]  # the first is empty unless it is gathered
