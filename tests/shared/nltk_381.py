"""Tokens and lemmas of NLTK 3.8.1, which CatLIP's published code pins, from the tables of the NLTK that is installed.

Later versions changed three rules of the tokenizer and one of the lemmatizer; all others are taken as they are. On
20,000 captions as in ``test_captions.py`` and 388,397 words (all nouns and irregular plurals, endings up to two deep)
this gives what NLTK 3.8.1 itself gives (2026-11-22, in an environment of its own).
"""

import re
from typing import ClassVar

from nltk.corpus import wordnet
from nltk.tokenize.destructive import NLTKWordTokenizer


class Tokenizer381(NLTKWordTokenizer):
    """Splits off an opening quote only before a lone letter, no dashes, and no clitic before a tab or a line end."""

    STARTING_QUOTES: ClassVar = [
        *NLTKWordTokenizer.STARTING_QUOTES[:-1],
        (re.compile(r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b"), r"\1 \2"),
    ]
    PUNCTUATION: ClassVar = [rule for rule in NLTKWordTokenizer.PUNCTUATION if rule[0].pattern != r"[\u2012-\u2015]"]
    ENDING_QUOTES: ClassVar = [rule for rule in NLTKWordTokenizer.ENDING_QUOTES if rule[0].pattern != r"\s+"]


assert len(Tokenizer381.PUNCTUATION) == len(NLTKWordTokenizer.PUNCTUATION) - 1, "NLTK's tables changed"
assert len(Tokenizer381.ENDING_QUOTES) == len(NLTKWordTokenizer.ENDING_QUOTES) - 1, "NLTK's tables changed"

tokenize = Tokenizer381().tokenize


def lemmatize(word: str) -> str:
    """The shortest noun that a word can be a form of: its endings are replaced until nouns come out, or none is left.

    Later versions replace them once.
    """
    known = wordnet._morphy(word, "n")
    if not known and word not in wordnet._exception_map["n"]:
        forms = [word]
        while forms and not known:
            forms = [
                form[: -len(ending)] + singular
                for form in forms
                for ending, singular in wordnet.MORPHOLOGICAL_SUBSTITUTIONS["n"]
                if form.endswith(ending)
            ]
            known = [form for form in forms if "n" in wordnet._lemma_pos_offset_map.get(form, {})]
    return min(known, key=len, default=word)
