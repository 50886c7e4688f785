"""Reading a checkpoint's tensors: pieces of them, or whole weights, from the files that hold them."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.errors import CheckpointError
from orchestrator.storage.ahead import map_ahead
from orchestrator.storage.marker import download_file
from orchestrator.storage.store import Store
from orchestrator.training.checkpoint_folders import LAYOUT_FILE, StoredCheckpoint
from orchestrator.training.fragment_files import AVERAGE, MASTER, FileLayout, Piece, files_for, read_pieces

_FILES_AHEAD = 4  # of a thousand ranks' checkpoint: fetched one by one they would take a minute; a bound on the disk


def load_weights(store: Store, stored: StoredCheckpoint, average: bool) -> dict[str, Tensor]:
    """Whole parameters by name, fp32 on the CPU: the raw master weights, or their average.

    Raises:
        CheckpointError: a damaged file, or no average in this checkpoint.
    """
    if average and stored.record.engine.ema_updates is None:
        raise CheckpointError(f"{stored.record.uri} holds no average of the weights; ask for the raw ones")
    shapes = stored.record.engine.shapes
    flat = {name: torch.empty(torch.Size(shape).numel()) for name, shape in shapes.items()}
    section = AVERAGE if average else MASTER
    fetch_pieces(store, stored, [Piece(name, 0, {section: tensor}) for name, tensor in flat.items()])
    return {name: tensor.view(shapes[name]) for name, tensor in flat.items()}


def fetch_pieces(store: Store, stored: StoredCheckpoint, pieces: Sequence[Piece]) -> None:
    """Fills ``pieces`` from a checkpoint, fetching only the files that hold some of them, a few at a time.

    Raises:
        CheckpointError: a file whose checksum differs or that is no safetensors file, or elements that none holds.
    """
    folder, uri = stored.marker.folder, stored.record.uri
    marked = {file.path: file for file in stored.marker.files}

    def fetch(name: str) -> Path:
        if name not in marked:
            raise CheckpointError(f"{uri}/{name} is not among the files of its marker")
        download_file(store, folder, marked[name], local / name)
        return local / name

    with tempfile.TemporaryDirectory(prefix="checkpoint-restore-") as folder_name:
        local = Path(folder_name)
        layouts: dict[str, FileLayout] = json.loads(fetch(LAYOUT_FILE).read_bytes())
        num_filled = 0
        names = files_for(pieces, layouts)
        with closing(map_ahead(fetch, names, threads=_FILES_AHEAD, ahead=_FILES_AHEAD)) as files:
            for file in files:
                num_filled += read_pieces(file, layouts[file.name], pieces)
                file.unlink()
    num_wanted = sum(tensor.numel() for piece in pieces for tensor in piece.tensors.values())
    if num_filled != num_wanted:
        stored_names = {name for layout in layouts.values() for name in layout}
        unknown = sorted({piece.name for piece in pieces} - stored_names)
        raise CheckpointError(
            f"{uri} holds {num_filled:,} of {num_wanted:,} elements that this model needs; "
            f"parameters that it does not know: {unknown[:5] or 'none'}"
        )
