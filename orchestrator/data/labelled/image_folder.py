"""Image files in a folder for each class, as ImageNet is unpacked: ``val/n01440764/*.JPEG``, or without ``val/``."""

from collections.abc import Sequence

from orchestrator.data.evaluation_set import Label
from orchestrator.data.labelled.class_words import class_target, name_folders
from orchestrator.data.labelled.file_rows import IMAGE_ENDINGS, FileRows, LabelledFile
from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.set_folder import SetFolder

MARK = "<class>/<image>, or val/<class>/<image>"
TARGET = "class"
_SPLITS = ("val", "test", "")  # empty: the folder itself holds the classes


def fits(folder: SetFolder) -> bool:
    return _find_part(folder) is not None


def open_set(folder: SetFolder) -> LabelledSet:
    found = _find_part(folder)
    if found is None:
        raise folder.error(f"there is no image in a folder of its class (looked for {MARK})")
    judged = found
    classes = sorted({_class_of(path) for path in judged})
    target = class_target(folder, classes, name_folders(folder, classes))
    train = None
    if folder.options.train_samples is not None:
        train = _rows(folder, _list_images(folder, "train"), target.classes)
        if not train.files:
            raise folder.error("there is no image in train/<class>, and train_samples asks for some")
    rows = _rows(folder, judged, target.classes)
    return LabelledSet(folder.uri, "image_folder", {TARGET: target}, rows, train, folder.options.train_samples)


def _find_part(folder: SetFolder) -> list[str] | None:
    """The images of the part that is judged, by path."""
    splits = _SPLITS if folder.options.split is None else (folder.options.split,)
    return next((images for split in splits if (images := _list_images(folder, split))), None)


def _list_images(folder: SetFolder, split: str) -> list[str]:
    """Images that lie in a class's folder of a part, neither above nor below."""
    depth = 3 if split else 2
    paths = (info.path for info in folder.store.list(split))
    return [path for path in paths if path.lower().endswith(IMAGE_ENDINGS) and _is_of_a_class(path.split("/"), depth)]


def _is_of_a_class(parts: Sequence[str], depth: int) -> bool:
    """Hidden folders are no classes, nor hidden files images: editors and file managers leave them."""
    return len(parts) == depth and not any(part.startswith(".") for part in parts[-2:])


def _class_of(path: str) -> str:
    return path.split("/")[-2]


def _rows(folder: SetFolder, paths: Sequence[str], classes: Sequence[str]) -> FileRows:
    targets: dict[str, dict[str, Label]] = {label: {TARGET: label} for label in classes}  # one for all of a class
    files = [LabelledFile(path, targets[label]) for path in paths if (label := _class_of(path)) in targets]
    return FileRows(folder.store, files)
