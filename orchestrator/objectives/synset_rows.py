"""Classifiers for other classes out of the rows of a concept classifier (CatLIP, arXiv 2404.15653, section 4.2).

A class takes the row of the concept that is nearest to its name in WordNet (path similarity); a name that is no noun
of WordNet itself takes the mean of the rows of its words ("restaurant kitchen"); a class without a near concept keeps
a random row ("archaeological excavation"). So starts a classifier that is fine-tuned (``evaluation.fine_tune.head``),
and so a target is judged without any training, by the classes that have a match (``evaluation/evaluate.py``).

The paper gives no least similarity: 0.5 here, which is the concept itself or what is one step above or below it.

Legend: V concepts of the vocabulary, C classes, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from orchestrator.objectives.objective import LinearClassifier
from orchestrator.wordnet.finder import Finder
from orchestrator.wordnet.lemmas import find_synset
from orchestrator.wordnet.table import NounTable
from orchestrator.wordnet.vocabulary import Vocabulary

MIN_SIMILARITY = 0.5
_ROW_DEVIATION = 0.02  # as the concept classifier's own rows start


@dataclass(frozen=True)
class ClassMatch:
    """What a class takes its row from."""

    outputs: tuple[int, ...]
    """Concepts whose rows are averaged; none: no concept is near enough."""
    similarity: float
    """Path similarity of the least similar of them; 0 without any."""


_NO_MATCH = ClassMatch((), 0.0)


def match_classes(
    names: Sequence[str], vocabulary: Vocabulary, finder: Finder, min_similarity: float = MIN_SIMILARITY
) -> list[ClassMatch]:
    """Each class by its name: words (``golden retriever``), or a WordNet id (``n02099601``).

    A noun counts in its first sense, as in captions; ``finder``: what found the concepts there.
    """
    nearest = _NearestConcepts(vocabulary, finder.table)
    return [_match(name, nearest, finder, min_similarity) for name in names]


def transfer_rows(classifier: LinearClassifier, matches: Sequence[ClassMatch], seed: int) -> LinearClassifier:
    """A classifier of C classes over the same features; classes without a match get a random row and no bias."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(matches), classifier.weight_VF.shape[1])
    weight_CF = (_ROW_DEVIATION * torch.randn(shape, generator=generator)).to(classifier.weight_VF)
    bias_C = classifier.bias_V.new_zeros(len(matches))
    for row, match in enumerate(matches):
        if match.outputs:
            outputs = list(match.outputs)
            weight_CF[row] = classifier.weight_VF[outputs].mean(dim=0)
            bias_C[row] = classifier.bias_V[outputs].mean()
    return LinearClassifier(weight_CF, bias_C)


class _NearestConcepts:
    """The nearest concept of any synset: over all common hypernyms, the concept that lies closest below."""

    def __init__(self, vocabulary: Vocabulary, table: NounTable) -> None:
        self._table = table
        self._below: dict[int, tuple[int, int]] = {}
        for output, offset in enumerate(vocabulary.offsets):
            for hypernym, distance in table.ancestor_distances(offset).items():
                found = (distance, output)  # where two are as near, the more frequent concept
                self._below[hypernym] = min(found, self._below.get(hypernym, found))

    def find(self, offset: int) -> ClassMatch:
        paths = [
            (above + self._below[hypernym][0], self._below[hypernym][1])
            for hypernym, above in self._table.ancestor_distances(offset).items()
            if hypernym in self._below
        ]
        if not paths:
            return _NO_MATCH
        edges, output = min(paths)
        return ClassMatch((output,), 1 / (1 + edges))


def _match(name: str, nearest: _NearestConcepts, finder: Finder, min_similarity: float) -> ClassMatch:
    synset = find_synset(name, finder.table)
    whole = nearest.find(synset) if synset is not None else _NO_MATCH
    if whole.similarity >= min_similarity:
        return whole
    parts = [nearest.find(offset) for offset in finder.find(name) if offset != synset]
    near = [part for part in parts if part.similarity >= min_similarity]
    if not near:
        return _NO_MATCH
    outputs = dict.fromkeys(output for part in near for output in part.outputs)
    return ClassMatch(tuple(outputs), min(part.similarity for part in near))
