"""Random numbers without state: a draw is a hash of who draws and for what.

Each field is folded into a 64-bit state by the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), a
bijection of good avalanche: no generator to save, restore or share, and a sample draws the same crop on whichever
worker, in whatever order, before and after a resume. Not for secrets.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b

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
