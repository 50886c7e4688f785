"""Sizes of the towers by name: plain data, so that a plan can count parameters without torch.

Sizes from ``vit_s16`` up follow the CLIP paper's towers (arXiv 2103.00020, table 19) as open_clip configures
them; the tiny ones exist for the scenes and for tests.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformerSize:
    """Width, depth and heads of one transformer; its feed-forward layer is four times as wide."""

    width: int
    num_layers: int
    num_heads: int


@dataclass(frozen=True)
class ModelSize:
    """A vision tower, the text tower that goes with it, and the width of the space they share."""

    image_size: int
    patch_size: int
    vision: TransformerSize
    text: TransformerSize
    embedding_width: int


PRESETS: dict[str, ModelSize] = {
    "vit_nano_32": ModelSize(32, 8, TransformerSize(32, 2, 2), TransformerSize(32, 2, 2), 32),
    "vit_tiny_64": ModelSize(64, 8, TransformerSize(128, 4, 2), TransformerSize(96, 2, 2), 128),
    "vit_s16": ModelSize(224, 16, TransformerSize(384, 12, 6), TransformerSize(384, 12, 6), 384),
    "vit_b32": ModelSize(224, 32, TransformerSize(768, 12, 12), TransformerSize(512, 12, 8), 512),
    "vit_b16": ModelSize(224, 16, TransformerSize(768, 12, 12), TransformerSize(512, 12, 8), 512),
    "vit_l14": ModelSize(224, 14, TransformerSize(1024, 24, 16), TransformerSize(768, 12, 12), 768),
}
