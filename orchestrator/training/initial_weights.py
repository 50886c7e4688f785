"""A fresh objective takes over weights that exist: ``init`` of a job. Read on rank 0 alone, the same on every rank."""

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orchestrator.collectives import from_rank_zero, rank_and_world_size, share_parameters
from orchestrator.data.concepts import open_vocabulary
from orchestrator.errors import ModelSourceError, OrchestratorError
from orchestrator.models.source import shown
from orchestrator.objectives.adopt import find_weights, fits
from orchestrator.objectives.objective import Objective
from orchestrator.spec.init import InitSpec
from orchestrator.spec.plan import Plan
from orchestrator.training.initial_source import InitialSource, read_source
from orchestrator.wordnet.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_PROJECTIONS = ("visual_projection.weight", "text_projection.weight")
"""Of a tower in a job's eyes, but only there where two towers meet."""
_CLASSIFIER = ("classifier.weight", "classifier.bias")


def initialize_from(objective: Objective, init: InitSpec, plan: Plan) -> None:
    """Fill the towers that ``init`` names; the rest keeps its fresh weights where nothing fits, and the log says so.

    A collective: a run that still trains may write its next checkpoint between the looks of two ranks.

    Raises:
        ModelSourceError: nothing there, towers of another variant, or a tower that does not fit (names the keys).
    """
    problem = None
    if rank_and_world_size()[0] == 0:
        try:
            _fill(objective, init, plan)
        except OrchestratorError as error:
            problem = error
    problem = from_rank_zero(problem)
    if problem is not None:
        raise problem
    share_parameters(objective, torch.device(plan.workers.accelerator))


@torch.no_grad()
def _fill(objective: Objective, init: InitSpec, plan: Plan) -> None:
    source = read_source(init, plan)
    towers = _towers_to_fill(objective, init, source.state)
    own = open_vocabulary(plan.model.vocabulary, plan.s3) if plan.model.vocabulary else None
    takes_heads = init.towers is None and source.objective == plan.objective.name and _same(own, source.vocabulary)
    problems, fresh = [], []
    for name, parameter in objective.named_parameters():
        tower = name.partition(".")[0]
        given = find_weights(name, source.state)
        weights = None if given is None else _resample_positions(given, source.state[given], parameter)
        may_take = tower in towers or (tower not in objective.towers() and takes_heads)
        if may_take and weights is not None and fits(weights, parameter):
            parameter.copy_(weights.reshape(parameter.shape))
        elif tower in towers and not name.endswith(_PROJECTIONS):
            found = "missing" if weights is None else list(weights.shape)
            problems.append(f"{name} is {found}, wanted {list(parameter.shape)}")
        else:
            fresh.append(name)
    if problems:
        raise ModelSourceError(
            f"init.from {init.from_} does not fit towers {', '.join(towers)}: {shown(problems)}. Sizes are those of "
            f"model.preset, text.context (positions) and text.tokenizer (tokens); init.towers leaves a tower out"
        )
    if own is not None and source.vocabulary is not None and not takes_heads:  # they may differ in counts alone
        fresh = _carry_rows(objective, source, own, source.vocabulary, fresh)
    logger.info("started from %s (%s weights); fresh weights: %s", source.uri, init.weights, shown(fresh) or "none")


def _same(own: Vocabulary | None, other: Vocabulary | None) -> bool:
    return (own and own.digest) == (other and other.digest)


def _carry_rows(
    objective: nn.Module, source: InitialSource, own: Vocabulary, other: Vocabulary, fresh: list[str]
) -> list[str]:
    """A classifier of another vocabulary: rows of concepts that both have; returns what is still all fresh."""
    parameters = dict(objective.named_parameters())
    if not all(name in parameters and name in source.state for name in _CLASSIFIER):
        return fresh
    tables = [vocabulary.finder.split()[1] for vocabulary in (own, other)]
    pairs = [(row, other.index_of[offset]) for row, offset in enumerate(own.offsets) if offset in other.index_of]
    if tables[0] != tables[1]:  # the same number is another concept there
        logger.warning(
            "%s: its classifier is of the nouns of WordNet %s, this one's of %s; no row is taken over",
            source.uri,
            tables[1],
            tables[0],
        )
        return fresh
    rows, others = map(list, zip(*pairs, strict=True)) if pairs else ([], [])
    for name in _CLASSIFIER:
        parameters[name][rows] = source.state[name][others]
    logger.info(
        "%s has another vocabulary (%s, this one %s): the classifier takes its rows of the %s concepts that both have; "
        "%s rows are fresh",
        source.uri,
        other.digest,
        own.digest,
        f"{len(pairs):,}",
        f"{len(own) - len(pairs):,}",
    )
    return [name for name in fresh if name not in _CLASSIFIER]


def _towers_to_fill(objective: Objective, init: InitSpec, state: Mapping[str, Tensor]) -> list[str]:
    there = [tower for tower in objective.towers() if any(name.startswith(f"{tower}_model.") for name in state)]
    missing = [tower for tower in init.towers or () if tower not in there]
    if missing or not there:
        raise ModelSourceError(
            f"init.from {init.from_} has {', '.join(there) or 'no'} towers for this objective, which has "
            f"{', '.join(objective.towers())}; wanted {', '.join(init.towers or objective.towers())}"
        )
    return [tower for tower in there if init.towers is None or tower in init.towers]


def _resample_positions(name: str, weights: Tensor, parameter: Tensor) -> Tensor:
    """Image positions of another grid, resized as an image is (bicubic, antialiased); a class token's stays."""
    if name != _POSITIONS or weights.shape == parameter.shape or weights.shape[1] != parameter.shape[1]:
        return weights
    old, new = math.isqrt(len(weights)), math.isqrt(len(parameter))
    num_class_tokens = len(weights) - old**2
    if num_class_tokens != len(parameter) - new**2:
        return weights
    grid = weights[num_class_tokens:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
    return torch.cat([weights[:num_class_tokens], grid.permute(0, 2, 3, 1).flatten(0, 2)])
