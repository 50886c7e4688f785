"""Labels of captions where data is read: the finder that a plan names, opened once a process, and its vocabulary."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from orchestrator.data.annotation_header import Annotation, AnnotationColumn, Maker
from orchestrator.errors import DatasetError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts, VocabularyFacts
from orchestrator.spec.objective import ConceptMode
from orchestrator.storage.store import ObjectNotFoundError, open_object
from orchestrator.wordnet.captions import MAX_CAPTION_CHARACTERS
from orchestrator.wordnet.finder import Finder, build_finder
from orchestrator.wordnet.table import read_noun_table
from orchestrator.wordnet.tagger import WHERE_TO_GET, Tagger
from orchestrator.wordnet.vocabulary import Vocabulary

COMMAND = "orchestrator label concepts JOB.yaml"
_LABELLINGS: dict[str, Callable[[str], list[int]]] = {}  # by digest of the vocabulary, of this process


@dataclass(frozen=True)
class StoredConcepts:
    """The annotation that holds the concepts of some caption fields."""

    annotation: Annotation
    fields: tuple[str, ...]

    @classmethod
    def by(cls, finder: Finder, mode: ConceptMode, fields: Sequence[str]) -> "StoredConcepts":
        """What a finder makes of the captions in ``fields``."""
        columns = tuple(
            AnnotationColumn(caption_column(number), "labels", width=MAX_CAPTION_CHARACTERS)
            for number in range(len(fields))
        )
        settings = hashlib.sha256(json.dumps(list(fields)).encode()).hexdigest()
        maker = Maker("concepts", finder.version, settings, COMMAND)
        return cls(Annotation(f"concepts-{mode}", columns, maker), tuple(fields))

    @property
    def column_names(self) -> tuple[str, ...]:
        """Of the annotation, one for each caption field."""
        return tuple(column.name for column in self.annotation.columns)


def caption_column(number: int) -> str:
    """Where the concepts of a job's caption field lie, by its place among them."""
    return f"caption-{number}"


@dataclass(frozen=True)
class Labeller:
    """From captions to outputs of the classifier. Pickles as what it is made of; each process opens the finder."""

    vocabulary: Vocabulary
    finder: FinderFacts
    s3: S3Spec
    stored: StoredConcepts | None = None
    """Where concepts lie that were found ahead; none: captions are labelled as they are read."""
    resamples: bool = False
    """Whether another sample takes the place of one without labels."""

    def labels(self, caption: str) -> list[int]:
        """Outputs that the caption names, ascending; empty where it names none."""
        digest = self.vocabulary.digest
        if digest not in _LABELLINGS:
            _LABELLINGS[digest] = open_finder(self.finder, self.s3).labelling(self.vocabulary.index_of)
        return _LABELLINGS[digest](caption)

    def labels_of_all(self, captions: Iterable[str]) -> list[int]:
        """Outputs that any of the captions names, ascending."""
        return sorted({label for caption in captions for label in self.labels(caption)})


def open_labeller(
    vocabulary: Vocabulary,
    finder: FinderFacts,
    s3: S3Spec,
    stored_fields: Sequence[str] | None = None,
    resamples: bool = False,
) -> Labeller:
    """The labeller of a vocabulary; ``stored_fields``: caption fields whose concepts were found ahead.

    Raises DatasetError for a vocabulary that another finder counted: its labels would mean something else.
    """
    opened = open_finder(finder, s3)
    if vocabulary.finder != opened.version:
        raise DatasetError(
            f"the concept vocabulary was counted with '{vocabulary.finder}', the job labels with '{opened.version}': "
            "set mode, noun_table and tagger of the objective as they were, or leave objective.vocabulary out to count "
            "one again"
        )
    _ = vocabulary.digest  # is then part of every copy
    stored = None if stored_fields is None else StoredConcepts.by(opened, finder.mode, stored_fields)
    return Labeller(vocabulary, finder, s3, stored, resamples)


def open_vocabulary(facts: VocabularyFacts, s3: S3Spec) -> Vocabulary:
    """The vocabulary that a plan names."""
    store, name = open_object(facts.uri, s3)
    return Vocabulary.from_bytes(store.read_bytes(name))


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
    store, name = open_object(uri, s3)
    try:
        return store.read_bytes(name)
    except ObjectNotFoundError as error:
        raise DatasetError(f"{key}: {uri} does not exist; {advice}") from error
