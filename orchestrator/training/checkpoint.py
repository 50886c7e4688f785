"""Writing and reading checkpoints from all ranks: files locally, upload in the background, restore at any world size.

The local write holds up training; the upload does not, and at most one is under way. A checkpoint counts once its
complete marker is written, by rank 0, after the word of every rank that its files are up: a small file beside them,
which rank 0 waits for. No collective runs in a thread. Which folder is the last is ``checkpoint_folders.py``; what
lies in the files is ``fragment_files.py``.
"""

import hashlib
import json
import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.collectives import from_rank_zero
from orchestrator.errors import CheckpointError, OrchestratorError
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.storage.disk import naming_full_disk
from orchestrator.storage.marker import MarkedFile, upload_files, write_marker
from orchestrator.storage.store import Store
from orchestrator.training.checkpoint_folders import (
    LAYOUT_FILE,
    STATE_FILE,
    CheckpointRecord,
    EngineState,
    StoredCheckpoint,
    checkpoint_folder,
    find_checkpoint_of,
    find_stored,
    prune_checkpoints,
)
from orchestrator.training.ema import Ema
from orchestrator.training.engine import DeepSpeedEngine
from orchestrator.training.fragment_files import FileLayout, Piece, pieces_of, write_pieces
from orchestrator.training.stored_tensors import fetch_pieces

logger = logging.getLogger(__name__)

_OTHER_RANKS_TIMEOUT_S = 1800.0
_CLOSING_TIMEOUT_S = 30.0
_WORD_READERS = 16  # a thousand small objects one after another would take the better part of a minute


class Checkpoints:
    """The checkpoints of one run, seen by one rank of one attempt; all ranks call the same methods in step."""

    def __init__(self, store: Store, spec: CheckpointSpec, rank: int, world_size: int) -> None:
        """``store``: the run's folder. A collective."""
        self._store, self._spec = store, spec
        self._rank, self._world_size = rank, world_size
        # Files of an earlier attempt at the same step may still be there, or still be arriving.
        self._attempt: str = from_rank_zero(secrets.token_hex(4))
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._pending: Future[None] | None = None
        self._closing, self._left = threading.Event(), threading.Event()
        self._completed: deque[CheckpointRecord] = deque()
        self._removed: deque[str] = deque()
        self._local_prefix = f"checkpoint-{hashlib.sha256(store.uri.encode()).hexdigest()[:16]}-"
        _remove_leftovers(self._local_prefix)

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
        with naming_full_disk(tempfile.gettempdir()):
            local = Path(tempfile.mkdtemp(prefix=f"{self._local_prefix}{step}-"))
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
        stored: StoredCheckpoint | None = from_rank_zero(find_stored(self._store) if self._rank == 0 else None)
        if stored is not None:
            _take_up(self._store, stored, engine, ema)
        return stored

    def start_from(self, store: Store, step: int, engine: DeepSpeedEngine, ema: Ema | None) -> StoredCheckpoint:
        """Takes up the checkpoint of that step of another run, whose folder is ``store``; a collective.

        Raises:
            RunNotFoundError: that run has none of that step.
            CheckpointError: as ``restore``.
        """
        stored: StoredCheckpoint = from_rank_zero(find_checkpoint_of(store, step) if self._rank == 0 else None)
        _take_up(store, stored, engine, ema)
        return stored

    def leave(self) -> None:
        """The run is another holder's: what is under way never becomes a checkpoint, and nothing is removed."""
        self._left.set()

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
        if self._left.is_set():
            return
        layouts = {f"{name}.safetensors": word["layout"] for name, word in zip(names, words, strict=True)}
        common = local / "common"
        with naming_full_disk(local.parent):
            common.mkdir()
            (common / LAYOUT_FILE).write_text(json.dumps(layouts))
            (common / STATE_FILE).write_bytes(record.to_json())
        files = [MarkedFile(**file) for word in words for file in word["files"]]
        write_marker(self._store, record.folder, files + upload_files(self._store, record.folder, common))
        self._completed.append(record)
        self._prune()

    def _prune(self) -> None:
        try:
            self._removed += prune_checkpoints(
                self._store, self._spec.keep_last, self._spec.keep_best, self._spec.keep_steps
            )
        except OrchestratorError as error:  # the checkpoint is complete all the same, and the next one tries again
            logger.warning("an old checkpoint could not be removed: %s", error)

    def _wait_for_words(self, folder: str, names: Sequence[str]) -> list[dict[str, Any]]:
        deadline_s, pause_s = time.monotonic() + _OTHER_RANKS_TIMEOUT_S, 0.02
        words: dict[str, dict[str, Any]] = {}
        closing_seen = False
        with ThreadPoolExecutor(_WORD_READERS, thread_name_prefix="checkpoint-words") as readers:
            while True:
                words |= self._read_words(folder, [name for name in names if name not in words], readers)
                if len(words) == len(names):
                    return [words[name] for name in names]
                if self._closing.is_set() and not closing_seen:
                    closing_seen, deadline_s = True, time.monotonic() + _CLOSING_TIMEOUT_S
                if time.monotonic() > deadline_s:
                    missing = [rank for rank, name in enumerate(names) if name not in words]
                    raise CheckpointError(f"{self._store.uri}/{folder}: files of ranks {missing} did not come in time")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 1.0)

    def _read_words(self, folder: str, names: Sequence[str], readers: ThreadPoolExecutor) -> dict[str, dict[str, Any]]:
        """Those that are there: one listing instead of a request for each rank that is not done yet."""
        present = {info.path for info in self._store.list(folder)}
        arrived = [name for name in names if f"{folder}/{name}.json" in present]
        contents = readers.map(self._store.read_bytes, [f"{folder}/{name}.json" for name in arrived])
        return {name: json.loads(content) for name, content in zip(arrived, contents, strict=True)}


def _remove_leftovers(prefix: str) -> None:
    """Copies that an attempt left on this node whose processes were killed: nobody else saves before all ranks do."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(folder, ignore_errors=True)


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


def _take_up(store: Store, stored: StoredCheckpoint, engine: DeepSpeedEngine, ema: Ema | None) -> None:
    """Whatever world size and ZeRO stage wrote it."""
    state = stored.record.engine
    if ema is not None and state.ema_updates is None:
        raise CheckpointError(f"{stored.record.uri} holds no average of the weights; leave 'ema' out, or start anew")
    fetch_pieces(store, stored, pieces_of(engine.partition, ema))
    engine.partition.num_updates = state.num_updates
    engine.steps_taken = state.steps_taken
    engine.loss_scale = state.loss_scale
    engine.guard.restore(state.guard)
    if ema is not None and state.ema_updates is not None:
        ema.num_updates = state.ema_updates
    engine.partition.refresh()


def _engine_state(engine: DeepSpeedEngine, ema: Ema | None) -> EngineState:
    return EngineState(
        steps_taken=engine.steps_taken,
        num_updates=engine.partition.num_updates,
        loss_scale=engine.loss_scale,
        ema_updates=None if ema is None else ema.num_updates,
        shapes=engine.shapes,
        guard=engine.guard.state(),
    )
