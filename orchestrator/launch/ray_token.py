"""Ray's token: where it comes from, who else can read it, and the header that it travels in."""

import logging
import os
from functools import cache
from pathlib import Path

from orchestrator.errors import ClusterAccessError

logger = logging.getLogger(__name__)

TOKEN_ENV, TOKEN_PATH_ENV = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def read_token() -> str | None:
    """Ray's token, from where Ray itself looks for it.

    Raises:
        ClusterAccessError: what lies there cannot be a token.
    """
    token = os.environ.get(TOKEN_ENV, "").strip()
    if not token:
        try:
            token = token_file().read_bytes().decode("ascii", "replace").strip()
        except OSError:
            return None
        if said := who_reads_token():
            _warn_of_readers(said)
    if not (token.isascii() and token.isprintable()):  # said without it: it may have a token within
        raise ClusterAccessError(
            f"Ray's token, that of {token_place()}, has several lines or characters that no header takes; put the "
            f"token alone there"
        )
    return token or None


def token_place() -> str:
    """Where the token is looked for."""
    return f"variable {TOKEN_ENV}" if os.environ.get(TOKEN_ENV, "").strip() else f"file {token_file()}"


def who_reads_token() -> str:
    """What to do where others can read the token's file: whoever has it executes code there; empty where none can."""
    file = token_file()
    try:
        is_open = not os.environ.get(TOKEN_ENV, "").strip() and file.stat().st_mode & 0o044
    except OSError:
        return ""
    return f"others can read {file}; run: chmod 600 {file}" if is_open else ""


@cache
def _warn_of_readers(said: str) -> None:
    """Once a process: the token is read for each request."""
    logger.warning("Ray's token: %s", said)


def token_file() -> Path:
    """Where Ray looks for a token that is not in the environment."""
    return Path(os.environ.get(TOKEN_PATH_ENV) or Path.home() / ".ray" / "auth_token")


def authorization() -> dict[str, str]:
    """The header with the token as it is now: whoever renews it need not start a command again that follows a log."""
    token = read_token()
    return {"Authorization": f"Bearer {token}"} if token else {}
