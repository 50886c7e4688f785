import pytest
import torch
from torch import Tensor

from orchestrator.evaluation.scores import class_scores
from orchestrator.evaluation.zero_shot import class_embeddings, zero_shot
from orchestrator.spec.targets import TargetSpec

CLASSES = ("red", "green", "blue", "white", "black", "grey", "pink")
TARGET = TargetSpec(
    classes=CLASSES,
    named_in_captions=True,
    templates=("the {}", "one {}", "a {} thing"),
    hypernyms={"pink": "red"},
)


def encode_texts(texts: list[str]) -> Tensor:
    """A fixed random vector per text, of random length."""
    vectors = []
    for text in texts:
        generator = torch.Generator().manual_seed(int.from_bytes(text.encode()[-8:], "big") % 2**31)
        vectors.append(torch.randn(16, generator=generator) * torch.rand(1, generator=generator) * 9)
    return torch.stack(vectors)


def naive_class_embedding(label: str) -> Tensor:
    total = torch.zeros(16)
    for template in TARGET.templates:
        vector = encode_texts([template.format(TARGET.hypernyms.get(label, label))])[0]
        total = total + vector / vector.pow(2).sum().sqrt()
    return total / total.pow(2).sum().sqrt()


def test_class_embeddings_are_means_of_unit_vectors_of_unit_length() -> None:
    class_KD = class_embeddings(encode_texts, TARGET)
    expected_KD = torch.stack([naive_class_embedding(label) for label in CLASSES])
    assert torch.allclose(class_KD, expected_KD, atol=1e-6)


def test_classes_that_share_a_hypernym_have_one_embedding() -> None:
    class_KD = class_embeddings(encode_texts, TARGET)
    assert torch.equal(class_KD[CLASSES.index("red")], class_KD[CLASSES.index("pink")])


def test_accuracies_equal_a_naive_loop() -> None:
    class_KD = torch.stack([naive_class_embedding(label) for label in CLASSES[:-1]])
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.randint(0, 6, (200,), generator=generator)
    image_ND = class_KD[labels_N] + 1.0 * torch.randn(200, 16, generator=generator)
    top1 = top5 = 0
    for image_D, label in zip(image_ND, labels_N.tolist(), strict=True):
        order = sorted(range(6), key=lambda k: -float(image_D @ class_KD[k]))
        top1 += order[0] == label
        top5 += label in order[:5]
    found = class_scores(zero_shot(image_ND, class_KD), labels_N)
    assert found["accuracy"].value == pytest.approx(top1 / 200)
    assert found["top5_accuracy"].value == pytest.approx(top5 / 200)
    assert 60 < top1 < top5 < 200  # not trivial


def test_an_images_length_does_not_matter() -> None:
    class_KD = class_embeddings(encode_texts, TARGET)
    assert torch.allclose(zero_shot(class_KD * 100, class_KD), zero_shot(class_KD, class_KD))


def test_top_5_needs_more_than_5_classes() -> None:
    assert list(class_scores(torch.eye(5), torch.arange(5))) == ["accuracy"]
    known_K = torch.tensor([True, False, False, False, False])
    label_N = torch.tensor([0, 0, 1, 2])
    score_NK = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0]), 5).float()
    found = class_scores(score_NK, label_N, known_K)
    values = {name: score.value for name, score in found.items()}
    assert values == {"accuracy": 0.5, "accuracy_in_vocabulary": 0.5, "accuracy_outside_vocabulary": 0.5}
    several_NK = torch.nn.functional.one_hot(label_N, 5).bool()
    of_known, of_others = (
        class_scores(score_NK[:, part_K], several_NK[:, part_K])["mean_average_precision"]
        for part_K in (known_K, ~known_K)
    )
    found = class_scores(score_NK, several_NK, known_K)
    assert found["mean_average_precision_in_vocabulary"] == of_known
    assert found["mean_average_precision_outside_vocabulary"] == of_others
    assert list(class_scores(score_NK[:2], label_N[:2], ~known_K)) == ["accuracy", "accuracy_outside_vocabulary"]
    assert list(class_scores(torch.eye(6), torch.arange(6))) == ["accuracy", "top5_accuracy"]
