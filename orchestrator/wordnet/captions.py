"""Concepts of a caption, as CatLIP labels it: every word, as a noun, in its first sense.

The algorithm is the one CatLIP was trained with (arXiv 2404.15653; apple/corenet): clean the caption, split it into
tokens, take each token's noun lemma and that lemma's first noun synset, and keep the synset only if the lemma names
it (``dog`` -> dog.n.01). That last test keeps out what only looks like a noun (``in`` -> inch.n.01, ``a`` ->
angstrom.n.01) and costs the synonyms (``photo`` -> photograph.n.01); multi-word lemmas never match.

A caption is cut at spaces, and what one piece means is remembered: captions repeat their words, so nearly every
piece is one dictionary look-up. The result equals tokenizer, lemmatizer and reader of NLTK 3.8.1, the version that the
published code pins, over WordNet 3.0, but for four things: a caption counts as one sentence (an inner full stop stays
with its word, as in ``word_tokenize(..., preserve_line=True)``), of ftfy's repairs all are made but those of mojibake
and of control characters, stacked quotes at the very end (``dog's'``) may split otherwise, and what lies beyond
``MAX_CAPTION_CHARACTERS`` is not read.
"""

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from urllib.parse import unquote

from orchestrator.wordnet.lemmas import lemmatize_noun
from orchestrator.wordnet.table import NounTable, load_noun_table

# A page of text behind an image is no caption, and its time and memory must have a bound.
MAX_CAPTION_CHARACTERS = 10_000
# Pieces remembered per finder (about 30 MB): a web data set has no end of misspellings and numbers.
MAX_REMEMBERED_PIECES = 200_000
_MAX_REMEMBERED_CHARACTERS = 40  # of a piece: what is longer hardly comes again

_TAG = re.compile(r"<[^>]*>")
_ENTITY = re.compile(r"&#?\w{1,24};")
# As ftfy has them: straight quotes, ligatures in letters, wide letters narrow.
_PLAIN = str.maketrans(
    dict.fromkeys("ʼ‘’‚‛", "'")
    | dict.fromkeys("“”„‟", '"')
    | {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFFF0))}
    | {"\u3000": " "}
)

# Characters that are tokens of their own wherever they stand; none is part of a noun. Dashes are not among them: later
# versions of NLTK split them off, and opening quotes too.
_OWN_TOKENS = str.maketrans(dict.fromkeys(';@#$%&?!*[](){}<>"`«»', " "))
# A full stop ends the caption if only closing marks follow it; a quote after a space opens.
_CLOSING_MARKS = "])}>'»\""
_FINAL_STOP = re.compile(r"""(?<=[^.])\.(?=(?:[])}>'» ]|(?<! )")*$)""")

# What cuts a piece of text with a space behind it: pattern and replacement, in this order.
_CUTS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"'(?=[^\Wmtsdn]\b)", "' "),  # a quote before a lone letter, not the clitic of "'s"
        (r"[:,](\D)", r" \1"),  # but not within a number: 3:30, 1,000
        (r"\.{2,}|--|''", " "),
        (r"(?<=[^'])'(?= )", " "),  # a closing quote, or the possessive of "dogs'"
        (r"(?<=[^' ])'[smd](?= )", " "),
        (r"(?<=[^' ])(?:'ll|'re|'ve|n't)(?= )", " "),
        (r"\b(?:can(?=not\b)|d(?='ye\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b))", r" \g<0> "),
        (r"\b(?:lem(?=me\b)|more(?='n\b)|wan(?=na\s))", r" \g<0> "),
    )
)


class ConceptFinder:
    """Finds the concepts of captions in one noun table; remembers what each piece of text means."""

    def __init__(self, table: NounTable) -> None:
        self.table = table
        self.version = f"corenet-2 {table.version}"
        self._concepts = _PieceMemory(self._find_in_piece)

    def find(self, caption: str) -> list[int]:
        """Offsets of the caption's synsets, each once, in the order of their first word; empty for none."""
        return list(dict.fromkeys(chain.from_iterable(map(self._concepts.__getitem__, _split_at_space(caption)))))

    def labelling(self, index_of: Mapping[int, int]) -> Callable[[str], list[int]]:
        """From a caption to the indices of its concepts, ascending; concepts without one are left out."""
        memory = _PieceMemory(
            lambda piece: tuple(index_of[offset] for offset in self._concepts[piece] if offset in index_of)
        )
        return lambda caption: sorted(set().union(*map(memory.__getitem__, _split_at_space(caption))))

    def _find_in_piece(self, piece: str) -> tuple[int, ...]:
        return tuple(_concepts_of_tokens(_split_piece(piece.translate(_OWN_TOKENS)), self.table))


class _PieceMemory(dict[str, tuple[int, ...]]):
    """Piece of text -> what it means, worked out on the first look-up and forgotten all at once when full."""

    def __init__(self, work_out: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self._work_out = work_out

    def __missing__(self, piece: str) -> tuple[int, ...]:
        meaning = self._work_out(piece)
        if len(piece) <= _MAX_REMEMBERED_CHARACTERS:
            if len(self) >= MAX_REMEMBERED_PIECES:
                self.clear()
            self[piece] = meaning
        return meaning


@functools.cache
def packaged_finder() -> ConceptFinder:
    """The one over the packaged table, shared by the whole process."""
    return ConceptFinder(load_noun_table())


def _concepts_of_tokens(tokens: Iterable[str], table: NounTable) -> Iterable[int]:
    for token in tokens:
        lemma = lemmatize_noun(token, table)
        synsets = table.synsets(lemma)
        if synsets and table.lemma_names(synsets[0])[0].lower() == lemma:
            yield synsets[0]


def clean_caption(caption: str) -> str:
    """Lower-case text without URL quoting, markup, typographic quotes and letters; of ``MAX_CAPTION_CHARACTERS``."""
    caption = caption[:MAX_CAPTION_CHARACTERS]
    if "%" in caption:
        caption = unquote(caption)
    if "+" in caption:
        caption = caption.replace("+", " ")
    if "<" in caption:
        caption = "\n".join(map(_strip_tags, caption.split("\n")))
    if "&" in caption and "<" not in caption:
        caption = _ENTITY.sub(lambda entity: html.unescape(entity[0]), caption)
    if not caption.isascii():
        caption = unicodedata.normalize("NFC", caption).translate(_PLAIN)
    return caption.strip().lower()


def _strip_tags(line: str) -> str:
    # Up to the last ">" every "<" finds its end: linear, however many stand open behind it.
    end = line.rfind(">") + 1
    return _TAG.sub("", line[:end]) + line[end:]


def _split_at_space(caption: str) -> list[str]:
    # Not at other white space: the published tokenizer sees a closing quote and a clitic before a space alone.
    return _drop_final_stop(clean_caption(caption)).split(" ")


def _drop_final_stop(caption: str) -> str:
    if caption.endswith("."):  # nearly every one: no other full stop can be the final one then
        return caption if caption.endswith("..") else caption[:-1]
    if "." in caption and caption[-1] in _CLOSING_MARKS:
        return _FINAL_STOP.sub(" ", caption, count=1)
    return caption


def _split_piece(piece: str) -> list[str]:
    """The tokens of text without spaces but those of marks, less the marks and clitics."""
    text = piece + " "
    for pattern, replacement in _CUTS:
        text = pattern.sub(replacement, text)
    return text.split()
