import pytest
import torch

from orchestrator.evaluation import bootstrap as module
from orchestrator.evaluation.bootstrap import NUM_RESAMPLES, estimate, estimate_over_draws, mean_of, resample_weights

torch.set_num_threads(1)


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    hit_N = torch.arange(400) < 300
    found = estimate({"accuracy": mean_of(hit_N)}, 400)["accuracy"]
    assert found.value == 0.75
    deviation = (0.75 * 0.25 / 400) ** 0.5
    assert found.low == pytest.approx(0.75 - 1.96 * deviation, abs=0.006)
    assert found.high == pytest.approx(0.75 + 1.96 * deviation, abs=0.006)
    assert estimate({"accuracy": mean_of(hit_N)}, 400)["accuracy"] == found


def test_resamples_draw_as_many_rows_as_there_are() -> None:
    weight_RN = torch.cat(list(resample_weights(50)))
    assert weight_RN.shape == (NUM_RESAMPLES, 50)
    assert (weight_RN.sum(dim=1) == 50).all()
    assert weight_RN.std(dim=0, correction=0).mean().item() == pytest.approx(1, abs=0.05)  # Poisson, nearly


def test_pieces_bound_memory_and_cover_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ELEMENTS", 1300)
    pieces = list(resample_weights(10))
    assert {len(piece) for piece in pieces} == {130, NUM_RESAMPLES % 130}
    assert sum(len(piece) for piece in pieces) == NUM_RESAMPLES


def test_an_answer_that_no_row_contradicts_has_no_width() -> None:
    found = estimate({"accuracy": mean_of(torch.ones(9))}, 9)["accuracy"]
    assert (found.low, found.value, found.high) == (1, 1, 1)


def test_draws_that_differ_widen_the_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    alike_MN = (torch.rand(200, generator=generator) < 0.5).expand(5, -1)
    different_MN = torch.rand(5, 200, generator=generator) < torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])[:, None]
    alike, different = estimate_over_draws(alike_MN), estimate_over_draws(different_MN)
    over_rows = estimate({"mean": mean_of(alike_MN[0])}, 200)["mean"]
    assert (alike.low, alike.high) == pytest.approx((over_rows.low, over_rows.high))
    assert different.value == pytest.approx(different_MN.double().mean().item())
    assert different.high - different.low > 2 * (alike.high - alike.low)
