"""The nouns of WordNet as one compact table: words, senses, hypernyms and irregular plurals; no glosses.

The table is packaged (``nouns.npz``, about 1 MB, WordNet 3.0) and read without a download; it is built by
``scripts/build_wordnet_table.py``. A synset is named by its offset, as ImageNet does: 2084071 is n02084071, dog.n.01.
Lemmas of words are found in ``lemmas.py``, concepts of captions in ``captions.py``.

Legend: S synsets, W words (a word is one lemma name of one synset), H hypernym edges.
"""

import functools
import io
import zipfile
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from orchestrator.errors import DatasetError

PACKAGED_TABLE = Path(__file__).with_name("nouns.npz")
_IMAGENET_WNIDS = Path(__file__).with_name("imagenet_1k.txt")


@dataclass(frozen=True, eq=False)
class NounTable:
    """WordNet's nouns. Offsets are plain ints; an offset that is not in the table raises KeyError."""

    version: str
    """WordNet's version and a digest of the table's content, such as ``3.0-1f2e3d4c5b6a``."""
    offsets: list[int]
    """[S] synset offsets, ascending."""
    words: list[str]
    """[W] lemma names as WordNet spells them (``German_shepherd``), the words of one synset side by side."""
    senses: list[int]
    """[W] which sense of its word this synset is, from 1, most frequent first."""
    word_starts: list[int]
    """[S + 1] where each synset's words start."""
    hypernym_offsets: list[int]
    """[H] offsets of hypernyms and instance hypernyms, those of one synset side by side."""
    hypernym_starts: list[int]
    """[S + 1] where each synset's hypernyms start."""
    exceptions: dict[str, list[str]]
    """Irregular plurals: form -> lemmas (``mice`` -> ``mouse``)."""

    @functools.cached_property
    def _index_of(self) -> dict[int, int]:
        return {offset: index for index, offset in enumerate(self.offsets)}

    @functools.cached_property
    def _synsets_of(self) -> dict[str, list[int]]:
        by_sense = np.argsort(self.senses, kind="stable").tolist()
        lemmas = [word.lower() for word in self.words]
        offsets = np.repeat(self.offsets, np.diff(self.word_starts)).tolist()
        synsets: dict[str, list[int]] = {}
        for row in by_sense:
            of_lemma = synsets.setdefault(lemmas[row], [])
            if offsets[row] not in of_lemma:  # one synset may spell a lemma twice: Ma, MA
                of_lemma.append(offsets[row])
        return synsets

    def __len__(self) -> int:
        return len(self.offsets)

    def __contains__(self, lemma: str) -> bool:
        """Whether WordNet knows this lower-case lemma as a noun."""
        return lemma in self._synsets_of

    def synsets(self, lemma: str) -> list[int]:
        """Offsets of the lemma's synsets in sense order; empty for a lemma that is not a noun."""
        return self._synsets_of.get(lemma.lower(), [])

    def lemma_names(self, offset: int) -> list[str]:
        """The synonyms of a synset, the one that names it first."""
        index = self._index_of[offset]
        return self.words[self.word_starts[index] : self.word_starts[index + 1]]

    def name(self, offset: int) -> str:
        """NLTK's name of the synset: first lemma, part of speech, sense (``dog.n.01``)."""
        start = self.word_starts[self._index_of[offset]]
        return f"{self.words[start].lower()}.n.{self.senses[start]:02d}"

    def hypernyms(self, offset: int) -> list[int]:
        """Offsets of what the synset is a kind or an instance of."""
        index = self._index_of[offset]
        return self.hypernym_offsets[self.hypernym_starts[index] : self.hypernym_starts[index + 1]]

    def path_similarity(self, a: int, b: int) -> float:
        """1 / (1 + edges on the shortest path over a common hypernym), in (0, 1]; 0.0 where none is shared."""
        distance_from_b = self.ancestor_distances(b)
        paths = [
            distance + distance_from_b[ancestor]
            for ancestor, distance in self.ancestor_distances(a).items()
            if ancestor in distance_from_b
        ]
        return 1.0 / (1 + min(paths)) if paths else 0.0

    def ancestor_distances(self, offset: int) -> dict[int, int]:
        """Everything that the synset is a kind of, itself included, with the least number of edges to it."""
        distances = {offset: 0}
        queue = deque([offset])
        while queue:
            current = queue.popleft()
            for hypernym in self.hypernyms(current):
                if hypernym not in distances:
                    distances[hypernym] = distances[current] + 1
                    queue.append(hypernym)
        return distances


def wnid(offset: int) -> str:
    """ImageNet's name of a noun synset: n and eight digits (``n02084071``)."""
    return f"n{offset:08d}"


@functools.cache
def load_imagenet_wnids() -> tuple[str, ...]:
    """ImageNet's names of its thousand classes (ILSVRC 2012), in the order of its class numbers."""
    return tuple(_IMAGENET_WNIDS.read_text().split())


@functools.cache
def load_noun_table() -> NounTable:
    """The packaged table; read once per process. Raises DatasetError where it is missing."""
    try:
        return read_noun_table(PACKAGED_TABLE.read_bytes(), str(PACKAGED_TABLE))
    except OSError as error:
        raise DatasetError(
            f"{PACKAGED_TABLE} is missing ({error}): install the package vl-orchestrator again"
        ) from error


def read_noun_table(data: bytes, source: str) -> NounTable:
    """The table in ``data``, which was read from ``source``.

    Raises DatasetError for what ``scripts/build_wordnet_table.py`` did not write.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return _table_from(arrays)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{source}: not a WordNet noun table ({error}); expected a file that scripts/build_wordnet_table.py wrote"
        ) from error


def _table_from(arrays: "np.lib.npyio.NpzFile") -> NounTable:
    offsets = arrays["offsets_S"]
    exceptions = (line.split() for line in _text(arrays["exceptions"]).splitlines())
    return NounTable(
        version=_text(arrays["version"]),
        offsets=offsets.tolist(),
        words=_text(arrays["words"]).splitlines(),
        senses=arrays["senses_W"].tolist(),
        word_starts=_starts(arrays["num_words_S"]),
        hypernym_offsets=offsets[arrays["hypernyms_H"]].tolist(),
        hypernym_starts=_starts(arrays["num_hypernyms_S"]),
        exceptions={form: lemmas for form, *lemmas in exceptions},
    )


def _text(utf8: np.ndarray) -> str:
    return utf8.tobytes().decode()


def _starts(counts: np.ndarray) -> list[int]:
    return list(accumulate(counts.tolist(), initial=0))
