"""Labels of captions where data is read: the finder that a plan names, opened once a process, and its vocabulary."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from orchestrator.errors import DatasetError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts
from orchestrator.storage.store import ObjectNotFoundError, open_store
from orchestrator.wordnet.finder import Finder, build_finder
from orchestrator.wordnet.table import read_noun_table
from orchestrator.wordnet.tagger import WHERE_TO_GET, Tagger
from orchestrator.wordnet.vocabulary import Vocabulary

_LABELLINGS: dict[str, Callable[[str], list[int]]] = {}  # by digest of the vocabulary, of this process


@dataclass(frozen=True)
class Labeller:
    """From captions to outputs of the classifier. Pickles as what it is made of; each process opens the finder."""

    vocabulary: Vocabulary
    finder: FinderFacts
    s3: S3Spec

    def labels(self, caption: str) -> list[int]:
        """Outputs that the caption names, ascending; empty where it names none."""
        digest = self.vocabulary.digest
        if digest not in _LABELLINGS:
            _LABELLINGS[digest] = open_finder(self.finder, self.s3).labelling(self.vocabulary.index_of)
        return _LABELLINGS[digest](caption)

    def stored_labels(self, concepts: Iterable[int]) -> list[int]:
        """The same, of a caption whose concepts were found before."""
        return self.vocabulary.indices(concepts)


def open_labeller(vocabulary: Vocabulary, finder: FinderFacts, s3: S3Spec) -> Labeller:
    """The labeller of a vocabulary.

    Raises DatasetError for a vocabulary that another finder counted: its labels would mean something else.
    """
    found = open_finder(finder, s3).version
    if vocabulary.finder != found:
        raise DatasetError(
            f"the concept vocabulary was counted with '{vocabulary.finder}', the job labels with '{found}': set mode, "
            "noun_table and tagger of the objective as they were, or leave objective.vocabulary out to count one again"
        )
    _ = vocabulary.digest  # is then part of every copy
    return Labeller(vocabulary, finder, s3)


@lru_cache(maxsize=4)
def open_finder(finder: FinderFacts, s3: S3Spec) -> Finder:
    """The finder, from the package or from where the job says.

    Raises DatasetError: no noun table or no tagger there.
    """
    table = tagger = None
    if finder.noun_table is not None:
        advice = (
            "leave noun_table out for the WordNet in the package, or build one: apt-get install wordnet-base && python "
            "scripts/build_wordnet_table.py /usr/share/wordnet FILE"
        )
        table = read_noun_table(_read(finder.noun_table, s3, "noun_table", advice), finder.noun_table)
    if finder.tagger is not None:
        tagger = Tagger(_read(finder.tagger, s3, "tagger", WHERE_TO_GET), finder.tagger)
    return build_finder(finder.mode, table, tagger)


def _read(uri: str, s3: S3Spec, key: str, advice: str) -> bytes:
    folder, _, name = uri.rpartition("/")
    try:
        return open_store(folder, s3).read_bytes(name)
    except ObjectNotFoundError as error:
        raise DatasetError(f"{key}: {uri} does not exist; {advice}") from error
