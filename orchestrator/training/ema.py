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
        self._moving = [
            (average, fragment.master)
            for average, fragment in zip(self.averages, partition.fragments, strict=True)
            if not fragment.is_frozen
        ]

    @torch.no_grad()
    def update(self) -> None:
        """After a step taken: moves towards the masters by 1 - min(decay, (1 + n) / (10 + n)) at update n = 1, 2..."""
        self.num_updates += 1
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        if self._moving:  # a rank of a small model may hold nothing
            averages, masters = map(list, zip(*self._moving, strict=True))
            torch._foreach_lerp_(averages, masters, 1 - decay)

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
        for average, master in self._moving:
            raw = master.clone()
            master.copy_(average)
            average.copy_(raw)
        self._partition.refresh()
