"""Accelerators by name: what their makers' data sheets promise. Only estimates use it."""

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["A10", "A100-40GB", "A100-80GB", "B200", "H100", "H200", "L4", "L40S"]


@dataclass(frozen=True)
class Device:
    """One kind of accelerator."""

    tflops: float
    """10^12 operations a second of dense matrix products in bf16 or fp16."""
    memory_gb: int
    """10^9 bytes."""


DEVICES: dict[DeviceKind, Device] = {
    "A10": Device(125, 24),
    "A100-40GB": Device(312, 40),
    "A100-80GB": Device(312, 80),
    "B200": Device(2250, 180),
    "H100": Device(989, 80),
    "H200": Device(989, 141),
    "L4": Device(121, 24),
    "L40S": Device(362, 48),
}
