"""An exponential moving average of the fp32 master weights, kept by each rank for the part that it holds.

Elementwise, so ranks need not talk: together their averages are what one process would have. Never over the weights
that the forward pass reads: in bf16 a decay of 0.9995 rounds away, and at ZeRO 3 those weights have no elements.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from orchestrator.training.partition import Partition


class Ema:
    """Averages beside the fragments of ``partition``, in the same order."""

    def __init__(self, partition: Partition, decay: float) -> None:
        """Starts at the present master weights; ``decay`` is the greatest decay."""
        self._partition = partition
        self._decay = decay
        self.num_updates = 0
        self.averages = [fragment.master.clone() for fragment in partition.fragments]
        """fp32, one per fragment and of its length."""

    @torch.no_grad()
    def update(self) -> None:
        """After each step: moves towards the masters by 1 - min(decay, (1 + n) / (10 + n)) at update n = 1, 2..."""
        self.num_updates += 1
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        masters = [fragment.master for fragment in self._partition.fragments]
        if masters:  # a rank of a small model may hold nothing
            torch._foreach_lerp_(self.averages, masters, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the average is what the forward pass reads; afterwards the raw weights, bit for bit. A collective."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for fragment, average in zip(self._partition.fragments, self.averages, strict=True):
            raw = fragment.master.clone()
            fragment.master.copy_(average)
            average.copy_(raw)
        self._partition.refresh()
