"""Writing and reading checkpoints from all ranks: files locally, upload in the background, restore at any world size.

The local write holds up training; the upload does not, and at most one is under way. A checkpoint counts once its
complete marker is written, by rank 0, after the word of every rank that its files are up: a small file beside them,
which rank 0 waits for. No collective runs in a thread. Which folder is the last is ``checkpoint_folders.py``; what
lies in the files is ``fragment_files.py``.
"""

import json
import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import CheckpointError
from orchestrator.spec.job import CheckpointSpec
from orchestrator.storage.disk import naming_full_disk
from orchestrator.storage.marker import MarkedFile, download_file, upload_files, write_marker
from orchestrator.storage.store import ObjectNotFoundError, Store
from orchestrator.training.checkpoint_folders import (
    STATE_FILE,
    CheckpointRecord,
    EngineState,
    StoredCheckpoint,
    checkpoint_folder,
    find_stored,
    prune_checkpoints,
)
from orchestrator.training.ema import Ema
from orchestrator.training.engine import DeepSpeedEngine
from orchestrator.training.fragment_files import (
    AVERAGE,
    MASTER,
    FileLayout,
    Piece,
    files_for,
    pieces_of,
    read_pieces,
    write_pieces,
)

logger = logging.getLogger(__name__)

LAYOUT_FILE = "layout.json"
_OTHER_RANKS_TIMEOUT_S = 1800.0
_CLOSING_TIMEOUT_S = 30.0


