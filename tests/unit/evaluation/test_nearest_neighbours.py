import math

import pytest
import torch
from torch import Tensor

from orchestrator.evaluation import nearest_neighbours as module
from orchestrator.evaluation.nearest_neighbours import nearest_neighbour_votes

torch.set_num_threads(1)


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    train_ND, query_QD = torch.randn(50, 6, generator=generator), torch.randn(13, 6, generator=generator)
    return query_QD, train_ND, torch.randint(0, 4, (50,), generator=generator)


def naive_votes(query_QD: Tensor, train_ND: Tensor, label_N: Tensor, k: int, temperature: float) -> list[list[float]]:
    votes = []
    for query_D in query_QD:
        cosines = [float(torch.cosine_similarity(query_D, train_D, dim=0)) for train_D in train_ND]
        nearest = sorted(range(len(cosines)), key=lambda row: -cosines[row])[:k]
        counts = [math.exp(cosines[row] / temperature) for row in nearest]
        of_class = [sum(c for c, row in zip(counts, nearest, strict=True) if label_N[row] == one) for one in range(4)]
        votes.append([one / sum(counts) for one in of_class])
    return votes


@pytest.mark.parametrize("max_elements", [1, 200, 10**6])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (7, 10.0), (1000, 0.5)])
def test_votes_equal_a_naive_loop(
    k: int, temperature: float, max_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_ELEMENTS", max_elements)
    query_QD, train_ND, label_N = drawn()
    vote_QK, nearest_Q = nearest_neighbour_votes(query_QD, 3 * train_ND, label_N, 4, k, temperature)
    expected = torch.tensor(naive_votes(query_QD, train_ND, label_N, k, temperature), dtype=torch.double)
    assert torch.allclose(vote_QK, expected, atol=1e-5)
    cosine_QN = torch.cosine_similarity(query_QD[:, None], train_ND[None], dim=-1)
    assert nearest_Q.tolist() == cosine_QN.argmax(dim=1).tolist()


def test_each_of_several_labels_gets_the_rows_vote() -> None:
    label_NK = torch.tensor([[True, True, False], [False, True, False]])
    vote_QK, _ = nearest_neighbour_votes(torch.eye(2)[:1], torch.eye(2), label_NK, 3, k=2, temperature=1.0)
    share = math.e / (math.e + 1)
    assert vote_QK.tolist() == [pytest.approx([share, 1.0, 0.0])]
