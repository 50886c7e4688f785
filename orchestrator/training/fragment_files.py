"""The tensors of a checkpoint as files: each rank writes what it holds, any number of ranks reads it back.

A file holds, for each fragment of one rank, its fp32 master, AdamW's moments and its average, as one-dimensional
tensors named ``section/parameter``; a layout says which elements of each parameter they are. A reader takes from the
files whatever overlaps with the fragments it holds. So there is one form for every world size, ZeRO stage and
precision, nothing is gathered on one rank, and nothing is unpickled.

Trade-off against deepspeed's own form: reading at another world size fetches more than one file per rank, and no
conversion stands between.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.errors import CheckpointError
from orchestrator.training.ema import Ema
from orchestrator.training.partition import Partition

MASTER, AVERAGE = "master", "ema"

FileLayout = dict[str, tuple[int, int]]
"""Parameter name to first element and number of elements, of one file."""


@dataclass(frozen=True)
class Piece:
    """Where elements of one parameter go: ``tensors`` (one per section, 1-D) begin at its element ``start``."""

    name: str
    start: int
    tensors: dict[str, Tensor]

    @property
    def stop(self) -> int:
        return self.start + next(iter(self.tensors.values())).numel()


def pieces_of(partition: Partition, ema: Ema | None) -> list[Piece]:
    """All that a checkpoint keeps of this rank's fragments, as views."""
    pieces = []
    for index, fragment in enumerate(partition.fragments):
        tensors = {MASTER: fragment.master, **fragment.moments}
        if ema is not None:
            tensors[AVERAGE] = ema.averages[index]
        pieces.append(Piece(fragment.name, fragment.start, tensors))
    return pieces


def write_pieces(file: Path, pieces: Iterable[Piece]) -> FileLayout:
    """Write one file. Returns what lies in it."""
    tensors: dict[str, Tensor] = {}
    layout: FileLayout = {}
    for piece in pieces:
        layout[piece.name] = (piece.start, piece.stop - piece.start)
        tensors |= {f"{section}/{piece.name}": tensor.cpu() for section, tensor in piece.tensors.items()}
    save_file(tensors, file)
    return layout


def files_for(pieces: Iterable[Piece], layouts: Mapping[str, FileLayout]) -> Iterator[str]:
    """The files that hold something of ``pieces``, by their name in ``layouts``."""
    wanted = {piece.name: piece for piece in pieces}
    for file, layout in layouts.items():
        if any(name in wanted and _overlap(wanted[name], span) for name, span in layout.items()):
            yield file


@torch.no_grad()
def read_pieces(file: Path, layout: FileLayout, pieces: Iterable[Piece]) -> int:
    """Fill ``pieces`` with what ``file`` holds of them. Returns the number of elements filled, sections apart.

    Raises:
        CheckpointError: the file is not what ``layout`` says, or no safetensors file at all.
    """
    num_filled = 0
    try:
        with safe_open(file, framework="pt") as tensors:
            for piece in pieces:
                overlap = _overlap(piece, layout.get(piece.name, (0, 0)))
                if overlap is None:
                    continue
                start, stop = overlap
                first, _ = layout[piece.name]
                for section, tensor in piece.tensors.items():
                    stored = tensors.get_slice(f"{section}/{piece.name}")[start - first : stop - first]
                    tensor[start - piece.start : stop - piece.start].copy_(stored)
                    num_filled += stop - start
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{file.name} of a checkpoint does not hold what its layout says: {error}") from error
    return num_filled


def _overlap(piece: Piece, span: tuple[int, int]) -> tuple[int, int] | None:
    start, numel = span
    low, high = max(piece.start, start), min(piece.stop, start + numel)
    return (low, high) if low < high else None
