"""Where in its tower a parameter lies, told from its name."""

import re
from collections.abc import Iterable

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_BELOW_LAYERS = re.compile(r"embeddings\.|pre_layrnorm\.")  # `transformers` spells it so


def count_layers(names: Iterable[str]) -> int:
    """Layers of a transformer with parameters of these names."""
    return max((int(match[1]) + 1 for name in names if (match := _LAYER.search(name))), default=0)


def layer_of(name: str, num_layers: int) -> int:
    """0: embeddings and what else comes before the layers; 1 to ``num_layers``: a layer; one more: what comes after."""
    if match := _LAYER.search(name):
        return int(match[1]) + 1
    return 0 if _BELOW_LAYERS.search(name) else num_layers + 1
