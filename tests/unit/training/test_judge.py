"""Which weights an evaluation judges, and what a judged objective gives away."""

import pytest
import torch

from orchestrator.data.blocks import BlockFormat
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.training.judge import JudgedObjective, judged_weights
from tiny import build_tiny


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
