"""Concepts of a caption, as CatLIP labels it: every word, as a noun, in its first sense.

The algorithm is the one CatLIP was trained with (arXiv 2404.15653; apple/corenet): clean the caption, split it into
tokens, take each token's noun lemma and that lemma's first noun synset, and keep the synset only if the lemma names
it (``dog`` -> dog.n.01). That last test keeps out what only looks like a noun (``in`` -> inch.n.01, ``a`` ->
angstrom.n.01) and costs the synonyms (``photo`` -> photograph.n.01); multi-word lemmas never match.

A caption is cut at spaces, and what one piece means is remembered, and what its tokens mean: captions repeat their
words, so nearly every piece is one dictionary look-up, and nearly every new one has a token that came before. The
result equals tokenizer, lemmatizer and reader of NLTK 3.8.1, the version that the published code pins, over WordNet
3.0, but for four things: a caption counts as one sentence (an inner full stop stays with its word, as in
``word_tokenize(..., preserve_line=True)``), ftfy repairs more than ``clean_caption`` does (which see), stacked quotes
at the very end (``dog's'``) may split otherwise, and what lies beyond
``MAX_CAPTION_CHARACTERS`` is not read.
"""

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from html.entities import html5
from itertools import chain
from urllib.parse import unquote

from orchestrator.wordnet.lemmas import lemmatize_noun
from orchestrator.wordnet.table import NounTable, load_noun_table

# A page of text behind an image is no caption, and its time and memory must have a bound.
MAX_CAPTION_CHARACTERS = 10_000
# Texts in each memory (about 30 MB): a web data set has no end of misspellings and numbers.
MAX_REMEMBERED = 200_000
_MAX_REMEMBERED_CHARACTERS = 40  # of a piece: what is longer hardly comes again

_TAG = re.compile(r"<[^>]*>")
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
# As ftfy has them: straight quotes, ligatures in letters, wide letters narrow, no byte-order marks and the like.
_PLAIN = str.maketrans(
    dict.fromkeys("ʼ‘’‚‛", "'")
    | dict.fromkeys("“”„‟", '"')
    | {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFFF0))}
    | {letters: unicodedata.normalize("NFKC", letters) for letters in "ĲĳǄǅǆǇǈǉǊǋǌǱǲǳ"}
    | {"\u3000": " ", "\ufb05": "\u017ft", "\u0149": "'n"}
    | dict.fromkeys(map(chr, (0xFEFF, *range(0x206A, 0x2070), *range(0xFFF9, 0xFFFD))), "")
)

# Characters that are tokens of their own wherever they stand; none is part of a noun. Dashes are not among them: later
# versions of NLTK split them off, and opening quotes too.
_MARKS = ';@#$%&?!*[](){}<>"`«»'
_OWN_TOKENS = str.maketrans(dict.fromkeys(_MARKS, " "))
# A full stop ends the caption if only closing marks follow it; a quote after a space opens.
_CLOSING_MARKS = "])}>'»\""
_FINAL_STOP = re.compile(r"""(?<=[^.])\.(?=(?:[])}>'» ]|(?<! )")*$)""")

# What cuts a piece of text with a space behind it: one of what it cuts at, pattern and replacement, in this order.
_CUTS = tuple(
    (marks, re.compile(pattern), replacement)
    for marks, pattern, replacement in (
        (("'",), r"'(?=[^\Wmtsdn]\b)", "' "),  # a quote before a lone letter, not the clitic of "'s"
        ((":", ","), r"[:,](\D)", r" \1"),  # but not within a number: 3:30, 1,000
        (("..", "--", "''"), r"\.{2,}|--|''", " "),
        (("'",), r"(?<=[^'])'(?= )", " "),  # a closing quote, or the possessive of "dogs'"
        (("'",), r"(?<=[^' ])'[smd](?= )", " "),
        (("'",), r"(?<=[^' ])(?:'ll|'re|'ve|n't)(?= )", " "),
        (("'",), r"\b(?:d(?='ye\b)|more(?='n\b))", r" \g<0> "),
        (
            ("not", "me", "na", "ta"),
            r"\b(?:can(?=not\b)|(?:gim|lem)(?=me\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\s))",
            r" \g<0> ",
        ),
    )
)
# Words without any mark that are cut nevertheless, by the last pattern.
_CONTRACTIONS = frozenset({"cannot", "gimme", "gonna", "gotta", "lemme", "wanna"})


