"""A bucket prefix as a store, at AWS or any S3-compatible endpoint.

boto3 does all but bulk reads: typed refusals, conditional and multipart writes, listings. Ranges are read by
``s3_ranges.py``, Parquet goes through pyarrow.fs, which gives the Arrow file it wants. Credentials come from the
environment or the instance, by the standard chain of each client; nothing here holds one.
"""

import contextlib
import logging
import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from orchestrator.errors import ShardReadError, StorageAccessError
from orchestrator.spec.cluster import S3Spec
from orchestrator.storage.atomic import replacing
from orchestrator.storage.disk import naming_full_disk
from orchestrator.storage.s3_errors import BROKEN_ANSWERS, explained, has_status, unreachable
from orchestrator.storage.s3_ranges import RangeReader, range_reader
from orchestrator.storage.store import ObjectChangedError, ObjectInfo, ObjectNotFoundError, Store, checked_path

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import S3FileSystem

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
CHECK_TIMEOUT_S = 5.0  # a person waits for the answer
CHECK_ATTEMPTS = 2
_UNBROKEN_ATTEMPTS = 3  # on top of the client's own, which end with the answer's first byte
_TRANSFER = TransferConfig(multipart_threshold=32 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4)


@dataclass(frozen=True)
class S3Store(Store):
    """``uri`` is ``s3://bucket`` or ``s3://bucket/prefix``."""

    s3: S3Spec

    read_unit_bytes: ClassVar[int] = 8 * 2**20

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.uri.removeprefix("s3://").split("/")[0]

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        with self._explained(path):
            for _ in range(_UNBROKEN_ATTEMPTS - 1):
                with contextlib.suppress(*BROKEN_ANSWERS):
                    return self._get(path)
            return self._get(path)

    def _get(self, path: str) -> tuple[bytes, str]:
        answer = self._client.get_object(Bucket=self.bucket, Key=self._key(path))
        return answer["Body"].read(), answer["ETag"].strip('"')

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        if length == 0:
            return b""
        with self._explained(path):
            data = self._ranges.read(self._key(path), offset, length, etag)
        return self._ask_range(path, offset, length, etag) if data is None else data

    def _ask_range(self, path: str, offset: int, length: int, etag: str) -> bytes:
        byte_range = f"bytes={offset}-{offset + length - 1}"
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        changed = ObjectChangedError(f"{self.uri}/{path} is no longer version {etag}")
        with self._explained(path):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(path), Range=byte_range, **condition)
            except ClientError as error:
                if has_status(error, 416):  # the object ends before the range begins
                    return b""
                if has_status(error, 412):
                    raise changed from error
                raise
            if etag and answer["ETag"].strip('"') != etag:  # some servers (rclone's) ignore the condition
                raise changed
            return answer["Body"].read()

    def open_input(self, path: str) -> "NativeFile":
        try:
            return _arrow(self.s3, os.getpid()).open_input_file(f"{self.bucket}/{self._key(path)}")
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"{self.uri}/{path} does not exist") from error
        except OSError as error:
            raise ShardReadError(f"{self.uri}/{path}: {error}") from error

    def write_bytes(self, path: str, data: bytes) -> None:
        with self._explained(path):
            self._client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data)

    def create_bytes(self, path: str, data: bytes) -> bool:
        # Look first: some servers (rclone's) ignore the condition and would overwrite.
        return self.stat(path) is None and self._write_if(path, data, IfNoneMatch="*")

    def replace_bytes(self, path: str, data: bytes, etag: str) -> bool:
        present = self.stat(path)
        return present is not None and present.etag == etag and self._write_if(path, data, IfMatch=f'"{etag}"')

    def checks_conditions(self) -> bool:
        return _checks_conditions(self)

    def upload(self, local_path: Path | str, path: str) -> None:
        with open(local_path, "rb") as file, self._explained(path):
            self._client.upload_fileobj(file, self.bucket, self._key(path), Config=_TRANSFER)

    def download(self, path: str, local_path: Path | str) -> None:
        target = Path(local_path)
        with (
            naming_full_disk(target.parent),
            replacing(target) as temporary,
            open(temporary, "wb") as file,
            self._explained(path),
        ):
            self._client.download_fileobj(self.bucket, self._key(path), file, Config=_TRANSFER)

    def list(self, prefix: str = "") -> tuple[ObjectInfo, ...]:
        root = self._key("")
        folder = f"{self._key(checked_path(prefix))}/" if prefix else root
        found = []
        with self._explained(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder):
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # what consoles write to show a folder
                        path = entry["Key"].removeprefix(root)
                        found.append(ObjectInfo(path, entry["Size"], entry["ETag"].strip('"')))
        return tuple(sorted(found, key=lambda info: info.path))

    def folders(self) -> tuple[str, ...]:
        root = self._key("")
        found: list[str] = []
        with self._explained(""):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=root, Delimiter="/"
            )
            for page in pages:
                found += (entry["Prefix"].removeprefix(root).rstrip("/") for entry in page.get("CommonPrefixes", ()))
        return tuple(sorted(found))

    def stat(self, path: str) -> ObjectInfo | None:
        try:
            with self._explained(path):
                answer = self._client.head_object(Bucket=self.bucket, Key=self._key(path))
        except ObjectNotFoundError:
            return None
        return ObjectInfo(path, answer["ContentLength"], answer["ETag"].strip('"'))

    def delete(self, path: str) -> None:
        with self._explained(path):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(path))

    def delete_folder(self, path: str) -> None:
        for info in self.list(path):
            self.delete(info.path)

    def check(self, write: bool) -> None:
        try:
            with self._explained(""):
                client = _connect(self.s3, CHECK_ATTEMPTS, CHECK_TIMEOUT_S, os.getpid())
                client.list_objects_v2(Bucket=self.bucket, Prefix=self._key(""), MaxKeys=1)
                if write:
                    probe = self._key(f".check-{secrets.token_hex(4)}")
                    client.put_object(Bucket=self.bucket, Key=probe, Body=b"")
                    client.delete_object(Bucket=self.bucket, Key=probe)
        except ShardReadError as error:
            what = "does not answer" if unreachable(error) else "fails"
            advice = "start it, or correct storage.s3.endpoint in the cluster file"
            raise StorageAccessError(f"endpoint {self.s3.endpoint or 'AWS'} {what} ({error}); {advice}") from error

    @property
    def _ranges(self) -> RangeReader:
        return range_reader(self.s3, _bucket_url(self.s3, self.bucket, os.getpid()), os.getpid())

    @property
    def _client(self) -> Any:
        return _connect(self.s3, self.s3.max_attempts, self.s3.request_timeout_s, os.getpid())

    def _key(self, path: str) -> str:
        """The key of an object; of the prefix itself, with its closing slash, for an empty path."""
        prefix = self.uri.removeprefix(f"s3://{self.bucket}").lstrip("/")
        return (f"{prefix}/" if prefix else "") + (checked_path(path) if path else "")

    def _write_if(self, path: str, data: bytes, **condition: str) -> bool:
        """A conditional put; False when the server says that the condition does not hold."""
        with self._explained(path):
            try:
                self._client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, **condition)
            except ClientError as error:
                if has_status(error, 404, 409, 412):
                    return False
                raise
            return True

    def _explained(self, path: str) -> Any:
        return explained(self.uri, self.s3.endpoint, path)


