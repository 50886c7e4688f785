"""The lemma of a noun: WordNet's irregular plurals first, else its suffix rules; the shortest known form wins.

Equal to ``nltk.stem.WordNetLemmatizer().lemmatize(word)`` (a test compares them), so ``us`` becomes ``u`` here too:
the labels of CatLIP are defined by that choice.
"""

import re

from orchestrator.wordnet.table import NounTable

_WNID = re.compile(r"n(\d{8})")

# Ending of a plural -> ending of its singular (WordNet's morphy(7WN), nouns).
PLURAL_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


def lemmatize_noun(word: str, table: NounTable) -> str:
    """The shortest noun of ``table`` that ``word`` (lower case) can be a form of; ``word`` itself for none."""
    if word in table.exceptions:
        candidates = table.exceptions[word]
    else:
        candidates = [
            word.removesuffix(plural) + singular for plural, singular in PLURAL_ENDINGS if word.endswith(plural)
        ]
    known = [form for form in (word, *candidates) if form in table]
    return min(known, key=len, default=word)


def find_synset(name: str, table: NounTable) -> int | None:
    """The synset of a name as a whole: of an id itself, of words the first; none: WordNet has no such noun."""
    if (found := _WNID.fullmatch(name)) and int(found[1]) in table.offsets:
        return int(found[1])
    *first, last = name.lower().replace("_", " ").split() or [""]
    for lemma in ("_".join([*first, last]), "_".join([*first, lemmatize_noun(last, table)])):
        if synsets := table.synsets(lemma):
            return synsets[0]
    return None
