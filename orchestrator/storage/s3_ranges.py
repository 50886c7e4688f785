"""Ranged reads of a bucket at the price of an HTTP request.

What boto3 does for any call in general costs 2 ms of CPU, as much as decoding two images; a stream makes such a call
for every chunk. Here one request is signed and sent by botocore's own parts. Whatever is not a plain answer is left to
boto3, which asks again: retries, refusals and their words exist once.
"""

import logging
from functools import lru_cache

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies, percent_encode
from urllib3.exceptions import HTTPError

from orchestrator.spec.cluster import S3Spec

logger = logging.getLogger(__name__)

_MAX_CONNECTIONS = 32


class RangeReader:
    """Connections and credentials of one process for the objects of one bucket."""

    def __init__(self, s3: S3Spec, bucket_url: str) -> None:
        """``bucket_url``: where the bucket answers, without a closing slash."""
        session = botocore.session.get_session()
        self._credentials = session.get_credentials()
        self._region = s3.region
        self._bucket_url = bucket_url
        self._http = URLLib3Session(
            verify=session.get_config_variable("ca_bundle") or True,
            proxies=get_environ_proxies(bucket_url),
            timeout=(s3.request_timeout_s, s3.request_timeout_s),
            max_pool_connections=_MAX_CONNECTIONS,
        )

    def read(self, key: str, offset: int, length: int, etag: str) -> bytes | None:
        """The bytes, of version ``etag`` if that is not empty; None: there was another answer, or none."""
        if self._credentials is None:
            return None
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"} | ({"If-Match": f'"{etag}"'} if etag else {})
        request = AWSRequest(
            "GET", f"{self._bucket_url}/{percent_encode(key, safe='/~')}", headers=headers, stream_output=True
        )
        try:
            S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
            answer = self._http.send(request.prepare())
            data: bytes = answer.raw.read(decode_content=False)
        except (BotoCoreError, HTTPError) as error:
            logger.debug("%s at %d: %s", key, offset, error)
            return None
        whole = len(data) == int(answer.headers.get("Content-Length", -1)) and len(data) <= length
        same = not etag or answer.headers.get("ETag", "").strip('"') == etag
        return data if answer.status_code in (200, 206) and whole and same else None


@lru_cache(maxsize=64)
def range_reader(s3: S3Spec, bucket_url: str, process_id: int) -> RangeReader:
    """The reader of a process (a connection does not survive a fork)."""
    return RangeReader(s3, bucket_url)
