"""What S3 clients raise, as our errors: what the user can repair, and what failed after its retries."""

import contextlib
from collections.abc import Iterator

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as UnreachableError
from s3transfer.exceptions import RetriesExceededError  # type: ignore[import-untyped]

from orchestrator.errors import OrchestratorError, ShardReadError, StorageAccessError
from orchestrator.storage.store import ObjectNotFoundError

BROKEN_ANSWERS = (ResponseStreamingError, IncompleteReadError, ReadTimeoutError)
"""Of an answer that began: the client does not ask again by itself."""
_ABSENT = frozenset({"NoSuchKey", "NotFound", "404"})
_CREDENTIAL_ERRORS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_WHERE_KEYS_GO = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) in the environment"


@contextlib.contextmanager
def explained(uri: str, endpoint: str | None, path: str = "") -> Iterator[None]:
    """Raises StorageAccessError, ObjectNotFoundError or ShardReadError that name object and endpoint.

    ``uri`` is the store's; ``path`` an object or folder in it.
    """
    where = f"{uri}/{path}".rstrip("/") + f" at {endpoint or 'AWS'}"
    try:
        yield
    except ClientError as error:
        raise _refusal(error, uri, where) from error
    except _CREDENTIAL_ERRORS as error:
        raise StorageAccessError(f"{where}: no usable credentials ({error}); {_WHERE_KEYS_GO}") from error
    except (BotoCoreError, RetriesExceededError) as error:
        raise ShardReadError(f"{where}: failed after its retries: {error}") from error
    except ValueError as error:  # botocore's answer to an endpoint that is no URL
        raise StorageAccessError(f"{where}: {error}; correct storage.s3.endpoint in the cluster file") from error


def unreachable(error: OrchestratorError) -> bool:
    """Whether no connection came about at all."""
    return isinstance(error.__cause__, UnreachableError)


def has_status(error: ClientError, *statuses: int) -> bool:
    """Whether the server answered with one of these HTTP statuses."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in statuses


def _refusal(error: ClientError, uri: str, where: str) -> OrchestratorError:
    code = error.response.get("Error", {}).get("Code", "")
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").split("/")[0]
        return StorageAccessError(f"{where}: bucket {bucket!r} does not exist; create it, or correct the s3:// address")
    if code in _ABSENT:
        return ObjectNotFoundError(f"{where} does not exist")
    if code in _EXPIRED:
        return StorageAccessError(
            f"{where}: the credentials have expired ({_said(error)}); a run that outlives them needs such as renew "
            f"themselves: a role, or credential_process in the AWS configuration; with new ones it goes on from its "
            f"last checkpoint"
        )
    if has_status(error, 401, 403):
        return StorageAccessError(
            f"{where}: credentials refused ({_said(error)}); {_WHERE_KEYS_GO}, or grant them access"
        )
    if has_status(error, 301, 400):
        return StorageAccessError(f"{where}: refused ({_said(error)}); check storage.s3.region and storage.s3.endpoint")
    return ShardReadError(f"{where}: failed after its retries: {_said(error)}")


def _said(error: ClientError) -> str:
    said = error.response.get("Error", {})
    return f"{said.get('Code', 'no code')}: {said.get('Message', 'no message')}"
