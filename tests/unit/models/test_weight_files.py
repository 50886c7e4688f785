"""Weights files are read without executing anything: what they hold besides tensors is refused by its name."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from orchestrator.errors import ModelSourceError
from orchestrator.models.weight_files import read_tensors


class Planted:
    """A pickle of it makes a file where it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).half()
        self.register_buffer("turned", torch.arange(6).view(2, 3).t())
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(Inner(), nn.GELU())
        self.logit_scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * self.logit_scale


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_torchscript_archive_gives_its_tensors_and_runs_no_code(tmp_path: Path) -> None:
    module = Outer()
    for number, scripted in enumerate((torch.jit.script(module), torch.jit.trace(module, torch.ones(1, 3).half()))):
        file = tmp_path / f"{number}.pt"
        torch.jit.save(scripted, str(file))
        tensors = read_tensors(file)
        assert tensors.keys() == module.state_dict().keys()
        for name, tensor in module.state_dict().items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict"])
def test_what_training_programs_put_around_the_weights_is_taken_off(tmp_path: Path, wrapper: str | None) -> None:
    state = {"module.a": torch.arange(3.0), "module.b": torch.ones(2, 2, dtype=torch.bfloat16)}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {}}, tmp_path / "x.pt")
    tensors = read_tensors(tmp_path / "x.pt")
    assert tensors.keys() == {"a", "b"}
    assert torch.equal(tensors["a"], torch.arange(3.0))
    save_file({"a": torch.arange(3.0)}, tmp_path / "x.safetensors")
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")["a"], torch.arange(3.0))


def planted_files(folder: Path, planted: Planted) -> dict[str, Path]:
    files = {name: folder / f"{name}.pt" for name in ("archive", "pickle", "torchscript")}
    torch.save({"state_dict": {"a": torch.ones(1)}, "extra": planted}, files["archive"])
    files["pickle"].write_bytes(pickle.dumps({"a": planted}, protocol=2))
    with zipfile.ZipFile(files["torchscript"], "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/data.pkl", pickle.dumps({"a": planted}, protocol=2))
    return files


@pytest.mark.parametrize("kind", ["archive", "pickle", "torchscript"])
def test_a_planted_pickle_is_refused_by_name_and_not_executed(tmp_path: Path, kind: str) -> None:
    made = tmp_path / "made"
    file = planted_files(tmp_path, Planted(made))[kind]
    with pytest.raises(ModelSourceError, match=r"refused.*posix\.mkdir") as error:
        read_tensors(file)
    assert str(file) in str(error.value)
    assert not made.exists()
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.safetensors", b"no tensors here", "not readable as weights"),
        ("x.pt", b"no tensors here", "not readable as weights|refused"),
        ("gone.pt", None, "not readable as weights"),
    ],
)
def test_what_is_no_weights_file_is_said(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelSourceError, match=says):
        read_tensors(tmp_path / name)


def test_a_file_without_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "x.pt")
    with pytest.raises(ModelSourceError, match="no tensors by name"):
        read_tensors(tmp_path / "x.pt")
