"""Accuracies apart for classes whose synset a concept vocabulary holds, and for those it does not.

An objective that learns from concepts has seen labels of the former; a score over all classes hides that.

Legend: N rows, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.concepts import open_finder
from orchestrator.evaluation.metric_words import describe_metric
from orchestrator.evaluation.predictions import TargetPredictions
from orchestrator.report.evaluation_sets import open_set
from orchestrator.report.tables import MISSING, Table
from orchestrator.spec.plan import Plan
from orchestrator.spec.targets import TargetSpec
from orchestrator.storage.store import open_store
from orchestrator.wordnet.vocabulary import Vocabulary

_EXACT = 1.0  # path similarity of a synset to itself


def split_by_vocabulary(plan: Plan, predictions: Mapping[str, Sequence[Sequence[TargetPredictions]]]) -> Table | None:
    """Mean accuracy of each objective's replicates by probe, target and part of its classes.

    None where no target has classes of both parts.

    Args:
        plan: of a run with a vocabulary.
        predictions: by objective, of each of its replicates.

    Raises:
        OrchestratorError: vocabulary, finder or evaluation set are not where the plan says.
    """
    sets = {one.set for runs in predictions.values() for run in runs for one in run}
    known = {
        (name, target): known_K
        for name in sorted(sets)
        for target, known_K in _known_classes(plan, open_set(plan, name).targets).items()
        if known_K.any() and not known_K.all()
    }
    keys = dict.fromkeys(
        (one.set, one.probe, one.target)
        for runs in predictions.values()
        for run in runs
        for one in run
        if (one.set, one.target) in known
    )
    rows = [row for key in keys for row in _rows(key, known[key[0], key[2]], predictions)]
    return Table(("metric", "classes", *predictions), tuple(rows)) if rows else None


def _known_classes(plan: Plan, targets: Mapping[str, TargetSpec]) -> dict[str, NDArray[np.bool_]]:
    """[K] by target: whether the vocabulary holds what captions call the class."""
    from orchestrator.objectives.synset_rows import match_classes  # loads the models' library; few pages need it

    facts = plan.model.vocabulary
    assert facts is not None, "asked for plans with a vocabulary"
    folder, _, name = facts.uri.rpartition("/")
    vocabulary = Vocabulary.from_bytes(open_store(folder, plan.s3).read_bytes(name))
    finder = open_finder(facts.finder, plan.s3)
    return {
        name: np.array(
            [
                bool(match.outputs)
                for match in match_classes(
                    [target.words_of(label) for label in target.classes], vocabulary, finder, _EXACT
                )
            ]
        )
        for name, target in targets.items()
    }


def _rows(
    key: tuple[str, str, str],
    known_K: NDArray[np.bool_],
    predictions: Mapping[str, Sequence[Sequence[TargetPredictions]]],
) -> Iterator[tuple[str, ...]]:
    words = describe_metric("/".join(("eval", *key, "accuracy")))
    for part, of_part_K in (("in the vocabulary", known_K), ("not in it", ~known_K)):
        cells = []
        for runs in predictions.values():
            found = [
                one.hits[of_part_K[one.label_N]].mean()
                for run in runs
                for one in run
                if (one.set, one.probe, one.target) == key and of_part_K[one.label_N].any()
            ]
            cells.append(f"{100 * np.mean(found):.1f} %" if found else MISSING)
        yield f"{words}, classes {part}", f"{of_part_K.sum()} of {len(of_part_K)}", *cells
