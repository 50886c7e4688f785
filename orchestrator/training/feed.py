"""Batches on their way to the device: the next step's are copied while the present step runs there.

Copies have a CUDA stream of their own, and the step's stream waits for them by an event, never the host. On a CPU the
copy is an ordinary one; what is taken when, and what an error does, is the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.training.step import Batch

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class StepBatch:
    """The micro batches of one step of this worker.

    Args:
        arrays: all columns, on the host.
        tensors: what the objective reads, on the device.
        copied: when ``tensors`` are there; None: they are.
    """

    arrays: Sequence[Arrays]
    tensors: list[Batch]
    copied: torch.cuda.Event | None


class Feed:
    """An iterator of ``StepBatch``; between two of them ``prefetch`` starts the next one's copy.

    Args:
        source: the micro batches of each step.
        prepare: from a micro batch's arrays to its tensors on the device.
    """

    def __init__(
        self, source: Iterator[Sequence[Arrays]], prepare: Callable[[Arrays], Batch], device: torch.device
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._ahead: StepBatch | Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepBatch:
        """The next batch; work that is given to the current stream from here on finds its tensors complete."""
        if self._ahead is None:
            self.prefetch()
        batch, self._ahead = self._ahead, None
        if isinstance(batch, Exception):
            raise batch
        assert batch is not None, "prefetch leaves a batch or an error"
        if batch.copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(batch.copied)
            for tensor in (tensor for micro in batch.tensors for tensor in micro.values()):
                tensor.record_stream(current)  # its memory belongs to the other stream, which could give it away
        return batch

    def prefetch(self) -> None:
        """Take the next batch and start its copy, unless that is done; call it when a step has been launched.

        What goes wrong is raised by the next ``next``: the step before is whole and may still be saved.
        """
        if self._ahead is None:
            try:
                self._ahead = self._copy(next(self._source))
            except Exception as error:  # noqa: BLE001  # raised where the batch is used
                self._ahead = error

    def _copy(self, arrays: Sequence[Arrays]) -> StepBatch:
        with torch.cuda.stream(self._stream):  # None: as it is
            tensors = [self._prepare(micro) for micro in arrays]
        return StepBatch(arrays, tensors, self._stream.record_event() if self._stream else None)
