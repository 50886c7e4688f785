from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation import features as module
from orchestrator.evaluation.features import extract_features, extract_text_features


@dataclass(frozen=True)
class Batch:
    index: np.ndarray
    image: np.ndarray
    targets: dict[str, list[str | int]]
    captions: list[tuple[str, ...]]


def batch_of(*rows: int, target: str = "count") -> Batch:
    """Row i is an image of constant value i with label i."""
    index = np.array(rows, dtype=np.int64)
    image = np.broadcast_to(index[:, None, None, None], (len(rows), 2, 2, 3)).astype(np.uint8)
    return Batch(index, image, {target: list(rows)}, [(f"caption {row}",) for row in rows])


def encode(image_BHWC: Tensor) -> dict[str, Tensor]:
    assert image_BHWC.dtype == torch.uint8
    value_B = image_BHWC[:, 0, 0, 0].to(torch.bfloat16)
    return {"pooled": torch.stack([value_B, -value_B], dim=1).requires_grad_() * 2}


def test_rows_come_back_once_and_in_row_order() -> None:
    found = extract_features(encode, [batch_of(5, 2), batch_of(7, 2, 0)], world_size=1)
    assert found.index.tolist() == [0, 2, 5, 7]
    assert found.targets == {"count": [("0",), ("2",), ("5",), ("7",)]}
    assert found.captions == [("caption 0",), ("caption 2",), ("caption 5",), ("caption 7",)]
    assert found.features["pooled"].tolist() == [[0, 0], [4, -4], [10, -10], [14, -14]]


def test_features_are_fp32_without_a_graph() -> None:
    feature = extract_features(encode, [batch_of(1)], world_size=1).features["pooled"]
    assert feature.dtype == torch.float32
    assert not feature.requires_grad


def test_a_set_without_rows_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no rows"):
        extract_features(encode, [], world_size=1)


def test_batches_with_other_targets_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"count.*shape"):
        extract_features(encode, [batch_of(0), batch_of(1, target="shape")], world_size=1)


def test_features_that_are_not_finite_are_counted_and_refused() -> None:
    def encode_badly(image_BHWC: Tensor) -> dict[str, Tensor]:
        return {"pooled": 1 / image_BHWC[:, 0, 0, :1].float()}

    with pytest.raises(EvaluationError, match="'pooled' is not finite in 1 of 3 rows"):
        extract_features(encode_badly, [batch_of(0, 1, 2)], world_size=1)


def test_texts_are_encoded_in_calls_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXTS_PER_CALL", 3)
    calls: list[int] = []

    def encode_texts(texts: list[str]) -> Tensor:
        calls.append(len(texts))
        return torch.tensor([[float(text)] for text in texts]).bfloat16()

    found = extract_text_features(encode_texts, [str(i) for i in range(8)], rank=0, world_size=1)
    assert (found.flatten().tolist(), found.dtype) == (list(range(8)), torch.float32)
    assert calls == [3, 3, 2]


def test_text_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(EvaluationError, match="1 of 2 texts are not finite"):
        extract_text_features(lambda texts: torch.tensor([[0.0], [torch.inf]]), ["a", "b"], rank=0, world_size=1)
