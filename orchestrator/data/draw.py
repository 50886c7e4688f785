"""Random numbers without state: a draw is a hash of who draws and for what.

Each field is folded into a 64-bit state by the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), a
bijection of good avalanche: no generator to save, restore or share, and a sample draws the same crop on whichever
worker, in whatever order, before and after a resume. Not for secrets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from orchestrator import columns

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class SampleDraw:
    """Everything that is drawn for one visit to one sample."""

    seed: int
    epoch: int
    dataset: int
    shard: int
    index: int

    def uniform(self, purpose: str, attempt: int = 0) -> float:
        """A number in [0, 1), with 53 random bits."""
        return (self._hash(purpose, attempt) >> 11) * 2.0**-53

    def integer(self, purpose: str, n: int, attempt: int = 0) -> int:
        """One of 0 .. n - 1; its bias is below n / 2**64."""
        return (self._hash(purpose, attempt) * n) >> 64

    @cached_property
    def _state(self) -> int:
        state = 0
        for value in (self.seed, self.epoch, self.dataset, self.shard, self.index):
            state = _mix(state ^ value)
        return state

    def _hash(self, purpose: str, attempt: int) -> int:
        # Attempts are the successive outputs of one SplitMix64 generator, reached by its step instead of by counting.
        return _mix((self._state ^ _purpose_bits(purpose)) + attempt * _GOLDEN)


def _mix(value: int) -> int:
    """SplitMix64's step and finalizer."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@lru_cache(maxsize=256)
def _purpose_bits(purpose: str) -> int:
    return int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "big")  # the same in every process


def random_bits(name: str, count: int) -> npt.NDArray[np.uint64]:
    """64 bits for each of ``count`` things that this name has: outputs of one generator, as ``attempt`` has them."""
    return _mix_array(np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(_purpose_bits(name)))


@dataclass(frozen=True, eq=False)
class BlockDraws:
    """The draws of many samples at once: row b draws what ``SampleDraw`` of its sample draws.

    Legend: B rows.
    """

    states_B: npt.NDArray[np.uint64]

    @classmethod
    def of_block(cls, seed: int, block: Mapping[str, npt.NDArray[np.generic]]) -> "BlockDraws":
        """From a block's provenance columns."""
        states_B = _mix_array(np.full(len(block[columns.INDEX]), seed, np.uint64))
        for name in (columns.EPOCH, columns.DATASET, columns.SHARD, columns.INDEX):
            states_B = _mix_array(states_B ^ block[name].astype(np.uint64))
        return cls(states_B)

    def uniform(self, purpose: str, count: int) -> npt.NDArray[np.float64]:
        """Numbers in [0, 1) [B, count]: the first ``count`` attempts of ``SampleDraw.uniform``."""
        steps = np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN)
        hashes = _mix_array((self.states_B ^ np.uint64(_purpose_bits(purpose)))[:, None] + steps)
        return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix_array(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """``_mix`` of each; unsigned arrays wrap by themselves."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
