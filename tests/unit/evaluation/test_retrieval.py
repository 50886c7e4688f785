import statistics

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from orchestrator.evaluation import retrieval as module
from orchestrator.evaluation.retrieval import CaptionPairs, Direction, pair_captions, retrieval, retrieval_ranks

torch.set_num_threads(1)

NUM_IMAGES = 30
Embeddings = tuple[Tensor, Tensor, CaptionPairs, list[list[str]]]


@pytest.fixture
def embedded() -> Embeddings:
    """None to three captions an image, some shared; coordinates are few small numbers, so that similarities tie."""
    generator = torch.Generator().manual_seed(2)
    captions = [[f"text {(7 * i + 3 * j) % 41}" for j in range(i % 4)] for i in range(NUM_IMAGES)]
    pairs = pair_captions(captions)
    image_ND = torch.randint(-1, 2, (NUM_IMAGES, 4), generator=generator).float()
    text_CD = torch.randint(-1, 2, (len(pairs.texts), 4), generator=generator).float()
    for image, caption in zip(pairs.image.tolist(), pairs.caption.tolist(), strict=True):
        if image % 2:
            text_CD[caption] += 2 * image_ND[image]
    return image_ND.sign(), text_CD.sign(), pairs, captions


def naive_ranks(embedded: Embeddings, direction: Direction) -> list[list[int]]:
    """Ranks of each image's queries, by a loop over all answers with every caption standing for itself."""
    image_ND, text_CD, pairs, captions = embedded
    image_ND, text_CD = normalize(image_ND, dim=-1), normalize(text_CD, dim=-1)

    def similarity(image: int, text: str) -> float:
        return float(image_ND[image] @ text_CD[pairs.texts.index(text)])

    everything = [text for own in captions for text in own]
    ranks: list[list[int]] = []
    for image, own in enumerate(captions):
        ranks.append([])
        if direction == "image_to_text" and own:
            best = max(similarity(image, text) for text in own)
            wrong = [similarity(image, text) for text in everything if text not in own]
            ranks[-1].append(1 + sum(one >= best - 1e-6 for one in wrong))
        if direction == "text_to_image":
            for text in own:
                best = max(similarity(i, text) for i in range(NUM_IMAGES) if text in captions[i])
                wrong = [similarity(i, text) for i in range(NUM_IMAGES) if text not in captions[i]]
                ranks[-1].append(1 + sum(one >= best - 1e-6 for one in wrong))
    return ranks


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
@pytest.mark.parametrize("max_elements", [1, 100, 10**6])
def test_scores_equal_a_naive_loop(
    embedded: Embeddings, direction: Direction, max_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_ELEMENTS", max_elements)
    image_ND, text_CD, pairs, _ = embedded
    found = retrieval(image_ND, text_CD, pairs, direction)
    ranks = [rank for own in naive_ranks(embedded, direction) for rank in own]
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"].value == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))
    assert found["mean_rank"].value == pytest.approx(statistics.mean(ranks))
    assert found["median_rank"].value == statistics.median(ranks)
    assert 0 < found["recall_at_1"].value < found["recall_at_10"].value < 1  # not trivial
    assert all(one.low <= one.value <= one.high for one in found.values())


def test_embeddings_that_have_collapsed_find_nothing() -> None:
    pairs = pair_captions([["a", "b"], ["c"], ["d"]])
    images, _ = retrieval_ranks(torch.ones(3, 2), torch.ones(4, 2), pairs, "text_to_image")
    texts, _ = retrieval_ranks(torch.ones(3, 2), torch.ones(4, 2), pairs, "image_to_text")
    assert images.tolist() == [3, 3, 3, 3]
    assert texts.tolist() == [3, 3, 4, 4]


def test_a_caption_that_images_share_is_right_for_each_of_them() -> None:
    pairs = pair_captions([["same"], ["same"], ["other"]])
    assert pairs.texts == ["same", "other"]
    image_ND = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    for direction in ("image_to_text", "text_to_image"):
        rank_P, _ = retrieval_ranks(image_ND, torch.eye(2), pairs, direction)
        assert rank_P.tolist() == [1, 1, 1]


def test_captions_of_one_image_are_resampled_together() -> None:
    """Were queries resampled by themselves, twenty copies of each would make the interval a fourth as wide."""
    image_ND = torch.eye(40)
    text_ND = torch.cat([torch.eye(40)[:20], torch.eye(40)[20:].flip(0)])
    once, often = (
        retrieval(image_ND, text_ND, pair_captions([[f"t{i}"] * n for i in range(40)]), "text_to_image")
        for n in (1, 20)
    )
    assert once["recall_at_1"].value == 0.5
    assert often["recall_at_1"] == once["recall_at_1"]
    assert once["recall_at_1"].high - once["recall_at_1"].low > 0.2
