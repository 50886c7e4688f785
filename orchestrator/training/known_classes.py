"""Which classes of an evaluation set a concept vocabulary holds.

An objective that learns from concepts has seen labels of those; a score over all classes hides that.
"""

from collections.abc import Mapping

from orchestrator.data.concepts import open_finder, open_vocabulary
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.targets import TargetSpec
from orchestrator.wordnet.lemmas import find_synset


def known_classes(facts: VocabularyFacts, s3: S3Spec, targets: Mapping[str, TargetSpec]) -> dict[str, tuple[bool, ...]]:
    """By target, whether the vocabulary holds the synset of each class; targets with classes of both kinds.

    A class counts as a whole: it is not known because one of the words of its name is.

    Raises:
        StorageAccessError, DatasetError: vocabulary or finder are not where the facts say.
    """
    offsets, table = set(open_vocabulary(facts, s3).offsets), open_finder(facts.finder, s3).table
    known = {
        name: tuple(find_synset(target.concept_of(label), table) in offsets for label in target.classes)
        for name, target in targets.items()
    }
    return {name: of_target for name, of_target in known.items() if any(of_target) and not all(of_target)}
