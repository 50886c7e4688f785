"""Credentials in a bucket's URI: refused in job and cluster files, before a plan or a manifest carries them."""

from collections.abc import Iterator
from typing import Any


def bucket_with_credentials(uri: str) -> bool:
    """Whether an S3 URI has more than a bucket where that belongs; a secret may hold a slash. ARNs have colons."""
    scheme, _, place = uri.strip().partition("://")
    bucket = place.partition("/")[0]
    return scheme.lower() == "s3" and ("@" in bucket or (":" in bucket and not bucket.startswith("arn:")))


def find_credentials(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of the values (and of what holds a key) that are such URIs, wherever they stand in a file."""
    if isinstance(document, str):
        if bucket_with_credentials(document):
            yield path
    elif isinstance(document, dict):
        for key, value in document.items():
            yield from find_credentials(key, path)
            yield from find_credentials(value, (*path, key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from find_credentials(value, (*path, number))
