"""What the ranks of a submission print: all of it at once, or as it comes, over restarts.

Each attempt has actors of its own, and Ray keeps a log for each of them on its node: ``ranks.json`` of the run says
which actor a rank is now.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from orchestrator.errors import RunNotFoundError
from orchestrator.launch.ray_jobs import RayJobs
from orchestrator.launch.submission import Submission
from orchestrator.runs.live import read_ranks
from orchestrator.storage.store import Store

logger = logging.getLogger(__name__)

_AGAIN_S = 2.0


def rank_logs(
    jobs: RayJobs, run: Store, submission: Submission, rank: int | None, follow: bool
) -> Iterator[tuple[int, Iterable[bytes]]]:
    """The log of one rank, or of all in turn; of all, one that Ray has no more is told and passed over.

    Raises:
        RunNotFoundError: the ranks have not started, there is no such rank, or Ray has its log no more.
    """
    actors = read_ranks(run, submission.id)
    if not actors:
        raise RunNotFoundError(
            f"{submission.id} has no ranks yet, or never got to start them; look at its driver's log"
        )
    if rank is not None:
        if rank not in actors:
            raise RunNotFoundError(f"--rank {rank}: {submission.id} has ranks 0 to {max(actors)}")
        yield rank, follow_rank(jobs, run, submission.id, rank) if follow else [jobs.actor_log(actors[rank])]
        return
    for number, actor in sorted(actors.items()):
        try:
            yield number, [jobs.actor_log(actor)]
        except RunNotFoundError as error:
            logger.warning("rank %d: %s", number, error)


def follow_rank(jobs: RayJobs, run: Store, submission_id: str, rank: int) -> Iterator[bytes]:
    """What a rank has printed since the attempt that is live, and prints until the submission ends."""

    def current_actor() -> str | None:
        """As the run's folder says now; a later submission writes its own there."""
        return read_ranks(run, submission_id).get(rank, actor)

    def is_over() -> bool:
        return jobs.wait(submission_id, 0) or current_actor() != actor

    actor: str | None = None
    while (latest := current_actor()) is not None and latest != actor:
        if actor is not None:
            logger.info("rank %d was started anew: its log goes on as that of actor %s", rank, latest)
        actor = latest
        yield from _follow_actor(jobs, latest, rank, is_over)


def _follow_actor(jobs: RayJobs, actor: str, rank: int, is_over: Callable[[], bool]) -> Iterator[bytes]:
    """Until it is over and nothing more came; where a connection breaks off, the next one goes on from there."""
    num_shown, over, told = 0, False, False
    while True:
        num_read = 0
        try:
            for part in jobs.tail_actor(actor):
                num_read += len(part)
                if num_read > num_shown:
                    yield part[num_shown - num_read :]
                    num_shown = num_read
                if not part:
                    if over:
                        return
                    over = is_over()
        except RunNotFoundError as error:
            if not told:
                logger.warning("rank %d: %s", rank, error)
            told = True
        if over:
            return
        over = is_over()
        time.sleep(_AGAIN_S)
