"""corenet's patches: three convolutions of strides 4, 2 and the rest, with GELU between them.

Its batch norms are folded into the convolutions before them: exact for weights that are finished, and without
statistics that ranks would have to share for those that are trained on.
"""

from torch import Tensor, nn


class ConvStem(nn.Sequential):
    """Images [B, 3, H, W] to patches [B, width, H / patch_size, W / patch_size]; ``patch_size`` is a multiple of 8."""

    def __init__(self, width: int, patch_size: int) -> None:
        hidden, last = max(32, width // 4), patch_size // 8
        super().__init__(
            nn.Conv2d(3, hidden, 4, stride=4, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(hidden, width, last, stride=last),
        )

    @property
    def weight(self) -> Tensor:
        """Its type is what images are cast to: `transformers` asks its patch embedding for it."""
        return self[0].get_parameter("weight")
