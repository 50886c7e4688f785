"""Ranks by node: which of them share a stream, and the way in which a node's first rank hands it to the others."""

from typing import Any

import ray
import ray.cloudpickle
import torch.distributed as dist

from orchestrator.data.stream import StreamPlace


class NodeRanks:
    """This rank and those of its node; building it is a collective."""

    def __init__(self, rank: int, world_size: int) -> None:
        node_id = ray.get_runtime_context().get_node_id()
        node_ids: list[Any] = [None] * world_size
        dist.all_gather_object(node_ids, node_id)
        groups: dict[str, list[int]] = {}
        for number, of_rank in enumerate(node_ids):
            groups.setdefault(of_rank, []).append(number)
        self.place = StreamPlace(rank, tuple(groups[node_id]), len(groups), node_id if len(ray.nodes()) > 1 else None)
        # Every rank makes every group, in the same order: torch wants it so. Objects travel by gloo on any device.
        made = {node: dist.new_group(ranks, backend="gloo") for node, ranks in groups.items()}
        self._group = made[node_id]

    def share(self, value: Any) -> Any:
        """The value of the node's first rank, on all of its ranks; Ray's handles may be in it. A collective."""
        values = [ray.cloudpickle.dumps(value) if self.place.leads else None]
        dist.broadcast_object_list(values, src=self.place.node_ranks[0], group=self._group)
        return ray.cloudpickle.loads(values[0])
