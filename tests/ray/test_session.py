"""What Ray says of itself is no result; held against the pinned release of Ray."""

import logging
import time

import pytest
import ray
from ray._private.utils import publish_error_to_driver

pytestmark = pytest.mark.usefixtures("ray_local")


def test_messages_of_the_cluster_go_to_the_log_and_not_to_stdout(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, logger="orchestrator")
    monkeypatch.setattr(logging.getLogger("orchestrator"), "propagate", True)
    address = ray.get_runtime_context().gcs_address
    publish_error_to_driver("test", "many processes have been started", gcs_client=ray._raylet.GcsClient(address))
    deadline_s = time.monotonic() + 30
    while "many processes have been started" not in caplog.text:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    captured = capsys.readouterr()
    assert "many processes" not in captured.out + captured.err
