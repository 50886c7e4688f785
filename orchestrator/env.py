"""The process environment: what must be set before Ray, DeepSpeed and MLflow are imported, and which names we read.

Owns variable names, quiet logs and the user's own folder. Holds no setting of a job or a cluster.
"""

import logging
import os
import socket
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from orchestrator.redaction import RedactingFormatter

# What other packages read when they are imported or started.
QUIET_ENV = {
    "DS_SKIP_CUDA_CHECK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow and comparison.json have what these would write
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours asks for checkpoints
    "TOKENIZERS_PARALLELISM": "false",
    # A planted pickle in a checkpoint must not run: DeepSpeed itself asks for weights_only=False.
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
}

SUBMISSION_ENV = "ORCHESTRATOR_SUBMISSION"
"""Set where ``orchestrator submit`` starts a run."""


def apply_quiet_env() -> None:
    """Set what is not set yet; call before importing Ray, DeepSpeed or MLflow."""
    for name, value in QUIET_ENV.items():
        os.environ.setdefault(name, value)


def setup_logging(level: int = logging.INFO, rank: int | None = None) -> None:
    """Log our own records to stderr, plainly and without secrets; other packages only from warnings up."""
    prefix = "" if rank is None else f"[rank {rank}] "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(f"{prefix}%(message)s"))
    root = logging.getLogger("orchestrator")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def state_folder() -> Path | None:
    """What this user's commands keep between calls; None: no home, or one that cannot be written."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        folder = Path(state) / "vl-orchestrator"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without an entry has no home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def temporary_state_folder() -> Path:
    """Its place where there is none: the same for all commands of this user, as long as the machine lives."""
    folder = Path(tempfile.gettempdir()) / f"vl-orchestrator-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    made = folder.lstat()
    if stat.S_ISDIR(made.st_mode) and made.st_uid == os.getuid():
        return folder
    return Path(tempfile.mkdtemp(prefix="vl-orchestrator-"))  # somebody else was there first


def holder_name() -> str:
    """Who holds a lease: host and process, and the submission that this process works for."""
    here = f"{socket.gethostname()}:{os.getpid()}"
    submission = submission_id()
    return here if submission is None else f"{here} (submission {submission})"


def submission_id() -> str | None:
    """The submission that started this process; None: somebody typed a command here."""
    return os.environ.get(SUBMISSION_ENV)