class Checkpoints:
    """The checkpoints of one run, seen by one rank of one attempt; all ranks call the same methods in step."""

    def __init__(self, store: Store, spec: CheckpointSpec, rank: int, world_size: int) -> None:
        """``store``: the run's folder. A collective."""
        self._store, self._spec = store, spec
        self._rank, self._world_size = rank, world_size
        # Files of an earlier attempt at the same step may still be there, or still be arriving.
        self._attempt: str = _from_rank_zero(secrets.token_hex(4))
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._pending: Future[None] | None = None
        self._closing = threading.Event()
        self._completed: deque[CheckpointRecord] = deque()
        self._removed: deque[str] = deque()

    def save(
        self,
        engine: DeepSpeedEngine,
        ema: Ema | None,
        step: int,
        state: dict[str, Any],
        score: float | None = None,
        wait: bool = False,
        attachments: Mapping[str, bytes] | None = None,
    ) -> tuple[CheckpointRecord, float]:
        """Writes a checkpoint; returns its record and the seconds for which training stood still.

        ``state``: JSON, the same on all ranks. ``score``: lower is better, for keeping the best. ``wait``: returns once
        this rank's files are up and, on rank 0, once the marker is written. ``attachments``: of rank 0, files that lie
        beside the tensors.

        Raises:
            CheckpointError: another rank's files of this or the checkpoint before never came.
            ShardReadError, StorageAccessError: so says the store, now or about the checkpoint before; or the local disk
                is full.
        """
        start_s = time.monotonic()
        self._finish_upload()
        record = CheckpointRecord(
            step=step,
            uri=f"{self._store.uri}/{checkpoint_folder(step)}",
            state=state,
            score=score,
            engine=_engine_state(engine, ema),
        )
        local = Path(tempfile.mkdtemp(prefix=f"checkpoint-{step}-"))
        name = f"{self._attempt}-{self._rank:05d}"
        layout = _write_locally(local, name, self._own_pieces(engine, ema), attachments or {})
        self._pending = self._uploader.submit(self._upload, record, local, name, layout)
        if wait:
            self._finish_upload()
        return record, time.monotonic() - start_s

    def take_completed(self) -> list[CheckpointRecord]:
        """Checkpoints whose marker was written since the last call; on rank 0, empty elsewhere."""
        if self._pending is not None and self._pending.done():
            self._finish_upload()
        return [self._completed.popleft() for _ in range(len(self._completed))]

    def take_removed(self) -> list[str]:
        """URIs of checkpoints that retention has removed since the last call; on rank 0."""
        return [self._removed.popleft() for _ in range(len(self._removed))]

    def restore(self, engine: DeepSpeedEngine, ema: Ema | None) -> StoredCheckpoint | None:
        """Takes up the newest complete checkpoint, whatever world size and ZeRO stage wrote it; a collective.

        Raises:
            CheckpointError: a damaged file, or tensors that are not this model's; names folder and file.
        """
        stored: StoredCheckpoint | None = _from_rank_zero(find_stored(self._store) if self._rank == 0 else None)
        if stored is None:
            return None
        state = stored.record.engine
        if ema is not None and state.ema_updates is None:
            raise CheckpointError(
                f"{stored.record.uri} holds no average of the weights; leave 'ema' out, or start anew"
            )
        fetch_pieces(self._store, stored, pieces_of(engine.partition, ema))
        engine.partition.num_updates = state.num_updates
        engine.steps_taken = state.steps_taken
        engine.loss_scale = state.loss_scale
        engine.guard.restore(state.guard)
        if ema is not None and state.ema_updates is not None:
            ema.num_updates = state.ema_updates
        engine.partition.refresh()
        return stored

    def close(self) -> None:
        """Lets an upload under way come to its end, half a minute at most; what fails now is logged."""
        self._closing.set()
        self._uploader.shutdown(wait=True)
        if self._pending is not None and (error := self._pending.exception()):
            logger.warning("the last checkpoint is not complete: %s", error)

    def _own_pieces(self, engine: DeepSpeedEngine, ema: Ema | None) -> list[Piece]:
        """What this rank writes: all that it alone holds, and its share of what every rank holds."""
        alone: list[Piece] = []
        shared: list[Piece] = []
        for fragment, piece in zip(engine.partition.fragments, pieces_of(engine.partition, ema), strict=True):
            (shared if fragment.is_shared else alone).append(piece)
        return alone + shared[self._rank :: self._world_size]

    def _finish_upload(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _upload(self, record: CheckpointRecord, local: Path, name: str, layout: FileLayout) -> None:
        try:
            files = upload_files(self._store, record.folder, local)
            word = {"files": [asdict(file) for file in files], "layout": layout}
            self._store.write_bytes(f"{record.folder}/{name}.json", json.dumps(word).encode())
            if self._rank == 0:
                self._complete(record, local)
        finally:
            shutil.rmtree(local, ignore_errors=True)

    def _complete(self, record: CheckpointRecord, local: Path) -> None:
        names = [f"{self._attempt}-{rank:05d}" for rank in range(self._world_size)]
        words = self._wait_for_words(record.folder, names)
        layouts = {f"{name}.safetensors": word["layout"] for name, word in zip(names, words, strict=True)}
        common = local / "common"
        common.mkdir()
        (common / LAYOUT_FILE).write_text(json.dumps(layouts))
        (common / STATE_FILE).write_bytes(record.to_json())
        files = [MarkedFile(**file) for word in words for file in word["files"]]
        write_marker(self._store, record.folder, files + upload_files(self._store, record.folder, common))
        self._completed.append(record)
        self._removed += prune_checkpoints(self._store, self._spec.keep_last, self._spec.keep_best)

    def _wait_for_words(self, folder: str, names: Sequence[str]) -> list[dict[str, Any]]:
        deadline_s, pause_s = time.monotonic() + _OTHER_RANKS_TIMEOUT_S, 0.02
        words: dict[str, dict[str, Any]] = {}
        closing_seen = False
        while True:
            for name in names:
                if name not in words:
                    try:
                        words[name] = json.loads(self._store.read_bytes(f"{folder}/{name}.json"))
                    except ObjectNotFoundError:
                        break
            if len(words) == len(names):
                return [words[name] for name in names]
            if self._closing.is_set() and not closing_seen:
                closing_seen, deadline_s = True, time.monotonic() + _CLOSING_TIMEOUT_S
            if time.monotonic() > deadline_s:
                missing = [names.index(name) for name in names if name not in words]
                raise CheckpointError(f"{self._store.uri}/{folder}: files of ranks {missing} did not come in time")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


def _write_locally(local: Path, name: str, pieces: list[Piece], attachments: Mapping[str, bytes]) -> FileLayout:
    """The files of one rank; half of them must not go on filling a full disk."""
    try:
        with naming_full_disk(local.parent):
            layout = write_pieces(local / f"{name}.safetensors", pieces)
            for file, content in attachments.items():
                (local / file).write_bytes(content)
            return layout
    except BaseException:
        shutil.rmtree(local, ignore_errors=True)
        raise


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
    """Fills ``pieces`` from a checkpoint, fetching only the files that hold some of them, one at a time.

    Raises:
        CheckpointError: a file whose checksum differs or that is no safetensors file, or elements that none holds.
    """
    folder, uri = stored.marker.folder, stored.record.uri
    marked = {file.path: file for file in stored.marker.files}

    @contextmanager
    def fetched(name: str) -> Iterator[Path]:
        if name not in marked:
            raise CheckpointError(f"{uri}/{name} is not among the files of its marker")
        download_file(store, folder, marked[name], local / name)
        yield local / name
        (local / name).unlink()

    with tempfile.TemporaryDirectory(prefix="checkpoint-restore-") as folder_name:
        local = Path(folder_name)
        with fetched(LAYOUT_FILE) as file:
            layouts: dict[str, FileLayout] = json.loads(file.read_bytes())
        num_filled = 0
        for name in files_for(pieces, layouts):
            with fetched(name) as file:
                num_filled += read_pieces(file, layouts[name], pieces)
    num_wanted = sum(tensor.numel() for piece in pieces for tensor in piece.tensors.values())
    if num_filled != num_wanted:
        stored_names = {name for layout in layouts.values() for name in layout}
        unknown = sorted({piece.name for piece in pieces} - stored_names)
        raise CheckpointError(
            f"{uri} holds {num_filled:,} of {num_wanted:,} elements that this model needs; "
            f"parameters that it does not know: {unknown[:5] or 'none'}"
        )


def _engine_state(engine: DeepSpeedEngine, ema: Ema | None) -> EngineState:
    return EngineState(
        steps_taken=engine.steps_taken,
        num_updates=engine.partition.num_updates,
        loss_scale=engine.loss_scale,
        ema_updates=None if ema is None else ema.num_updates,
        shapes=engine.shapes,
        guard=engine.guard.state(),
    )


def _from_rank_zero(value: Any) -> Any:
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
