"""Concepts of a caption by the text of the CatLIP paper (arXiv 2404.15653): its nouns, in their most frequent sense.

A tagger says which tokens are nouns. Unlike in ``captions.py``, which repeats the published code, synonyms count
(``photo`` is photograph.n.01) and so do names of several words (``golden retriever``): the longest that ends in a noun
and begins with a noun, an adjective, a verb or a number wins, and its words are not read again. Where the paper is
silent: the caption is cleaned and lower-cased as the published code does, proper nouns are nouns, and a noun's sense is
its first.
"""

from collections.abc import Callable, Iterator, Mapping

from orchestrator.wordnet.captions import clean_caption
from orchestrator.wordnet.lemmas import lemmatize_noun
from orchestrator.wordnet.table import NounTable
from orchestrator.wordnet.tagger import Tagger

_NOUN = "NN"  # begins the tags of common and proper nouns, singular and plural
# Without this "a battery" were a_battery.n.01 and "at home" at_home.n.01.
_FIRST_OF_NAME = ("NN", "JJ", "VB", "CD")


class NounFinder:
    """Finds the concepts of captions in one noun table."""

    def __init__(self, table: NounTable, tagger: Tagger) -> None:
        from nltk.tokenize.destructive import NLTKWordTokenizer  # takes a second, and few jobs tag

        self.table = table
        self.version = f"nouns-2 {table.version} {tagger.version}"
        self._tagger = tagger
        self._tokenize = NLTKWordTokenizer().tokenize
        self._most_words = max((word.count("_") + 1 for word in table.words), default=1)

    def find(self, caption: str) -> list[int]:
        """Offsets of the caption's synsets, each once, in the order of their first word; empty for none."""
        tokens = self._tokenize(clean_caption(caption))
        return list(dict.fromkeys(self._concepts(tokens, self._tagger.tag(tokens))))

    def labelling(self, index_of: Mapping[int, int]) -> Callable[[str], list[int]]:
        """From a caption to the indices of its concepts, ascending; concepts without one are left out."""
        return lambda caption: sorted(index_of[offset] for offset in self.find(caption) if offset in index_of)

    def _concepts(self, tokens: list[str], tags: list[str]) -> Iterator[int]:
        at = 0
        while at < len(tokens):
            num_words, synsets = self._longest_name(tokens, tags, at)
            yield from synsets[:1]
            at += num_words

    def _longest_name(self, tokens: list[str], tags: list[str], at: int) -> tuple[int, list[int]]:
        """Number of tokens and synsets of the name that begins at a token; of that token where none does."""
        if tags[at].startswith(_FIRST_OF_NAME):
            for stop in range(min(at + self._most_words, len(tokens)), at + 1, -1):
                if tags[stop - 1].startswith(_NOUN) and (synsets := self._synsets(tokens[at:stop])):
                    return stop - at, synsets
        return 1, self._synsets(tokens[at : at + 1]) if tags[at].startswith(_NOUN) else []

    def _synsets(self, words: list[str]) -> list[int]:
        # "field mice" has an irregular plural within, "golden retrievers" a suffix at its end.
        found = self.table.synsets(lemmatize_noun("_".join(words), self.table))
        return found or self.table.synsets("_".join([*words[:-1], lemmatize_noun(words[-1], self.table)]))
