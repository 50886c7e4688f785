"""``torch.compile`` for the layers of towers: each is compiled by itself, so that they share one compilation."""

import os
import shutil
from typing import Literal

from torch import nn

from orchestrator.errors import CompilerMissingError

_COMPILERS = {"cpu": ("CXX", ("g++", "clang++")), "cuda": ("CC", ("gcc", "clang"))}
"""What names the compiler, and which are looked for: inductor's C++ on a CPU, Triton's C on a GPU."""


def compile_layers(model: nn.Module, accelerator: Literal["cpu", "cuda"]) -> None:
    """Marks the transformer layers of ``model``; they are compiled when they first run. Names of weights stay.

    Raises:
        CompilerMissingError: this machine has no compiler, which would only show in the first step.
    """
    variable, names = _COMPILERS[accelerator]
    wanted = [os.environ[variable]] if os.environ.get(variable) else list(names)
    if not any(shutil.which(name) for name in wanted):
        raise CompilerMissingError(
            f"model.compile needs a compiler on every worker and found none of {', '.join(wanted)}; install one "
            f"(Debian: build-essential), name another in {variable}, or set model.compile: false"
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.endswith("layers"):
            for layer in module:
                layer.compile()
