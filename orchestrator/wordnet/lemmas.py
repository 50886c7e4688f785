"""The lemma of a noun: WordNet's irregular plurals first, else its suffix rules; the shortest known form wins.

Equal to ``WordNetLemmatizer().lemmatize(word)`` of NLTK 3.8.1, which CatLIP's code pins (a test compares them), so
``us`` becomes ``u`` here too, and ``womens`` woman: rules are applied again until a form is known. Later versions of
NLTK apply them once.
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
_PLURAL = tuple(plural for plural, _ in PLURAL_ENDINGS)


def lemmatize_noun(word: str, table: NounTable) -> str:
    """The shortest noun of ``table`` that ``word`` (lower case) can be a form of; ``word`` itself for none."""
    if word in table.exceptions:
        return _shortest_known([word, *table.exceptions[word]], table) or word
    forms = _singulars([word])
    lemma = _shortest_known([word, *forms], table)
    while forms and not lemma:
        forms = _singulars(forms)
        lemma = _shortest_known(forms, table)
    return lemma or word


def find_synset(name: str, table: NounTable) -> int | None:
    """The synset of a name as a whole: of an id itself, of words the first; none: WordNet has no such noun."""
    if (found := _WNID.fullmatch(name)) and int(found[1]) in table.offsets:
        return int(found[1])
    *first, last = name.lower().replace("_", " ").split() or [""]
    for lemma in ("_".join([*first, last]), "_".join([*first, lemmatize_noun(last, table)])):
        if synsets := table.synsets(lemma):
            return synsets[0]
    return None


def _singulars(forms: list[str]) -> list[str]:
    return [
        form.removesuffix(plural) + singular
        for form in forms
        if form.endswith(_PLURAL)
        for plural, singular in PLURAL_ENDINGS
        if form.endswith(plural)
    ]


def _shortest_known(forms: list[str], table: NounTable) -> str:
    return min((form for form in forms if form in table), key=len, default="")
