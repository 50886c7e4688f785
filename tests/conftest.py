"""What every tier shares: a process environment without the user's own settings, and a real S3 server."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
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
def start_server() -> Iterator[Callable[[list[str]], str]]:
    """Starts a command that serves until the tests end, and returns the http address that it prints."""
    with contextlib.ExitStack() as servers:
        yield lambda command: servers.enter_context(_serving(command))


@pytest.fixture(scope="session")
def s3_server(start_server: Callable[[list[str]], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """``rclone serve s3`` over a temporary folder, with its credentials in this process's environment."""
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket").mkdir()
    keys = f"{S3_ENV['AWS_ACCESS_KEY_ID']},{S3_ENV['AWS_SECRET_ACCESS_KEY']}"
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", "127.0.0.1:0"]
    command += ["--auth-key", keys, "--dir-cache-time", "10ms", str(root)]  # shows files put into the folder; 0 hangs
    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3_ENV.items():
            patch.setenv(name, value)
        yield S3Server(start_server(command), "bucket", root)


@contextlib.contextmanager
def _serving(command: list[str]) -> Iterator[str]:
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        printed = []
        for line in process.stderr:
            printed.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            raise RuntimeError(f"{command[0]} did not start: {''.join(printed)}")
        drain = threading.Thread(target=process.stderr.read, daemon=True)  # a full pipe would block the server
        drain.start()
        try:
            yield found.group()
        finally:
            process.terminate()
            drain.join()
