"""Micro batches of a step, and what each contributes to a loss that must see all of them at once.

A contrastive loss over a micro batch would have fewer negatives. So all micro batches are encoded without gradient
first; then each is encoded again, takes its place among the cached features of the others, and the whole loss sends
its gradient through this one (after GradCache, arXiv 2101.06983). That costs a second forward pass and one loss for
each micro batch; in return no more than one micro batch's activations are in memory, and every backward pass is an
ordinary one that touches all parameters, as ZeRO needs it.

Exact for towers and for scalars: a step averages the losses of its k micro batches, all of which are the same loss.
Scalars (temperature, bias) thus get the mean of k equal gradients; features, which only one of the k losses reaches,
get theirs times k.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from orchestrator.objectives.objective import Features

Encode = Callable[[Mapping[str, Tensor]], Features]
RandomState = list[Tensor]


def features_for_losses(
    encode: Encode, micro_batches: Sequence[Mapping[str, Tensor]], contrastive: bool
) -> Iterator[list[Features]]:
    """For each micro batch, the features that its loss is taken over; the mean of the losses is the step's.

    The caller runs the backward pass of one before it asks for the next.
    """
    if not contrastive or len(micro_batches) == 1:
        for batch in micro_batches:
            yield [encode(batch)]
        return
    device = next(iter(micro_batches[0].values())).device
    states: list[RandomState] = []
    cached: list[Features] = []
    with torch.no_grad():
        for batch in micro_batches:
            states.append(_random_state(device))
            cached.append(encode(batch))
    for index, batch in enumerate(micro_batches):
        _set_random_state(states[index], device)  # dropout must choose what it chose before
        own = encode(batch)
        _scale_gradient(own, len(micro_batches))
        yield [*cached[:index], own, *cached[index + 1 :]]


def _scale_gradient(features: Features, factor: int) -> None:
    for feature in features.values():
        if feature.requires_grad:
            feature.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]


def _random_state(device: torch.device) -> RandomState:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_random_state(states: RandomState, device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
