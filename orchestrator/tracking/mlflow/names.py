"""Names as MLflow takes them: those of metrics, parameters and tags, which may hold a user's own keys."""

import hashlib
import re

_REFUSED = re.compile(r"[^/\w.\- :]")
_MOST_CHARACTERS = 250
_DIGEST_CHARACTERS = 8


def accepted_name(name: str) -> str:
    """``name``, changed where MLflow refuses it; names that differ in their end alone stay apart.

    MLflow takes names as paths: no empty part, no ``.`` or ``..``, 250 characters at most.
    """
    parts = (_REFUSED.sub("-", part) for part in name.split("/"))
    kept = "/".join("--" if part == ".." else part for part in parts if part not in ("", "."))
    path = re.sub(r"^\.\.", "--", kept) or "-"
    if len(path) <= _MOST_CHARACTERS:
        return path
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{path[: _MOST_CHARACTERS - _DIGEST_CHARACTERS - 1]}-{digest}"
