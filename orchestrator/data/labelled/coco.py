"""COCO: images, their captions, and the categories of the objects in them (cocodataset.org, "Data format").

annotations/captions_val2017.json    images, and annotations with a caption each
annotations/instances_val2017.json   annotations with a category each; with it, a target of several labels a row
val2017/*.jpg
"""

import re
from collections import defaultdict
from typing import Any

from orchestrator.data.labelled.class_words import make_target
from orchestrator.data.labelled.file_rows import FileRows, LabelledFile, drop_empty_captions
from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.set_folder import SetFolder
from orchestrator.spec.targets import TargetSpec

MARK = "annotations/captions_*.json or annotations/instances_*.json"
TARGET = "category"
_ANNOTATIONS = re.compile(r"annotations/(?:captions|instances)_(\w+)\.json")


def fits(folder: SetFolder) -> bool:
    """Whether there are annotations of any part."""
    return bool(_parts(folder))


def open_set(folder: SetFolder) -> LabelledSet:
    """Captions are there if their file is, and so are categories."""
    split = folder.options.split or _only_part(folder)
    judged, target = _read_part(folder, split)
    train = None
    if folder.options.train_samples is not None:
        train, _ = _read_part(folder, split.replace("val", "train"))
    targets = {} if target is None else {TARGET: target}
    return LabelledSet(folder.uri, "coco", targets, judged, train, folder.options.train_samples)


def _parts(folder: SetFolder) -> set[str]:
    found = (_ANNOTATIONS.fullmatch(info.path) for info in folder.store.list("annotations"))
    return {match[1] for match in found if match}


def _only_part(folder: SetFolder) -> str:
    parts = sorted(part for part in _parts(folder) if not part.startswith("train"))
    if len(parts) != 1:
        raise folder.error(f"annotations of {len(parts)} parts ({', '.join(parts)}); name one in layouts (split)")
    return parts[0]


def _read_part(folder: SetFolder, split: str) -> tuple[FileRows, TargetSpec | None]:
    captions, instances = (
        folder.read_json(path) if folder.has(path := f"annotations/{kind}_{split}.json") else None
        for kind in ("captions", "instances")
    )
    described = captions or instances
    if described is None:
        raise folder.error(f"there is no annotations/captions_{split}.json and no annotations/instances_{split}.json")
    try:
        files = _to_files(described, captions or {}, instances)
        target = None if instances is None else _to_target(folder, instances)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise folder.misread(f"annotations/*_{split}.json", error) from error
    if not files:
        raise folder.error(f"the annotations of {split} name no image")
    place = folder.find_images([file.path for file in files], (f"{split}/", f"images/{split}/", "images/", ""))
    placed = [LabelledFile(f"{place}{file.path}", file.targets, file.captions) for file in files]
    return FileRows(folder.store, drop_empty_captions(folder.store, placed)), target


def _to_files(
    described: dict[str, Any], captions: dict[str, Any], instances: dict[str, Any] | None
) -> list[LabelledFile]:
    """Images by their number, each with its captions, and with the categories of its objects."""
    captions_of: dict[int, list[str]] = defaultdict(list)
    for annotation in captions.get("annotations", ()):
        captions_of[annotation["image_id"]].append(" ".join(annotation["caption"].split()))
    labels_of: dict[int, dict[str, None]] = defaultdict(dict)
    if instances is not None:
        names = {category["id"]: category["name"] for category in instances["categories"]}
        for annotation in instances["annotations"]:
            labels_of[annotation["image_id"]][names[annotation["category_id"]]] = None
    return [
        LabelledFile(
            image["file_name"],
            {} if instances is None else {TARGET: list(labels_of[image["id"]])},
            tuple(captions_of[image["id"]]),
        )
        for image in sorted(described["images"], key=lambda image: image["id"])
    ]


def _to_target(folder: SetFolder, instances: dict[str, Any]) -> TargetSpec:
    categories = sorted(instances["categories"], key=lambda category: category["id"])
    return make_target(folder, [category["name"] for category in categories], multi_label=True)
