"""How the weights of a tower start: the scheme of the CLIP paper's released code (arXiv 2103.00020).

For a transformer of width w and depth L the standard deviations are: queries, keys and values w^-1/2; what writes
back into the residual stream (attention output, second feed-forward layer) w^-1/2 (2L)^-1/2; first feed-forward
layer (2w)^-1/2; projection, class embedding and image positions w^-1/2; token embedding 0.02; text positions 0.01;
patches (3 fan-in)^-1/2, the usual start of a convolution; a stem of several starts as in He et al. 2015. Biases start
at zero, norms at one. `transformers` starts attention the other way round (inputs damped, output not), which is why
this is not left to it. SigLIP's towers start by the same scheme, their pooling query as a class embedding and their
text head as a projection.
"""

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def initialize_tower(tower: nn.Module, config: Any, seed: int) -> None:
    """Sets every parameter of a vision or text tower from ``seed`` alone, on any device the same.

    Vision and text draw from two generators, and a projection draws last: the layers of a vision tower start the
    same in every objective, which keeps comparisons clean.
    """
    is_text = hasattr(config, "vocab_size")
    generator = torch.Generator().manual_seed(2 * seed + is_text)
    deviations = _text_deviations(config) if is_text else _vision_deviations(config)
    for name, parameter in tower.named_parameters():
        layer = name.removesuffix(".weight").rpartition(".")[2]
        if name.endswith("bias"):  # one of them is in_proj_bias
            parameter.zero_()
        elif "patch_embedding." in name and layer.isdigit():  # a stem of convolutions
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / parameter[0].numel()) ** 0.5)
        elif "norm" in layer:  # `transformers` spells one of them layrnorm
            parameter.fill_(1.0)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviations[layer])


def _transformer_deviations(config: Any) -> dict[str, float]:
    """Standard deviation by layer name."""
    inward = config.hidden_size**-0.5
    residual = inward * (2 * config.num_hidden_layers) ** -0.5
    return {
        "q_proj": inward,
        "k_proj": inward,
        "v_proj": inward,
        "out_proj": residual,
        "fc1": (2 * config.hidden_size) ** -0.5,
        "fc2": residual,
    }


def _vision_deviations(config: Any) -> dict[str, float]:
    fan_in = config.num_channels * config.patch_size**2
    return _transformer_deviations(config) | {
        "class_embedding": config.hidden_size**-0.5,
        "patch_embedding": (3 * fan_in) ** -0.5,
        "position_embedding": config.hidden_size**-0.5,
        "visual_projection": config.hidden_size**-0.5,
        "probe": config.hidden_size**-0.5,
        "in_proj_weight": config.hidden_size**-0.5,
    }


def _text_deviations(config: Any) -> dict[str, float]:
    return _transformer_deviations(config) | {
        "token_embedding": 0.02,
        "position_embedding": 0.01,
        "text_projection": config.hidden_size**-0.5,
        "head": config.hidden_size**-0.5,
    }
