"""What every tier shares: a process environment without the user's own settings, and a real S3 server."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before any test module imports Ray, MLflow or a tokenizer.
_HOME = tempfile.mkdtemp(prefix="orchestrator-home-")
os.environ.update(
    HOME=_HOME,
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_AUTH_MODE="disabled",
    TOKENIZERS_PARALLELISM="false",
)

S3_ENV = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-key",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "AWS_EC2_METADATA_DISABLED": "true",  # a test without credentials must not wait for a cloud that is not there
}


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; ``root / bucket`` is the folder behind its one bucket."""

    endpoint: str
    bucket: str
    root: Path

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def folder(self) -> Path:
        return self.root / self.bucket


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """``rclone serve s3`` over a temporary folder, with its credentials in this process's environment."""
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket").mkdir()
    keys = f"{S3_ENV['AWS_ACCESS_KEY_ID']},{S3_ENV['AWS_SECRET_ACCESS_KEY']}"
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", "127.0.0.1:0"]
    command += ["--auth-key", keys, "--dir-cache-time", "0s", str(root)]  # files put into the folder show at once
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in S3_ENV.items():
                patch.setenv(name, value)
            yield S3Server(_served_url(process), "bucket", root)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _served_url(process: subprocess.Popen[str]) -> str:
    """The address that the server prints; what it prints later is drained, so that it never blocks."""
    assert process.stderr is not None
    printed = []
    for line in process.stderr:
        printed.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found.group()
    raise RuntimeError(f"the S3 server did not start: {''.join(printed)}")
