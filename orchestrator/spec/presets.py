"""Sizes and variants of the towers by name: plain data, so that a plan can count parameters without torch.

Sizes from ``vit_s16`` up follow the CLIP paper's towers (arXiv 2103.00020, table 19) as open_clip configures
them, and CatLIP's L/16 and H/16 (arXiv 2404.15653, as corenet configures them) with the text towers of L/14 and
H/14. Those of ``siglip_`` are the released SigLIP's (arXiv 2303.15343 and 2502.14786), whose text tower is as large as
its vision tower. The tiny ones exist for the scenes and for tests.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TransformerSize:
    """Width, depth and heads of one transformer."""

    width: int
    num_layers: int
    num_heads: int
    odd_mlp_width: int | None = None
    """Of the feed-forward layer, where it is not four times ``width``."""

    @property
    def mlp_width(self) -> int:
        """Of the feed-forward layer."""
        return self.odd_mlp_width or 4 * self.width


@dataclass(frozen=True)
class ModelSize:
    """A vision tower, the text tower that goes with it, and the width of the space they share."""

    image_size: int
    patch_size: int
    vision: TransformerSize
    text: TransformerSize
    embedding_width: int


_SO400M = TransformerSize(1152, 27, 16, 4304)
"""Of the shape that arXiv 2305.13035 finds best for 400 million parameters."""

PRESETS: dict[str, ModelSize] = {
    "vit_nano_32": ModelSize(32, 8, TransformerSize(32, 2, 2), TransformerSize(32, 2, 2), 32),
    "vit_tiny_64": ModelSize(64, 8, TransformerSize(128, 4, 2), TransformerSize(96, 2, 2), 128),
    "vit_s16": ModelSize(224, 16, TransformerSize(384, 12, 6), TransformerSize(384, 12, 6), 384),
    "vit_b32": ModelSize(224, 32, TransformerSize(768, 12, 12), TransformerSize(512, 12, 8), 512),
    "vit_b16": ModelSize(224, 16, TransformerSize(768, 12, 12), TransformerSize(512, 12, 8), 512),
    "vit_l14": ModelSize(224, 14, TransformerSize(1024, 24, 16), TransformerSize(768, 12, 12), 768),
    "vit_l16": ModelSize(224, 16, TransformerSize(1024, 24, 16), TransformerSize(768, 12, 12), 768),
    "vit_h14": ModelSize(224, 14, TransformerSize(1280, 32, 16), TransformerSize(1024, 24, 16), 1024),
    "vit_h16": ModelSize(224, 16, TransformerSize(1280, 32, 20), TransformerSize(1024, 24, 16), 1024),
    "siglip_b32": ModelSize(256, 32, TransformerSize(768, 12, 12), TransformerSize(768, 12, 12), 768),
    "siglip_b16": ModelSize(224, 16, TransformerSize(768, 12, 12), TransformerSize(768, 12, 12), 768),
    "siglip_l16": ModelSize(256, 16, TransformerSize(1024, 24, 16), TransformerSize(1024, 24, 16), 1024),
    "siglip_so400m14": ModelSize(224, 14, _SO400M, _SO400M, 1152),
    "siglip_so400m16": ModelSize(256, 16, _SO400M, _SO400M, 1152),
}


@dataclass(frozen=True)
class PixelStatistics:
    """What is taken from red, green and blue in [0, 1], and what the rest is divided by."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TowerVariant:
    """In what towers of one size differ from one another."""

    activation: Literal["gelu", "quick_gelu", "gelu_pytorch_tanh"]
    """Of the feed-forward layers; ``quick_gelu`` is x sigmoid(1.702 x), ``gelu_pytorch_tanh`` GELU by way of tanh."""
    has_conv_stem: bool
    """Three convolutions make the patches, and no norm comes before the first layer; else one, and one does."""
    vision_norm_eps: float
    """Added to the variance in the norms of the vision tower."""
    pixels: PixelStatistics


CLIP_PIXELS = PixelStatistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Of CLIP's training images (its released preprocessing)."""
SIGLIP_PIXELS = PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNIT_PIXELS = PixelStatistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

VARIANTS: dict[str, TowerVariant] = {
    "clip": TowerVariant("gelu", False, 1e-5, CLIP_PIXELS),
    "openai": TowerVariant("quick_gelu", False, 1e-5, CLIP_PIXELS),
    "corenet": TowerVariant("gelu", True, 1e-6, UNIT_PIXELS),
    "siglip": TowerVariant("gelu_pytorch_tanh", False, 1e-6, SIGLIP_PIXELS),
}
"""``clip``: as open_clip trains it. ``openai``: the released CLIP weights. ``corenet``: those of CatLIP. ``siglip``:
those of SigLIP."""
