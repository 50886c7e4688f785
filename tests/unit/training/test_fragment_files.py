from pathlib import Path

import pytest
import torch
from torch import Tensor

from orchestrator.errors import CheckpointError
from orchestrator.training.fragment_files import Piece, files_for, read_pieces, write_pieces

LENGTHS = {"weight": 13, "bias": 3, "scale": 1}


def whole(seed: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: {section: torch.randn(length, generator=generator) for section in ("master", "ema")}
        for name, length in LENGTHS.items()
    }


def cut(tensors: dict[str, dict[str, Tensor]], rank: int, num_ranks: int) -> list[Piece]:
    """This rank's even share of each parameter, as views; none of what is too short."""
    pieces = []
    for name, sections in tensors.items():
        size = -(-LENGTHS[name] // num_ranks)
        span = slice(rank * size, (rank + 1) * size)
        if len(sections["master"][span]):
            pieces.append(Piece(name, rank * size, {key: value[span] for key, value in sections.items()}))
    return pieces


@pytest.mark.parametrize("num_readers", [1, 2, 3, 5])
@pytest.mark.parametrize("num_writers", [1, 2, 3, 5])
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path, num_writers, num_readers):
    written, read = whole(0), whole(1)
    layouts = {
        f"{rank}.safetensors": write_pieces(tmp_path / f"{rank}.safetensors", cut(written, rank, num_writers))
        for rank in range(num_writers)
    }
    for rank in range(num_readers):
        pieces = cut(read, rank, num_readers)
        filled = sum(read_pieces(tmp_path / file, layouts[file], pieces) for file in files_for(pieces, layouts))
        assert filled == sum(tensor.numel() for piece in pieces for tensor in piece.tensors.values())
    torch.testing.assert_close(read, written, rtol=0, atol=0)


def test_only_files_that_hold_something_of_a_rank_are_asked_for(tmp_path):
    layouts = {"a": {"weight": (0, 7)}, "b": {"weight": (7, 6)}, "c": {"bias": (0, 3)}}
    assert list(files_for([Piece("weight", 2, {"master": torch.zeros(5)})], layouts)) == ["a"]
    assert list(files_for([Piece("weight", 6, {"master": torch.zeros(2)})], layouts)) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"{" * 64])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: bytes):
    file = tmp_path / "ab-00001.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ab-00001\.safetensors"):
        read_pieces(file, {"weight": (0, 4)}, [Piece("weight", 0, {"master": torch.zeros(4)})])


def test_a_file_that_holds_less_than_its_layout_says_is_refused(tmp_path):
    file = tmp_path / "short.safetensors"
    write_pieces(file, [Piece("weight", 0, {"master": torch.zeros(3)})])
    with pytest.raises(CheckpointError, match=r"short\.safetensors"):
        read_pieces(file, {"weight": (0, 4)}, [Piece("weight", 0, {"master": torch.zeros(4)})])
    with pytest.raises(CheckpointError, match=r"short\.safetensors"):
        read_pieces(file, {"weight": (0, 3)}, [Piece("weight", 0, {"ema": torch.zeros(3)})])
