"""Which classes of an evaluation set a concept vocabulary holds.

An objective that learns from concepts has seen labels of those; a score over all classes hides that.
"""

from collections.abc import Mapping

from orchestrator.data.concepts import open_finder, open_vocabulary
from orchestrator.objectives.synset_rows import match_classes
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.targets import TargetSpec

_EXACT = 1.0  # path similarity of a synset to itself


def known_classes(facts: VocabularyFacts, s3: S3Spec, targets: Mapping[str, TargetSpec]) -> dict[str, tuple[bool, ...]]:
    """By target, whether the vocabulary holds what captions call each class; targets with classes of both kinds.

    Raises:
        StorageAccessError, DatasetError: vocabulary or finder are not where the facts say.
    """
    vocabulary, finder = open_vocabulary(facts, s3), open_finder(facts.finder, s3)
    known = {}
    for name, target in targets.items():
        matches = match_classes([target.words_of(label) for label in target.classes], vocabulary, finder, _EXACT)
        known[name] = tuple(bool(match.outputs) for match in matches)
    return {name: of_target for name, of_target in known.items() if any(of_target) and not all(of_target)}
