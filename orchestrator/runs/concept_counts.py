"""A vocabulary that another program wrote as keys with counts: corenet's pickle, or the same as JSON.

corenet keeps a dictionary of ``n<offset>`` to the number of captions, the most frequent first, and takes its first keys
for the rows of the classifier (https://github.com/apple/corenet, ``wordnet_tagged_classification.py``).
"""

import io
import json
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import ModelSourceError
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_KEY = re.compile(r"n(\d{1,8})")
_WANTED = "wanted a dictionary of WordNet offsets with counts, such as {'n2084071': 1234}"
_MAPPINGS = {("collections", "Counter"), ("collections", "OrderedDict")}


def is_counts_file(file: Path) -> bool:
    """Whether its ending is that of keys with counts, not of ``concepts.parquet``."""
    return file.suffix.lower() in _READERS


def read_counted_vocabulary(file: Path, num_concepts: int) -> bytes:
    """``concepts.parquet`` of the first ``num_concepts`` keys, in their order, as counted by mode ``corenet``.

    Raises:
        ModelSourceError: another content, fewer keys, or an offset that is no noun of WordNet 3.0.
    """
    counts = _READERS[file.suffix.lower()](file)
    finder = packaged_finder()
    offsets = tuple(_offset(file, key) for key in counts)[:num_concepts]
    if len(offsets) < num_concepts:
        raise ModelSourceError(f"{file} has {len(offsets):,} concepts, the classifier {num_concepts:,} rows")
    known = set(finder.table.offsets)
    if unknown := [offset for offset in offsets if offset not in known]:
        raise ModelSourceError(f"{file}: no nouns of WordNet {finder.table.version}: {unknown[:5]}")
    if len(set(offsets)) < num_concepts:
        raise ModelSourceError(f"{file} names a concept twice among its first {num_concepts:,}; each row is of another")
    kept = tuple(_count(file, key, count) for key, count in list(counts.items())[:num_concepts])
    logger.warning(
        "%s does not say how many captions were counted: taken for the sum of the counts, one label a caption", file
    )
    vocabulary = Vocabulary(offsets, kept, num_captions=sum(kept), min_count=min(kept), finder=finder.version)
    return vocabulary.to_bytes(finder.table)


class _CountsReader(pickle.Unpickler):
    """Makes dictionaries, strings and numbers; whatever else a pickle asks for is refused, since it could do harm."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _MAPPINGS:
            return dict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which would be executed")


def _read_pickle(file: Path) -> Mapping[Any, Any]:
    try:
        content = _CountsReader(io.BytesIO(file.read_bytes())).load()
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions in it
        raise ModelSourceError(f"{file}: refused: {error}; {_WANTED}, or the same as .json") from error
    return _mapping(file, content)


def _read_json(file: Path) -> Mapping[Any, Any]:
    try:
        return _mapping(file, json.loads(file.read_text()))
    except ValueError as error:
        raise ModelSourceError(f"{file}: not JSON ({error}); {_WANTED}") from error


def _mapping(file: Path, content: Any) -> Mapping[Any, Any]:
    if not isinstance(content, dict):
        raise ModelSourceError(f"{file} holds a {type(content).__name__}; {_WANTED}")
    return content


def _offset(file: Path, key: Any) -> int:
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None:
        raise ModelSourceError(f"{file}: {key!r} is no offset of a noun; {_WANTED}")
    return int(match[1])


def _count(file: Path, key: str, count: Any) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ModelSourceError(f"{file}: the count of {key} is {count!r}; {_WANTED}")
    return count


_READERS: dict[str, Callable[[Path], Mapping[Any, Any]]] = {
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
    ".json": _read_json,
}
