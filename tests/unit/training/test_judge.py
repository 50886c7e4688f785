"""Which weights an evaluation judges, and what a judged objective gives away."""

import pytest
import torch

from orchestrator.data.blocks import BlockFormat
from orchestrator.data.concepts import open_labeller
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import FinderFacts
from orchestrator.training.judge import JudgedObjective, judged_weights
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.vocabulary import Vocabulary
from tiny import NUM_CONCEPTS, build_tiny


@pytest.mark.parametrize(
    ("weights", "has_average", "judged"),
    [
        ("both", True, ("raw", "ema")),
        ("ema", True, ("ema",)),
        ("raw", True, ("raw",)),
        ("both", False, ("raw",)),
        ("ema", False, ("raw",)),
    ],
)
def test_the_average_is_judged_where_there_is_one_and_it_is_wanted(weights, has_average, judged):
    assert judged_weights(EvaluationSpec(weights=weights), has_average) == judged


def test_classes_get_rows_of_the_concept_classifier_and_random_ones_without_a_concept():
    finder = FinderFacts(mode="corenet", noun_table=None, tagger=None)
    offsets = (*packaged_finder().table.offsets[: NUM_CONCEPTS - 2], 2084071, 2121620)  # the last are dog and cat
    vocabulary = Vocabulary(offsets, (9,) * NUM_CONCEPTS, 9, 1, packaged_finder().version)
    format = BlockFormat(
        (), 32, context=8, max_concepts=8, tokenizer=None, labeller=open_labeller(vocabulary, finder, S3Spec())
    )
    objective = build_tiny("catlip")
    rows = JudgedObjective(objective, lambda: build_tiny("catlip"), format, 1.0, torch.device("cpu")).match_synsets(
        ["cat", "archaeological excavation", "n02084071"]
    )
    classifier = objective.concept_classifier()
    assert rows.is_matched_K.tolist() == [True, False, True]
    assert torch.equal(rows.weight_KF[[0, 2]], classifier.weight_VF[[NUM_CONCEPTS - 1, NUM_CONCEPTS - 2]])
    assert torch.equal(rows.bias_K[[0, 2]], classifier.bias_V[[NUM_CONCEPTS - 1, NUM_CONCEPTS - 2]])
    assert 0 < rows.weight_KF[1].abs().max() < 0.1


def test_a_copy_has_the_judged_weights_or_fresh_ones_and_is_another_objective():
    objective = build_tiny("clip")
    first = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(1)
    format = BlockFormat((), 32, context=8, max_concepts=0, tokenizer=None, labeller=None)
    judged = JudgedObjective(objective, lambda: build_tiny("clip"), format, 0.5, torch.device("cpu"))
    for trained, expected in ((True, objective.state_dict()), (False, first)):
        copy = judged.copy_objective(trained)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in copy.state_dict().items())
        with torch.no_grad():
            next(copy.parameters()).zero_()
    assert next(objective.parameters()).abs().max() > 0
