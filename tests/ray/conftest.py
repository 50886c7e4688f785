"""One Ray for all tests of this tier, with as many logical CPUs as the laptop cluster declares."""

from collections.abc import Iterator

import pytest

from orchestrator.env import apply_quiet_env

apply_quiet_env()


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A local Ray with four logical CPUs, stopped at the end of the session."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=512 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()
