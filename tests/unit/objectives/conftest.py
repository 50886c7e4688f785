"""A tiny model and batches for it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.spec.presets import PRESETS

BEGIN, END, PAD, NUM_TOKENS, CONTEXT = 1, 3, 0, 64, 8


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def build() -> ModelBuild:
    tokens = TokenLayout(num_tokens=NUM_TOKENS, context=CONTEXT, begin_id=BEGIN, end_id=END, pad_id=PAD)
    return ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0, tokens=tokens)


@pytest.fixture
def tokenize() -> Callable[..., NDArray[np.int32]]:
    """Words by the sum of their letters, cut to the context with the end token kept."""

    def tokenize(captions: list[str]) -> NDArray[np.int32]:
        ids = np.full((len(captions), CONTEXT), PAD, np.int32)
        for row, text in zip(ids, captions, strict=True):
            words = [4 + sum(map(ord, word)) % 60 for word in text.split()][: CONTEXT - 2]
            row[: len(words) + 2] = [BEGIN, *words, END]
        return ids

    return tokenize


@pytest.fixture
def images() -> torch.Tensor:
    """uint8 [6, 32, 32, 3]."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
