"""Workers of a Ray that we start here are forks of one process; held against the pinned release of Ray."""

import psutil
import pytest
import ray

pytestmark = pytest.mark.usefixtures("ray_local")


@ray.remote(num_cpus=0)
class Told:
    """A worker that tells of its process."""

    def parent(self) -> list[str]:
        return psutil.Process().parent().cmdline()

    def put(self) -> str:
        return ray.put(None).hex()


def test_workers_come_from_the_server_and_make_ids_of_their_own() -> None:
    workers = [Told.remote() for _ in range(2)]
    parents = ray.get([worker.parent.remote() for worker in workers])
    assert all("orchestrator.fork_server.server" in command for command in parents)
    assert len(set(ray.get([worker.put.remote() for worker in workers]))) == 2
