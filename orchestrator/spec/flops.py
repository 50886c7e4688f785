"""Arithmetic of the towers, counted from their sizes: what a device must do at least for one sample.

A multiplication and an addition are two operations. Matrix products only; norms, activations and softmax are left
out, as is the usual practice. Recomputed activations do not count: they are no progress.
"""

from orchestrator.spec.presets import ModelSize, TransformerSize


def vision_flops(size: ModelSize, image_size: int, projection: bool) -> int:
    """Operations of one forward pass of the vision tower over one image."""
    patches = (image_size // size.patch_size) ** 2
    stem = 2 * patches * 3 * size.patch_size**2 * size.vision.width
    head = 2 * size.vision.width * size.embedding_width if projection else 0
    return stem + _transformer_flops(size.vision, patches + 1) + head


def text_flops(size: ModelSize, context: int) -> int:
    """Operations of one forward pass of the text tower over one caption of ``context`` tokens."""
    return _transformer_flops(size.text, context) + 2 * size.text.width * size.embedding_width


def _transformer_flops(size: TransformerSize, length: int) -> int:
    # Per token: 4 w^2 weights of attention and 8 w^2 of the feed-forward layer; scores and mixing read all tokens.
    weights = 2 * 12 * size.width**2 * length
    attention = 2 * 2 * length**2 * size.width
    return size.num_layers * (weights + attention)
