"""Which classes of evaluation sets a model can name as it is: what its zero-shot probe has an answer for."""

from collections.abc import Mapping

from orchestrator.data.concepts import open_finder, open_vocabulary
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.objective import ObjectiveSection
from orchestrator.spec.targets import TargetSpec


def count_named(
    objective: ObjectiveSection,
    vocabulary: VocabularyFacts | None,
    targets: Mapping[str, TargetSpec],
    min_similarity: float,
    s3: S3Spec,
) -> dict[str, int] | None:
    """Classes of each target; None: the objective names none, or its vocabulary is counted when it runs.

    Args:
        min_similarity: from which a concept stands for a class.
    """
    if objective.reads_captions:
        return {name: len(target.classes) if target.templates else 0 for name, target in targets.items()}
    if vocabulary is None:
        return None
    from orchestrator.objectives.synset_rows import match_classes  # imports torch, which no other look needs

    concepts, finder = open_vocabulary(vocabulary, s3), open_finder(vocabulary.finder, s3)
    named = {}
    for name, target in targets.items():
        matches = match_classes([target.concept_of(one) for one in target.classes], concepts, finder, min_similarity)
        named[name] = sum(bool(match.outputs) for match in matches)
    return named
