"""The layers of a transformer under another program's names, where one matrix holds queries, keys and values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_KINDS = ("weight", "bias")


@dataclass(frozen=True)
class BlockNames:
    """What another program calls the parts of one layer."""

    fused: dict[str, str]
    """``weight`` and ``bias`` to the name of queries, keys and values on top of one another."""
    parts: dict[str, str]
    """Our name of every other module to theirs; each has a weight and a bias."""
    aliases: dict[str, str] = field(default_factory=dict)
    """What they also call a module, to their name in ``parts``."""

    def ours(self, theirs: str, tensor: Tensor) -> dict[str, Tensor]:
        """Our names of one tensor of a layer; none where the name is unknown."""
        for kind, name in self.fused.items():
            if theirs == name:
                thirds = tensor.chunk(3)
                return {f"self_attn.{p}.{kind}": third for p, third in zip(_PROJECTIONS, thirds, strict=True)}
        module, _, kind = theirs.rpartition(".")
        module = self.aliases.get(module, module)
        found = next((ours for ours, name in self.parts.items() if name == module), None)
        return {} if found is None or kind not in _KINDS else {f"{found}.{kind}": tensor}

    def theirs(self, layer: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The way back, of a whole layer."""
        for kind, name in self.fused.items():
            yield name, torch.cat([layer[f"self_attn.{projection}.{kind}"] for projection in _PROJECTIONS])
        for ours, name in self.parts.items():
            for kind in _KINDS:
                yield f"{name}.{kind}", layer[f"{ours}.{kind}"]


def layers_of(state: Mapping[str, Tensor], tower: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Layers of a tower with their numbers, under our names."""
    layers = f"{tower}.encoder.layers."
    for number in sorted({int(name[len(layers) :].split(".")[0]) for name in state if name.startswith(layers)}):
        own = f"{layers}{number}."
        yield number, {name.removeprefix(own): state[name] for name in state if name.startswith(own)}


OPEN_CLIP = BlockNames(
    fused={"weight": "attn.in_proj_weight", "bias": "attn.in_proj_bias"},
    parts={
        "layer_norm1": "ln_1",
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    },
)
TIMM = BlockNames(
    fused={"weight": "attn.qkv.weight", "bias": "attn.qkv.bias"},
    parts={
        "layer_norm1": "norm1",
        "self_attn.out_proj": "attn.proj",
        "layer_norm2": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
)
CORENET = BlockNames(
    fused={"weight": "pre_norm_mha.1.qkv_proj.weight", "bias": "pre_norm_mha.1.qkv_proj.bias"},
    parts={
        "layer_norm1": "pre_norm_mha.0",
        "self_attn.out_proj": "pre_norm_mha.1.out_proj_attn",
        "layer_norm2": "pre_norm_ffn.0",
        "mlp.fc1": "pre_norm_ffn.1",
        "mlp.fc2": "pre_norm_ffn.4",
    },
    # The first is with ``use_flash_attention: true``, as the released CatLIP models are; this one without.
    aliases={"pre_norm_mha.1.out_proj": "pre_norm_mha.1.out_proj_attn"},
)
