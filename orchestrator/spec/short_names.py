"""What metrics and tables call data sets."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

_REFUSED = re.compile(r"[^\w.\- ]")  # by MLflow in the name of a metric, or with a meaning there


def short_names(uris: Sequence[str]) -> list[str]:
    """The shortest ends of the URIs that tell them apart; those that nothing does are numbered.

    ``s3://b/cc3m/train`` and ``s3://b/cc12m/train`` become ``cc3m-train`` and ``cc12m-train``, one of them ``train``.
    """
    parts = [[_REFUSED.sub("-", part) for part in _path(uri).strip("/").split("/")] for uri in uris]
    most = max((len(own) for own in parts), default=1)
    for depth in range(1, most + 1):
        names = ["-".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'-'.join(own[-1:])}-{number}" for number, own in enumerate(parts, start=1)]


def _path(uri: str) -> str:
    scheme, _, path = uri.partition("://")
    return unquote(path) if scheme == "file" else path
