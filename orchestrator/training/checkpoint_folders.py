"""The checkpoints of a run as folders: which is the last, which may go.

    checkpoints/step-00000123/COMPLETE.json          written last: files, sizes, checksums
                              state.json             what the run and the engine must know to go on
                              layout.json            which elements of which parameter lie in which file
                              ledger.parquet         which samples were trained (data/ledger.py)
                              *.safetensors          tensors, one file per rank (fragment_files.py)
    promoted/MODEL@ALIAS.json                        the step that has an alias in the model registry

Knows no tensors and imports no torch, so that a driver can ask.
"""

import json
import logging
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from orchestrator.errors import RunNotFoundError
from orchestrator.storage.marker import Marker, delete_marked, download_file, read_marker
from orchestrator.storage.store import Store

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
PROMOTED = "promoted"
STATE_FILE = "state.json"
LAYOUT_FILE = "layout.json"
LEDGER_FILE = "ledger.parquet"
HELDOUT = "heldout"
"""Key of a run's state: digest of the samples that the score is taken on; they may change between attempts."""
CheckpointChoice = Literal["last", "best"] | int
"""The newest, that of least held-out loss, or that of a step."""

_FOLDER = re.compile(rf"{CHECKPOINTS}/step-(\d{{8,}})(?=/)")
_VERSION = 1


@dataclass(frozen=True)
class EngineState:
    """What the engine and the average must know beside their tensors."""

    steps_taken: int
    num_updates: int
    """AdamW's count: without the steps that were left out."""
    loss_scale: float
    ema_updates: int | None
    shapes: dict[str, list[int]]
    """Of each parameter, whole."""
    guard: dict[str, Any] = field(default_factory=dict)
    """What ``training/guard.py`` goes on from."""


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint; ``state`` is what the run handed to ``save``."""

    step: int
    uri: str
    state: dict[str, Any]
    score: float | None
    """The held-out loss, of which the least is best; none: it was not measured."""
    engine: EngineState

    @property
    def folder(self) -> str:
        """Relative to the run's folder."""
        return checkpoint_folder(self.step)

    def to_json(self) -> bytes:
        """The content of ``state.json``."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, uri: str) -> "CheckpointRecord":
        """The opposite; ``uri`` is where it lies now. Raises ValueError, KeyError or TypeError for other content."""
        values = json.loads(content)
        if (version := values.pop("version")) != _VERSION:
            raise ValueError(f"version {version!r}, wanted {_VERSION}")
        return cls(**{**values, "uri": uri, "engine": EngineState(**values["engine"])})


@dataclass(frozen=True)
class StoredCheckpoint:
    """A complete checkpoint folder with its files."""

    record: CheckpointRecord
    marker: Marker


def checkpoint_folder(step: int) -> str:
    """Folder of a step, below the run's."""
    return f"{CHECKPOINTS}/step-{step:08d}"


def find_stored(store: Store) -> StoredCheckpoint | None:
    """The newest complete checkpoint; a newer folder that is not complete is passed over, and the log says so."""
    faults: list[str] = []
    for stored in _newest_first(store):
        if isinstance(stored, StoredCheckpoint):
            for fault in faults:
                logger.warning("%s; going back to step %s", fault, f"{stored.record.step:,}")
            return stored
        faults.append(f"checkpoint {store.uri}/{stored.folder} does not count: {stored.fault}")
    for fault in faults:
        logger.warning("%s; there is none before it", fault)
    return None


def list_stored(store: Store) -> list[StoredCheckpoint]:
    """All complete checkpoints, the newest first."""
    return [stored for stored in _newest_first(store) if isinstance(stored, StoredCheckpoint)]


def read_attachment(store: Store, stored: StoredCheckpoint, name: str) -> bytes | None:
    """A file that the run put beside the tensors; None when this checkpoint has none of that name.

    Raises:
        CheckpointError: its checksum differs from the marker's.
    """
    marked = next((file for file in stored.marker.files if file.path == name), None)
    if marked is None:
        return None
    with tempfile.TemporaryDirectory(prefix="checkpoint-attachment-") as folder:
        local = Path(folder, name)
        download_file(store, stored.marker.folder, marked, local)
        return local.read_bytes()


def find_checkpoint(store: Store) -> CheckpointRecord | None:
    """What ``find_stored`` finds, without its files."""
    stored = find_stored(store)
    return stored.record if stored else None


