"""Which part of an image a square shows: what the image itself and everything dense that belongs to it go through."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Crop:
    """A box of the whole, upright image, perhaps mirrored.

    Args:
        width, height: of the whole image, in pixels.
        left, top, right, bottom: borders in its pixels; a JPEG read at an eighth of its size may end up to seven
            pixels outside of it.
    """

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int
    flipped: bool = False

    def centers(self, size: int) -> tuple[Floats, Floats]:
        """Where the centres of the square's columns and rows lie, as shares of the whole width and height: [size]."""
        share = (np.arange(size) + 0.5) / size
        x = self.left + (self.right - self.left) * (1 - share if self.flipped else share)
        y = self.top + (self.bottom - self.top) * share
        return x / self.width, y / self.height
