"""Checkpoints that no training wrote: whole fp32 tensors, one after the other, in the form of all checkpoints.

Holds weights alone, no moments and no average: it is evaluated, exported, averaged and started from, but a run does
not go on from it. Written and read tensor by tensor, so that memory holds one of them at a time.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import CheckpointError
from orchestrator.storage.marker import download_file, upload_files, write_marker
from orchestrator.storage.store import Store
from orchestrator.training.checkpoint_folders import (
    LAYOUT_FILE,
    STATE_FILE,
    CheckpointRecord,
    EngineState,
    StoredCheckpoint,
    checkpoint_folder,
)
from orchestrator.training.fragment_files import AVERAGE, MASTER, FileLayout, Piece, files_for, read_pieces

WEIGHTS_FILE = "weights.safetensors"

Shapes = Mapping[str, list[int]]


def write_checkpoint(
    store: Store, step: int, state: dict[str, Any], shapes: Shapes, tensors: Iterable[tuple[str, Tensor]]
) -> CheckpointRecord:
    """A complete checkpoint below a run's ``store``; ``tensors`` come in the order of ``shapes``."""
    engine = EngineState(
        steps_taken=step,
        num_updates=0,
        loss_scale=1.0,
        ema_updates=None,
        shapes={name: list(shape) for name, shape in shapes.items()},
    )
    folder = checkpoint_folder(step)
    record = CheckpointRecord(step, f"{store.uri}/{folder}", state, None, engine)
    layout: FileLayout = {name: (0, torch.Size(shape).numel()) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory(prefix="checkpoint-made-") as name:
        local = Path(name)
        _write_safetensors(local / WEIGHTS_FILE, layout, tensors)
        (local / LAYOUT_FILE).write_text(json.dumps({WEIGHTS_FILE: layout}))
        (local / STATE_FILE).write_bytes(record.to_json())
        write_marker(store, folder, upload_files(store, folder, local))
    return record


def _write_safetensors(file: Path, layout: FileLayout, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """One-dimensional fp32 tensors in the safetensors format: length of the header, header (JSON), their bytes."""
    header, end = {}, 0
    for name, (_, numel) in layout.items():
        header[f"{MASTER}/{name}"] = {"dtype": "F32", "shape": [numel], "data_offsets": [end, end + 4 * numel]}
        end += 4 * numel
    text = json.dumps(header).encode()
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for wanted, (name, tensor) in zip(layout, tensors, strict=True):
            assert (name, tensor.numel()) == (wanted, layout[wanted][1]), "tensors come in the order of their shapes"
            stream.write(tensor.detach().float().contiguous().numpy().tobytes())


class WholeTensors:
    """The weights of one checkpoint, tensor by tensor; made by ``open_tensors``."""

    def __init__(self, stored: StoredCheckpoint, local: Path, section: str) -> None:
        self._uri, self._local, self._section = stored.record.uri, local, section
        self.shapes: Shapes = stored.record.engine.shapes
        self._layouts: dict[str, FileLayout] = json.loads((local / LAYOUT_FILE).read_bytes())

    def read(self, name: str) -> Tensor:
        """One parameter, whole, fp32. Raises CheckpointError for a file that does not hold what it should."""
        flat = torch.empty(torch.Size(self.shapes[name]).numel())
        piece = Piece(name, 0, {self._section: flat})
        files = files_for([piece], self._layouts)
        num_filled = sum(read_pieces(self._local / file, self._layouts[file], [piece]) for file in files)
        if num_filled != flat.numel():
            raise CheckpointError(f"{self._uri} holds {num_filled:,} of the {flat.numel():,} elements of {name}")
        return flat.view(self.shapes[name])


@contextmanager
def open_tensors(store: Store, stored: StoredCheckpoint, average: bool) -> Iterator[WholeTensors]:
    """A checkpoint's files on the local disk, for as long as the context lasts.

    Raises:
        CheckpointError: a damaged file, or an average asked for that is not there.
    """
    if average and stored.record.engine.ema_updates is None:
        raise CheckpointError(f"{stored.record.uri} holds no average of the weights; ask for the raw ones")
    with tempfile.TemporaryDirectory(prefix="checkpoint-whole-") as name:
        for file in stored.marker.files:
            if file.path == LAYOUT_FILE or file.path.endswith(".safetensors"):
                download_file(store, stored.marker.folder, file, Path(name) / file.path)
        yield WholeTensors(stored, Path(name), AVERAGE if average else MASTER)
