"""How things look: the colours of objects, the grounds and the skies. Tables only."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Ground:
    """Two colours and how they alternate; ``scale_m`` is the width of one cell, stripe or grain."""

    pattern: Literal["plain", "checker", "stripes", "noise"]
    first: RGB
    second: RGB
    scale_m: float = 1.0


@dataclass(frozen=True)
class Sky:
    """Background from zenith to horizon, and the light that comes with it."""

    zenith: RGB
    horizon: RGB
    sun: RGB
    ambient: RGB


COLORS: Mapping[str, RGB] = MappingProxyType(
    {
        "red": (0.85, 0.08, 0.08),
        "orange": (0.97, 0.50, 0.05),
        "yellow": (0.95, 0.87, 0.10),
        "green": (0.10, 0.60, 0.15),
        "blue": (0.10, 0.22, 0.85),
        "purple": (0.48, 0.12, 0.62),
        "pink": (0.98, 0.55, 0.72),
        "brown": (0.42, 0.24, 0.11),
        "cyan": (0.15, 0.85, 0.88),
        "black": (0.06, 0.06, 0.06),
        "gray": (0.48, 0.48, 0.48),
        "white": (0.97, 0.97, 0.97),
    }
)

GROUNDS: Mapping[str, Ground] = MappingProxyType(
    {
        "table": Ground("stripes", (0.66, 0.47, 0.30), (0.58, 0.40, 0.24), 0.7),
        "floor": Ground("checker", (0.78, 0.76, 0.72), (0.52, 0.54, 0.58), 0.9),
        "rug": Ground("stripes", (0.64, 0.34, 0.34), (0.76, 0.66, 0.54), 0.6),
        "checkerboard": Ground("checker", (0.80, 0.78, 0.72), (0.40, 0.38, 0.38), 0.8),
        "grass": Ground("noise", (0.24, 0.46, 0.14), (0.42, 0.62, 0.22), 0.16),
        "sand": Ground("noise", (0.84, 0.74, 0.52), (0.74, 0.62, 0.40), 0.22),
        "snow": Ground("noise", (0.95, 0.96, 0.99), (0.84, 0.88, 0.95), 0.50),
        "asphalt": Ground("noise", (0.30, 0.30, 0.32), (0.40, 0.40, 0.42), 0.12),
        "clay": Ground("plain", (0.66, 0.42, 0.32), (0.66, 0.42, 0.32)),
        "ice": Ground("plain", (0.72, 0.84, 0.90), (0.72, 0.84, 0.90)),
    }
)

SKIES: Mapping[str, Sky] = MappingProxyType(
    {
        "morning": Sky((0.45, 0.64, 0.92), (0.97, 0.86, 0.74), (0.68, 0.62, 0.54), (0.44, 0.44, 0.46)),
        "noon": Sky((0.22, 0.48, 0.90), (0.72, 0.86, 0.98), (0.68, 0.68, 0.66), (0.45, 0.46, 0.48)),
        "evening": Sky((0.38, 0.26, 0.50), (0.99, 0.62, 0.36), (0.68, 0.56, 0.46), (0.45, 0.41, 0.42)),
        "night": Sky((0.02, 0.03, 0.10), (0.12, 0.15, 0.30), (0.48, 0.50, 0.55), (0.35, 0.36, 0.40)),
        "fog": Sky((0.74, 0.76, 0.78), (0.84, 0.85, 0.86), (0.50, 0.50, 0.50), (0.54, 0.54, 0.55)),
    }
)
