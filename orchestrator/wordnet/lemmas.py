"""The lemma of a noun: WordNet's irregular plurals first, else its suffix rules; the shortest known form wins.

Equal to ``nltk.stem.WordNetLemmatizer().lemmatize(word)`` (a test compares them), so ``us`` becomes ``u`` here too:
the labels of CatLIP are defined by that choice.
"""

from orchestrator.wordnet.table import NounTable

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
