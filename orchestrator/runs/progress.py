"""What long work tells whoever watches: one record, whatever is done and wherever it is shown."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one activity is. A new ``activity`` begins a new line or bar."""

    activity: str
    """What is done, such as ``index scenes/train`` or ``train``."""
    done: int
    total: int | None = None
    """None: nobody knows yet."""
    unit: str = ""
    """What ``done`` counts, such as ``steps``."""
    note: str = ""
    """What else is worth a look now, such as ``loss 2.31, 812 samples/s``."""


OnProgress = Callable[[Progress], None]