@lru_cache(maxsize=16)
def _connect(s3: S3Spec, attempts: int, timeout_s: float, process_id: int) -> Any:
    """A boto3 client of this process (a connection does not survive a fork)."""
    checksums = {}
    if s3.endpoint is not None:  # AWS's newer default checksums are not understood by many other servers
        checksums = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=min(timeout_s, CONNECT_TIMEOUT_S),
        read_timeout=timeout_s,
        **checksums,
    )
    session = boto3.session.Session(region_name=s3.region)
    return session.client("s3", endpoint_url=s3.endpoint, config=config)


@lru_cache(maxsize=64)
def _bucket_url(s3: S3Spec, bucket: str, process_id: int) -> str:
    """Where boto3 finds the bucket: as a host of its own, or as a folder of the endpoint."""
    client = _connect(s3, s3.max_attempts, s3.request_timeout_s, process_id)
    marked: str = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "key"})
    return marked.partition("?")[0].removesuffix("/key")


@lru_cache(maxsize=16)
def _arrow(s3: S3Spec, process_id: int) -> "S3FileSystem":
    """An Arrow file system of this process. It reads no AWS_ENDPOINT_URL, so the endpoint is handed in."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        region=s3.region,
        endpoint_override=s3.endpoint,
        request_timeout=s3.request_timeout_s,
        connect_timeout=min(s3.request_timeout_s, CONNECT_TIMEOUT_S),
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=s3.max_attempts),
    )


@lru_cache(maxsize=16)
def _checks_conditions(store: S3Store) -> bool:
    """Ask the server itself: a second create of the same key must be refused."""
    probe = f".conditions-{secrets.token_hex(4)}"
    store._write_if(probe, b"", IfNoneMatch="*")
    exact = not store._write_if(probe, b"", IfNoneMatch="*")
    store.delete(probe)
    return exact
