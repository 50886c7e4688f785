"""Text to plain values: duplicate keys and values without end refused, every error with its file.

Owns reading YAML. Does not know what a job or a cluster is.
"""

import contextlib
import difflib
import os
import reprlib
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import JobFileError

MAX_FILE_BYTES = 1_000_000
_MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key <<


class _Loader(yaml.SafeLoader):
    """YAML's last-one-wins would drop what the user wrote first without a word, and a few lines of aliases of aliases
    would stand for more values than any memory holds.
    """

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self._num_values = 0
        self._values_of: dict[str | None, int] = {}
        """By anchor; what is not read to its end has none yet."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count characters and values as if each alias were written out."""
        event: yaml.NodeEvent = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._num_values
        if isinstance(event, yaml.AliasEvent):
            self._num_values += self._size_of_alias(event)
            return super().compose_node(parent, index)
        self._num_values += 1 + len(event.value) if isinstance(event, yaml.ScalarEvent) else 1
        node = super().compose_node(parent, index)
        if event.anchor is not None:
            self._values_of[event.anchor] = self._num_values - before
        return node

    def _size_of_alias(self, event: yaml.AliasEvent) -> int:
        assert event.start_mark is not None, "events that were read from text have a place"
        where = f"{self.name}:{event.start_mark.line + 1}: alias '*{event.anchor}'"
        if event.anchor in self.anchors and event.anchor not in self._values_of:
            raise JobFileError(f"{where} lies within what it stands for, which has no end; write the value out")
        size = self._values_of.get(event.anchor, 0)
        if self._num_values + size > MAX_FILE_BYTES:
            raise JobFileError(
                f"{where} stands for {size:,} characters; written out, the file would have more than "
                f"{MAX_FILE_BYTES:,}, so this is not a job or cluster file"
            )
        return size


def _construct_unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == _MERGE_TAG:  # what it brings yields to the keys beside it
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise JobFileError(f"{loader.name}:{line}: key {shown(key)} is not text; write it in quotes if meant")
        if key in seen:
            raise JobFileError(
                f"{loader.name}:{line}: key '{key}' is given twice (first on line {seen[key]}); keep one"
            )
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique_mapping)


def parse_yaml(text: str, name: str) -> Any:
    """What ``text`` says, in plain values.

    Raises:
        JobFileError: it is not YAML, has a key twice, or says more than a file may; begins with ``name``.
    """
    try:
        loader = _Loader(text, name)  # looks for characters that no YAML has
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        raise JobFileError(f"{name}: not valid YAML: {error}") from error


def read_yaml(file: Path) -> dict[str, Any]:
    """Keys and values of a file; raises as ``parse_yaml``, and where it cannot be read."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise JobFileError(f"{file}: larger than {MAX_FILE_BYTES:,} bytes; this is not a job or cluster file")
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise JobFileError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        hint = "check its path and rights"
        with contextlib.suppress(OSError):  # the folder may not be listed either
            hint = _near_files(file)
        raise JobFileError(f"{file}: cannot be read ({error.strerror}); {hint}") from error
    document = parse_yaml(text, str(file))
    if not isinstance(document, dict):
        holds = {type(None): "nothing", list: "a list"}.get(type(document), "a single value")
        raise JobFileError(f"{file}: holds {holds}; wanted keys and values at the top")
    return document


def shown(value: Any) -> str:
    """A value as messages quote it: short, and without what lies in keys of its own (it may be a secret)."""
    return _QUOTED.repr(value)


_QUOTED = reprlib.Repr()
_QUOTED.maxlevel = 1
_QUOTED.maxstring = _QUOTED.maxother = 200
_QUOTED.maxdict = _QUOTED.maxlist = 12


def _near_files(file: Path) -> str:
    is_cluster = file.name == "cluster.yaml"
    folder, wanted = (file.parent.parent, file.parent.name) if is_cluster else (file.parent, file.name)
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [entry.name for entry in entries if (_is_cluster_folder if is_cluster else _is_yaml)(entry)]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"did you mean {folder / near[0]}?" if near else f"{folder} has: {', '.join(names) or 'nothing like it'}"


def _is_yaml(file: Path) -> bool:
    return file.suffix == ".yaml"


def _is_cluster_folder(folder: Path) -> bool:
    return os.path.isfile(folder / "cluster.yaml")  # Path.is_file raises where the folder may not be searched