def find_checkpoint_of(store: Store, checkpoint: CheckpointChoice = "last") -> StoredCheckpoint:
    """The run's newest complete checkpoint, that of least held-out loss, or that of a step.

    Raises:
        RunNotFoundError: it has none, or not that one.
    """
    if checkpoint == "last":
        stored = find_stored(store)
    else:
        complete = list_stored(store)
        best = best_of(one.record for one in complete) if checkpoint == "best" else None
        step = best.step if best is not None else checkpoint
        stored = next((one for one in complete if one.record.step == step), None)
        if complete and stored is None:
            steps = ", ".join(f"{one.record.step:,}" for one in reversed(complete))
            what = "with a held-out loss (data.heldout)" if checkpoint == "best" else f"of step {checkpoint:,}"
            raise RunNotFoundError(f"{store.uri} has no complete checkpoint {what}; it has those of steps {steps}")
    if stored is None:
        raise RunNotFoundError(f"{store.uri} has no complete checkpoint yet; run the job until it has written one")
    return stored


def best_of(records: Iterable[CheckpointRecord]) -> CheckpointRecord | None:
    """The one of least score, of equals the first; None where none has a score.

    Losses on other held-out samples than the newest say nothing beside it; an earlier version did not note which.
    """
    scored = [record for record in records if record.score is not None and math.isfinite(record.score)]
    newest = max(scored, key=lambda record: record.step, default=None)
    wanted = newest.state.get(HELDOUT) if newest else None
    alike = [record for record in scored if record.state.get(HELDOUT, wanted) == wanted]
    return min(alike, key=lambda record: (record.score or 0.0, record.step), default=None)


def prune_checkpoints(store: Store, keep_last: int, keep_best: bool, keep_steps: Sequence[int] = ()) -> list[str]:
    """Deletes all but the newest ``keep_last`` complete checkpoints and, with ``keep_best``, the one of least score.

    Those of ``keep_steps`` stay, and those that an alias of the model registry names. Folders before the newest
    complete one that never became complete go too; what is newer is left alone. Returns the URIs of complete ones that
    went.
    """
    assert keep_last >= 1, "the newest complete checkpoint is never deleted"
    found = list(_newest_first(store))
    complete = [stored.record for stored in found if isinstance(stored, StoredCheckpoint)]
    kept = {record.folder for record in complete[:keep_last]}
    if keep_best and (best := best_of(complete)) is not None:
        kept.add(best.folder)
    kept |= {checkpoint_folder(step) for step in (*keep_steps, *_promoted_steps(store))}
    newest = complete[0].folder if complete else ""
    removed = []
    for stored in found:
        folder = stored.record.folder if isinstance(stored, StoredCheckpoint) else stored.folder
        if folder < newest and folder not in kept:
            delete_marked(store, folder)
            if isinstance(stored, StoredCheckpoint):
                removed.append(stored.record.uri)
    return removed


def keep_promoted(store: Store, model: str, alias: str, step: int) -> int | None:
    """Note that a checkpoint has an alias; returns the step that had it in this run before."""
    path = _promoted_file(model, alias)
    before = json.loads(store.read_bytes(path))["step"] if store.stat(path) is not None else None
    store.write_bytes(path, json.dumps({"step": step}).encode())
    return before


def release_promoted(store: Store, model: str, alias: str, back_to: int | None = None) -> None:
    """No checkpoint of this run has the alias any more, or that of step ``back_to`` has it again."""
    if back_to is None:
        store.delete(_promoted_file(model, alias))
    else:
        keep_promoted(store, model, alias, back_to)


def _promoted_file(model: str, alias: str) -> str:
    return f"{PROMOTED}/{quote(model, safe='')}@{quote(alias, safe='')}.json"


def _promoted_steps(store: Store) -> list[int]:
    return [json.loads(store.read_bytes(info.path))["step"] for info in store.list(PROMOTED)]


def _newest_first(store: Store) -> Iterator[StoredCheckpoint | Marker]:
    """Complete checkpoints, and the markers of folders that are not, with their fault."""
    steps = {int(match[1]) for info in store.list(CHECKPOINTS) if (match := _FOLDER.match(info.path))}
    for step in sorted(steps, reverse=True):
        marker = read_marker(store, checkpoint_folder(step))
        yield marker if marker.fault else _with_state(store, marker)


def _with_state(store: Store, marker: Marker) -> StoredCheckpoint | Marker:
    try:
        content = store.read_bytes(f"{marker.folder}/{STATE_FILE}")
        return StoredCheckpoint(CheckpointRecord.from_json(content, f"{store.uri}/{marker.folder}"), marker)
    except (ValueError, KeyError, TypeError) as error:
        return Marker(marker.folder, fault=f"{STATE_FILE} is not readable: {error!r}")
