"""Labelled shards of one's own: tars or Parquet files with a ``targets.json`` beside them that says what to ask."""

import json
from collections.abc import Mapping
from functools import partial

from orchestrator.data.evaluation_set import JSON_LABELS, Label, LabelReader, read_json_labels
from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.set_folder import SetFolder
from orchestrator.data.labelled.shard_rows import ShardRows
from orchestrator.data.sample import RawSample
from orchestrator.errors import EvaluationError
from orchestrator.spec.targets import TARGETS_FILE, TargetSpec, load_targets
from orchestrator.storage.store import ObjectNotFoundError

MARK = TARGETS_FILE


def fits(folder: SetFolder) -> bool:
    return folder.has(TARGETS_FILE)


def open_set(folder: SetFolder) -> LabelledSet:
    try:
        targets = load_targets(folder.store.read_bytes(TARGETS_FILE), f"{folder.uri}/{TARGETS_FILE}")
    except ObjectNotFoundError as error:
        raise folder.error(f"there is no {TARGETS_FILE}, which says what to tell from its images") from error
    except EvaluationError as error:
        raise folder.error(str(error)) from error
    return LabelledSet(folder.uri, "shards", targets, ShardRows(folder.store, label_reader(targets), spread=False))


def label_reader(targets: Mapping[str, TargetSpec]) -> LabelReader:
    """Labels of rows as the targets say that rows carry them."""
    own = {name: target for name, target in targets.items() if target.field is not None or target.labels != "class"}
    if not own:
        return JSON_LABELS
    in_json = any(target.field is None for target in targets.values())
    fields = [target.field for target in own.values() if target.field is not None]
    read = partial(_read_labels, own=own, in_json=in_json)
    return LabelReader((*dict.fromkeys(fields), *(JSON_LABELS.fields if in_json else ())), read)


def _read_labels(sample: RawSample, own: Mapping[str, TargetSpec], in_json: bool) -> dict[str, Label]:
    labels = read_json_labels(sample) if in_json else {}
    for name, target in own.items():
        if target.field is not None:
            if target.field not in sample.members:
                continue
            labels[name] = _read_field(sample.members[target.field], target)
        if name in labels and target.labels == "position":
            labels[name] = _class_at(labels[name], target)
    return labels


def _read_field(data: bytes, target: TargetSpec) -> Label:
    text = data.decode("utf-8").strip()
    if not target.multi_label:
        return text
    if not text.startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    labels = json.loads(text)
    return [label if isinstance(label, int) else str(label) for label in labels]


def _class_at(label: Label, target: TargetSpec) -> Label:
    """Raises ValueError for what is no position of a class."""
    if isinstance(label, list):
        return [_one_class_at(one, target) for one in label]
    return _one_class_at(label, target)


def _one_class_at(label: str | int, target: TargetSpec) -> str:
    position = int(label)
    if not 0 <= position < len(target.classes):
        raise ValueError(f"class {position} of {len(target.classes)}, counted from 0")
    return target.classes[position]
