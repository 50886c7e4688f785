"""What ranks say to each other inside an objective or a probe: ``torch.distributed`` only.

Everything works without a process group, as on one rank. All ranks call the same functions in the same order with
tensors of equal shape; nothing here checks that, since the check would itself be a collective.

Legend: B rows of a worker batch, G rows of the global batch, D any width, W ranks.
"""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def gather_rows(local_BD: Tensor) -> Tensor:
    """Rows of all ranks, in the order of ranks [G, D]; without gradient."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return local_BD.detach()
    global_GD = local_BD.new_empty((world_size * len(local_BD), *local_BD.shape[1:]))
    # A list of tensors, since the call for one flat tensor carries other names from one torch version to the next.
    dist.all_gather(list(global_GD.chunk(world_size)), local_BD.detach().contiguous())
    return global_GD


def gather_with_gradient(local_BD: Tensor) -> Tensor:
    """Rows of all ranks, in the order of ranks [G, D]; the gradient flows back to the rank a row came from.

    The backward pass sums what all ranks' losses say about a row. With a loss over local rows against gathered
    ones, and gradients averaged over ranks as data parallelism does, that is exactly the gradient of one process
    with the global batch.
    """
    if rank_and_world_size()[1] == 1:
        return local_BD
    return _GatherWithGradient.apply(local_BD)  # type: ignore[no-untyped-call]


def shift_to_next_rank(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Hands ``blocks`` on to the next rank of the ring and returns the previous rank's; without gradient."""
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return list(blocks)
    received = [torch.empty_like(block) for block in blocks]
    following, previous = (rank + 1) % world_size, (rank - 1) % world_size
    operations = [dist.P2POp(dist.isend, block.contiguous(), following) for block in blocks]
    operations += [dist.P2POp(dist.irecv, block, previous) for block in received]
    for request in dist.batch_isend_irecv(operations):
        request.wait()
    return received


def all_reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean over ranks of 0-dim tensors, in one collective; the same names on every rank."""
    _, world_size = rank_and_world_size()
    if world_size == 1 or not values:
        return dict(values)
    names = sorted(values)
    means = torch.stack([values[name].detach().float() for name in names])
    dist.all_reduce(means)
    return dict(zip(names, means / world_size, strict=True))


def from_rank_zero(value: Any) -> Any:
    """What rank 0 hands in, on every rank; anything that pickles."""
    if rank_and_world_size()[1] == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_to_rank_zero(value: Any, device: torch.device, most_bytes: int = 64 * 2**20) -> list[Any] | None:
    """Every rank's value, by rank, on rank 0, and None elsewhere; anything that pickles.

    Args:
        device: where the group's backend can send from.
        most_bytes: on that of rank 0 at once, whatever the number of ranks and the size of what they say.
    """
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    sizes_W = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size)]
    dist.all_gather(sizes_W, torch.tensor([len(own)], device=device))
    sizes = [int(size) for size in sizes_W]
    piece_size = max(most_bytes // world_size, 1)
    own = pad(own, (0, -(-max(sizes) // piece_size) * piece_size - len(own)))
    arrived: list[bytearray] = [bytearray() for _ in sizes]
    for piece in torch.split(own, piece_size):
        pieces_W = [torch.empty_like(piece, device=device) for _ in sizes] if rank == 0 else None
        dist.gather(piece.to(device), pieces_W)
        for whole, part in zip(arrived, pieces_W or (), strict=False):
            whole += part.cpu().numpy().data
    if rank != 0:
        return None
    return [pickle.loads(whole[:size]) for whole, size in zip(arrived, sizes, strict=True)]  # noqa: S301  (our ranks')


@torch.no_grad()
def share_parameters(module: nn.Module, device: torch.device) -> None:
    """Gives every rank rank 0's parameters; ``device``: where the group's backend can send from."""
    if rank_and_world_size()[1] == 1:
        return
    for parameter in module.parameters():
        sent = parameter.to(device)
        dist.broadcast(sent, src=0)
        parameter.copy_(sent)


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_BD: Tensor) -> Tensor:
        return gather_rows(local_BD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_GD: Tensor) -> Tensor:
        _, world_size = rank_and_world_size()
        chunks = [chunk.contiguous() for chunk in grad_GD.chunk(world_size)]
        grad_BD = torch.empty_like(chunks[0])
        dist.reduce_scatter(grad_BD, chunks)
        return grad_BD