class ConceptFinder:
    """Finds the concepts of captions in one noun table; remembers what pieces of text and their tokens mean."""

    def __init__(self, table: NounTable) -> None:
        self.table = table
        self.version = f"corenet-2 {table.version}"
        self._of_token = _Memory(self._find_in_token)
        self._of_piece = _Memory(self._find_in_piece)

    def find(self, caption: str) -> list[int]:
        """Offsets of the caption's synsets, each once, in the order of their first word; empty for none."""
        return list(dict.fromkeys(chain.from_iterable(map(self._of_piece.__getitem__, _split_at_space(caption)))))

    def labelling(self, index_of: Mapping[int, int]) -> Callable[[str], list[int]]:
        """From a caption to the indices of its concepts, ascending; concepts without one are left out."""
        memory = _Memory(
            lambda piece: tuple([index_of[offset] for offset in self._find_in_piece(piece) if offset in index_of])
        )
        return lambda caption: sorted(set().union(*map(memory.__getitem__, _split_at_space(caption))))

    def _find_in_piece(self, piece: str) -> tuple[int, ...]:
        token = piece.strip(_MARKS).rstrip(",:").removesuffix("'s")
        word = token.removesuffix(".")
        if word.isalnum() and word not in _CONTRACTIONS:  # one token and marks, as nearly all are
            return self._of_token[token]
        return tuple(chain.from_iterable(map(self._of_token.__getitem__, _split_piece(piece))))

    def _find_in_token(self, token: str) -> tuple[int, ...]:
        lemma = lemmatize_noun(token, self.table)
        synsets = self.table.synsets(lemma)
        return tuple(synsets[:1]) if synsets and self.table.lemma_names(synsets[0])[0].lower() == lemma else ()


class _Memory(dict[str, tuple[int, ...]]):
    """Text -> what it means, worked out on the first look-up, within a bound.

    When half of that is full it becomes the older half, and the older one before it is forgotten but for what is asked
    for again: what comes often stays, at the price of nothing for what is there.
    """

    def __init__(self, work_out: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self._work_out = work_out
        self._older: dict[str, tuple[int, ...]] = {}

    def __missing__(self, text: str) -> tuple[int, ...]:
        meaning = self._older.get(text)
        if meaning is None:
            meaning = self._work_out(text)
        if len(text) <= _MAX_REMEMBERED_CHARACTERS:
            if len(self) >= MAX_REMEMBERED // 2:
                self._older = dict(self)
                self.clear()
            self[text] = meaning
        return meaning


@functools.cache
def packaged_finder() -> ConceptFinder:
    """The one over the packaged table, shared by the whole process."""
    return ConceptFinder(load_noun_table())


def clean_caption(caption: str) -> str:
    """Lower-case text without URL quoting, markup, typographic quotes and letters; of ``MAX_CAPTION_CHARACTERS``.

    Held against the published cleaning with ftfy 6.3.1 on text of 45 kinds (2026-11-22) and 46,000 captions of random
    words, marks and scripts (2026-11-23), it leaves as is: mojibake (``dogâ€™s``), control characters up to U+009F with
    terminal escapes, lone surrogates, and entities in the lines before one with a "<".
    """
    caption = caption[:MAX_CAPTION_CHARACTERS]
    if "%" in caption:
        caption = unquote(caption)
    if "+" in caption:
        caption = caption.replace("+", " ")
    if "<" in caption:
        caption = "\n".join(map(_strip_tags, caption.split("\n")))
    if "&" in caption and "<" not in caption:
        caption = _ENTITY.sub(_unescape, caption)
    if not caption.isascii():
        caption = unicodedata.normalize("NFC", caption.translate(_PLAIN))
    return caption.strip().lower()


def _unescape(entity: re.Match[str]) -> str:
    text = entity[0]
    if text[1] == "#" or text[1:] in html5:
        return html.unescape(text)
    return html5.get(text[1:].lower(), text).upper() if text.isupper() else text  # &NBSP; but not &notit;


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
    """The tokens of text without spaces, less the marks and clitics."""
    text = piece.translate(_OWN_TOKENS) + " "
    for marks, pattern, replacement in _CUTS:
        if any(mark in text for mark in marks):
            text = pattern.sub(replacement, text)
    return text.split()
