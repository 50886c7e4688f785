"""The WebDataset layout of CLIP_benchmark (github.com/LAION-AI/CLIP_benchmark, ``wds`` data sets).

test/0.tar ... test/N.tar   {key}.webp|png|jpg and {key}.cls (a class number), {key}.npy (0 or 1 for each class,
                            where dataset_type.txt says multilabel) or {key}.txt (a caption a line, retrieval)
test/nshards.txt            how many
train/                      of the same form
classnames.txt              a class a line
zeroshot_classification_templates.txt   a prompt a line, with {c}
dataset_type.txt            classification (where absent), multilabel or retrieval
"""

import io
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np

from orchestrator.data.evaluation_set import Label, LabelReader, LeftOutError
from orchestrator.data.labelled.class_words import NAMES_FILE, class_target, distinct, read_names
from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.set_folder import SetFolder
from orchestrator.data.labelled.shard_rows import ShardRows
from orchestrator.data.sample import RawSample
from orchestrator.spec.targets import TargetSpec

MARK = "test/nshards.txt"
TARGET = "class"
_MULTI_LABEL, _RETRIEVAL = "multilabel", "retrieval"


def fits(folder: SetFolder) -> bool:
    return folder.has(f"{folder.options.split or 'test'}/nshards.txt")


def open_set(folder: SetFolder) -> LabelledSet:
    kind = (folder.read_lines(None, "dataset_type.txt") or ["classification"])[0].lower()
    targets: dict[str, TargetSpec] = {}
    labels = LabelReader((), _read_nothing)
    if kind != _RETRIEVAL:
        names = read_names(folder)
        if names is None:
            raise folder.error(f"there is no {NAMES_FILE}; name one in evaluation.layouts (class_names)")
        classes = distinct(names)
        targets[TARGET] = _target(folder, classes, names, multi_label=kind == _MULTI_LABEL)
        labels = label_reader(classes, targets[TARGET])
    judged = _part(folder, folder.options.split or "test", labels)
    train = _part(folder, "train", labels) if folder.options.train_samples is not None else None
    return LabelledSet(folder.uri, "clip_benchmark", targets, judged, train, folder.options.train_samples)


def label_reader(classes: Sequence[str], target: TargetSpec) -> LabelReader:
    """Class numbers to classes; a row whose one class is not among those of the target is left out."""
    field = "npy" if target.multi_label else "cls"
    read = partial(_read_classes, field=field, classes=classes, kept=frozenset(target.classes))
    return LabelReader((field,), read)


def _read_nothing(sample: RawSample) -> Mapping[str, Label]:
    return {}


def _read_classes(sample: RawSample, field: str, classes: Sequence[str], kept: Collection[str]) -> Mapping[str, Label]:
    multi_label = field == "npy"
    if field not in sample.members:
        raise ValueError(f"the row has no .{field}")
    numbers = _read_numbers(sample.members[field], multi_label)
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(classes):
        raise ValueError(f"class {max(numbers)}, where {NAMES_FILE} has {len(classes)}, counted from 0")
    labels = [classes[number] for number in numbers if classes[number] in kept]
    if multi_label:
        return {TARGET: list(labels)}
    if not labels:
        raise LeftOutError("class_not_asked_for")
    return {TARGET: labels[0]}


def _read_numbers(data: bytes, multi_label: bool) -> list[int]:
    if not multi_label:
        return [int(data)]
    return [int(number) for number in np.flatnonzero(np.load(io.BytesIO(data), allow_pickle=False))]


def _target(folder: SetFolder, classes: Sequence[str], names: Sequence[str], multi_label: bool) -> TargetSpec:
    target = class_target(folder, classes, dict(zip(classes, names, strict=True)))
    return target.model_copy(update={"multi_label": multi_label})


def _part(folder: SetFolder, split: str, labels: LabelReader) -> ShardRows:
    count = folder.read_lines(None, f"{split}/nshards.txt")
    if not count or not count[0].isdigit():
        raise folder.error(f"there is no {split}/nshards.txt with the number of its shards")
    return ShardRows(folder.store.child(split), labels, spread=True, num_shards=int(count[0]))
