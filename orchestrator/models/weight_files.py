"""Weights of other programs, file to tensors: safetensors, torch archives, TorchScript archives.

A pickle can call any function of the process that reads it, so none is executed here: torch's ``weights_only`` reader
and, for TorchScript archives (which it refuses), a reader of our own build tensors and containers and refuse every
other name. The code of a TorchScript archive is never looked at.
"""

import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.errors import ModelSourceError

_WRAPPERS = ("state_dict", "model_state_dict")
"""Where training programs put the weights among other things: open_clip's, corenet's."""
_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

INDEX_SUFFIX = ".index.json"
"""Of what `transformers` writes beside weights that it spreads over several files."""

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name, on the CPU and as they are kept; ``*.index.json``: of all files that it names.

    Raises:
        ModelSourceError: not readable as weights, or it holds something that only executing it would give.
    """
    if file.name.endswith(INDEX_SUFFIX):
        return _read_sharded(file)
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        if zipfile.is_zipfile(file) and (root := _torchscript_root(file)):
            return _read_torchscript(file, root)
        with warnings.catch_warnings(action="ignore"):  # of pickle's protocol; what matters is an error
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelSourceError(
            f"{file}: refused, since it holds more than tensors, and what it asks for would be executed: "
            f"{_refused_name(error)}. Save the weights alone (torch.save of a state dict, or safetensors)"
        ) from error
    except (OSError, RuntimeError, SafetensorError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelSourceError(f"{file}: not readable as weights ({_first_line(error)})") from error
    return _named_tensors(content, file)


def _read_sharded(index: Path) -> dict[str, Tensor]:
    try:
        place_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
        files = sorted({str(name) for name in place_of.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelSourceError(f"{index}: not an index of weights ({_first_line(error)})") from error
    if absent := [name for name in files if Path(name).name != name or not (index.parent / name).is_file()]:
        raise ModelSourceError(f"{index} names {len(files)} files beside it, of which {absent[0]} is not there")
    tensors = {name: tensor for file in files for name, tensor in read_tensors(index.parent / file).items()}
    if missing := [name for name in place_of if name not in tensors]:
        raise ModelSourceError(f"{index} names {missing[0]}, which is not in {place_of[missing[0]]}")
    return tensors


def _named_tensors(content: Any, file: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise ModelSourceError(f"{file}: holds no tensors by name; wanted the state dict of a model")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _torchscript_root(file: Path) -> str | None:
    """The archive's folder, if it is what ``torch.jit.save`` writes."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    return next((name.removesuffix("constants.pkl") for name in names if name.endswith("/constants.pkl")), None)


def _read_torchscript(file: Path, root: str) -> dict[str, Tensor]:
    """Parameters and buffers of a scripted module, from its attributes alone."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{root}data.pkl") as stream:
        module = _AttributeReader(stream, archive, f"{root}data/").load()
    return dict(_tensors_of(module, ""))


def _tensors_of(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Module):
        for attribute, part in value.attributes.items():
            yield from _tensors_of(part, f"{name}.{attribute}" if name else attribute)


class _Module:
    """Stands for a scripted module of any class: keeps its attributes and can do nothing."""

    attributes: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _AttributeReader(pickle.Unpickler):
    """Reads ``data.pkl`` of a TorchScript archive; every name but those of tensors and containers is refused."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch.jit._pickle", "restore_type_tag"): _first,
            ("torch.jit._pickle", "build_intlist"): _first,
            ("torch.jit._pickle", "build_doublelist"): _first,
            ("torch.jit._pickle", "build_boollist"): _first,
            ("torch.jit._pickle", "build_tensorlist"): _first,
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in allowed:
            return allowed[module, name]
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, num_elements = pid
        content = bytearray(self._archive.read(f"{self._folder}{key}"))
        storage = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if len(storage) != num_elements:
            raise pickle.UnpicklingError(f"storage {key} has {len(storage)} elements, wanted {num_elements}")
        return storage


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _first(value: Any, *_: Any) -> Any:
    return value


def _refused_name(error: BaseException) -> str:
    """The global that a pickle asked for, out of torch's long advice."""
    said = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    name = said.partition("GLOBAL ")[2].split(" ")[0]
    return name or next((line.strip() for line in said.splitlines() if line.strip()), "no name given")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
