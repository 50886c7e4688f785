"""How the concepts of a caption are found, by mode; either way needs nothing but what it is given."""

from collections.abc import Callable, Mapping
from typing import Protocol

from orchestrator.spec.objective import ConceptMode
from orchestrator.wordnet.captions import ConceptFinder, packaged_finder
from orchestrator.wordnet.nouns import NounFinder
from orchestrator.wordnet.table import NounTable, load_noun_table
from orchestrator.wordnet.tagger import Tagger


class Finder(Protocol):
    """From captions to synsets."""

    table: NounTable
    version: str
    """Algorithm, noun table and tagger: the same version finds the same concepts."""

    def find(self, caption: str) -> list[int]:
        """Offsets of the caption's synsets, each once, in the order of their first word; empty for none."""
        ...

    def labelling(self, index_of: Mapping[int, int]) -> Callable[[str], list[int]]:
        """From a caption to the indices of its concepts, ascending; concepts without one are left out."""
        ...


def build_finder(mode: ConceptMode, table: NounTable | None = None, tagger: Tagger | None = None) -> Finder:
    """The finder of a mode; ``table``: none is the packaged one; ``tagger``: for ``nouns`` only."""
    if mode == "nouns":
        assert tagger is not None, "a job that asks for nouns names a tagger"
        return NounFinder(table or load_noun_table(), tagger)
    return packaged_finder() if table is None else ConceptFinder(table)


def mode_of(version: str) -> ConceptMode:
    """The mode of the finder that says this of itself."""
    return "nouns" if version.startswith("nouns-") else "corenet"
