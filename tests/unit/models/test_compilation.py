"""Compiled layers compute the same, and a machine without a compiler is told so by name."""

import pytest
import torch

from orchestrator.errors import CompilerMissingError
from orchestrator.models.compilation import compile_layers
from tiny import build_tiny, global_batch


@pytest.mark.parametrize(("accelerator", "named"), [("cpu", "g\\+\\+, clang\\+\\+"), ("cuda", "gcc, clang")])
def test_without_a_compiler_the_error_says_what_to_install(monkeypatch, tmp_path, accelerator, named):
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(CompilerMissingError, match=f"found none of {named}; install one .* model.compile: false"):
        compile_layers(build_tiny("catlip"), accelerator)


def test_a_compiler_that_is_named_must_be_there(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerMissingError, match="found none of no-such-compiler"):
        compile_layers(build_tiny("catlip"), "cpu")


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own ways
def test_compiled_layers_give_the_same_loss_and_gradient_under_the_same_names():
    plain, compiled = build_tiny("clip"), build_tiny("clip")
    compile_layers(compiled, "cpu")
    batch, losses = global_batch(0), []
    for objective in (plain, compiled):
        loss, _ = objective([objective(batch, stage="encode")], stage="loss")
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in compiled.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)
