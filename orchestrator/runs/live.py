"""What other machines see of a live run, and how they ask it to stop: small files in the run's folder.

progress.json        how far the run is; its driver rewrites it every few seconds
ranks.json           which actor of Ray's each rank is, once all have started
stop.json            a request to stop; the driver takes it away at its end, and one that was left for an earlier start

A thread of the driver's does all of it: no step and no report waits for storage.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from orchestrator.env import submission_id
from orchestrator.errors import ShardReadError, StorageAccessError
from orchestrator.redaction import redact
from orchestrator.runs.interrupts import StopRequest
from orchestrator.storage.store import ObjectNotFoundError, Store
from orchestrator.tracking.tracker import RunStatus
from orchestrator.training.reports import PlaceReport

logger = logging.getLogger(__name__)

PROGRESS_FILE, RANKS_FILE, STOP_FILE = "progress.json", "ranks.json", "stop.json"
INTERVAL_S = 5.0
SILENT_AFTER_S = 60.0


@dataclass(frozen=True)
class LiveRecord:
    """How far a run is, as its driver last wrote it. Fields added later have defaults: older versions' records read."""

    run: str
    submission: str | None
    """None: somebody typed ``orchestrator run``."""
    status: RunStatus
    step: int
    steps: int
    global_size: float
    """Samples of a step; where that changes, the mean of the steps to come."""
    samples_per_s: float | None
    checkpoint_uri: str
    tracking_uri: str
    mlflow_run_id: str | None
    written_at: float
    """Seconds since 1970, by the driver's clock."""
    reason: str = ""
    """Why it ended, where it did not finish."""
    unit: str = "steps"
    """What ``step`` counts; of a comparison its trials."""

    @property
    def seconds_left(self) -> float | None:
        """Of training at the last speed; None where that is not known."""
        if self.status != RunStatus.RUNNING or not self.samples_per_s:
            return None
        return (self.steps - self.step) * self.global_size / self.samples_per_s

    @property
    def is_silent(self) -> bool:
        """Whether a driver that trains should have written again by now."""
        return self.status == RunStatus.RUNNING and time.time() - self.written_at > SILENT_AFTER_S


_RECORD = TypeAdapter(LiveRecord)


class LivePost:
    """The driver's end; within ``with`` its thread writes and looks. ``look`` tells how far the run is."""

    def __init__(
        self,
        store: Store,
        stop: StopRequest,
        look: Callable[[], LiveRecord],
        places: Mapping[int, PlaceReport],
        num_ranks: int,
        interval_s: float = INTERVAL_S,
        is_last: bool = True,
    ) -> None:
        """``is_last``: no other post of the same submission follows, which would heed a request that came late."""
        self._store = store
        self._submission = submission_id()
        self._stop = stop
        self._look = look
        self._places = places
        self._num_ranks = num_ranks
        self._interval_s = interval_s
        self._is_last = is_last
        self._written_places: dict[int, PlaceReport] = {}
        self._failing = self._is_left = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)

    def __enter__(self) -> Self:
        self._guarded(self._drop_old_request)
        self._thread.start()
        return self

    def leave(self) -> None:
        """The run is another driver's: its end is not written here, nor a request to stop removed."""
        self._is_left = True

    def __exit__(self, *_: object) -> None:
        """Write how the run ended, as ``look`` tells it by now."""
        self._ended.set()
        self._thread.join()
        if self._is_left:
            return
        self._guarded(self._write)
        if self._is_last:
            self._guarded(lambda: self._store.delete(STOP_FILE))

    def _work(self) -> None:
        while True:
            self._guarded(self._write)
            self._guarded(self._heed)
            if self._ended.wait(self._interval_s):
                return

    def _write(self) -> None:
        places = dict(self._places)
        if len(places) == self._num_ranks and places != self._written_places:
            ranks = {str(rank): {"actor": place.actor, "node": place.node} for rank, place in sorted(places.items())}
            content = {"submission": self._submission, "ranks": ranks}
            self._store.write_bytes(RANKS_FILE, json.dumps(content).encode())
            self._written_places = places
        self._store.write_bytes(PROGRESS_FILE, redact(json.dumps(asdict(self._look()))).encode())

    def _heed(self) -> None:
        request = _read(self._store, STOP_FILE)
        if request is not None and not self._stop.requested and request.get("submission") == self._submission:
            asked_by = str(request.get("asked_by"))
            self._stop.ask(asked_by)
            logger.warning("%s: writing a checkpoint, then stopping", asked_by)

    def _drop_old_request(self) -> None:
        """One for this submission may be older than its driver; one for a run without a submission may not."""
        request = _read(self._store, STOP_FILE)
        if request is not None and (self._submission is None or request.get("submission") != self._submission):
            self._store.delete(STOP_FILE)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Storage that is away costs others their view of the run, never the run."""
        try:
            work()
        except (ShardReadError, StorageAccessError) as error:
            logger.log(
                logging.DEBUG if self._failing else logging.WARNING, "the run cannot be seen or asked: %s", error
            )
            self._failing = True
        else:
            self._failing = False


def read_live_record(store: Store) -> LiveRecord | None:
    """How far the run in ``store`` is; None where no driver has said so.

    Raises:
        StorageAccessError: what is written there is no such record.
    """
    content = _read(store, PROGRESS_FILE)
    if content is None:
        return None
    try:
        return _RECORD.validate_python(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise StorageAccessError(
            f"{store.uri}/{PROGRESS_FILE} is damaged or of another version ({wrong}); delete it, or look with the "
            f"version that wrote it"
        ) from error


def read_ranks(store: Store, submission: str) -> dict[int, str]:
    """The actor of each rank; empty until all ranks of that submission have started."""
    content = _read(store, RANKS_FILE)
    if content is None or content.get("submission") != submission:
        return {}
    return {int(rank): str(place["actor"]) for rank, place in content["ranks"].items()}


def named_submissions(store: Store) -> list[str]:
    """Submissions that the run's files name: Ray's own list goes with its cluster, these stay.

    Raises:
        StorageAccessError: a file is not what a driver writes there.
    """
    contents = [_read(store, file) for file in (PROGRESS_FILE, RANKS_FILE, STOP_FILE)]
    return sorted({str(content["submission"]) for content in contents if content and content.get("submission")})


def request_stop(store: Store, submission: str | None, asked_by: str) -> None:
    """Ask the driver of that submission to have a checkpoint written and to end."""
    request = {"submission": submission, "asked_by": asked_by, "asked_at": time.time()}
    store.write_bytes(STOP_FILE, json.dumps(request).encode())


def _read(store: Store, path: str) -> dict[str, Any] | None:
    try:
        content = json.loads(store.read_bytes(path))
    except ObjectNotFoundError:
        return None
    except ValueError as error:
        raise StorageAccessError(f"{store.uri}/{path} is no JSON ({error}); delete it") from error
    return content if isinstance(content, dict) else {}
