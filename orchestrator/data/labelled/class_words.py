"""What prompts call the classes of a public set: names, templates and the choice of classes, from text files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from orchestrator.data.labelled.set_folder import SetFolder
from orchestrator.spec.targets import PLACEHOLDER, TargetSpec, say_faults
from orchestrator.wordnet.table import load_imagenet_wnids, load_noun_table

NAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
PACKAGED_TEMPLATES = Path(__file__).with_name("templates.txt")

_WNID = re.compile(r"n(\d{8})")


def class_target(folder: SetFolder, classes: Sequence[str], names: Mapping[str, str]) -> TargetSpec:
    """The target of a set whose rows are one of ``classes``, without those that were not asked for.

    Args:
        names: what prompts call classes, where that is not the class.

    Raises DatasetError for a file that is absent or names no class of the set, and as ``make_target``.
    """
    kept = _chosen(folder, classes, names)
    return make_target(folder, kept, {label: names[label] for label in kept if names.get(label, label) != label})


def make_target(
    folder: SetFolder, classes: Sequence[str], names: Mapping[str, str] | None = None, *, multi_label: bool = False
) -> TargetSpec:
    """The target that asks for ``classes``; raises DatasetError for fewer than two of them, or twins."""
    templates = read_templates(folder)
    try:
        return TargetSpec(
            classes=tuple(classes),
            multi_label=multi_label,
            named_in_captions=True,
            templates=templates,
            names=dict(names or {}),
        )
    except ValidationError as error:
        shown = ", ".join(map(repr, classes[:3])) + (", ..." if len(classes) > 3 else "")
        raise folder.error(
            f"it cannot ask for its classes ({shown}): {say_faults(error)}; wanted two or more of different names, in "
            f"the files of the set and in evaluation.layouts (only_classes)"
        ) from error


def read_templates(folder: SetFolder) -> tuple[str, ...]:
    """Prompts with ``{}``: the user's, the set's, or the packaged ones."""
    lines = folder.read_lines(folder.options.templates, TEMPLATES_FILE)
    if lines is None:
        lines = PACKAGED_TEMPLATES.read_text().splitlines()
    templates = tuple(line.replace("{c}", PLACEHOLDER) for line in lines)
    if wrong := [template for template in templates if PLACEHOLDER not in template]:
        raise folder.error(f"its template {wrong[0]!r} has neither {{}} nor {{c}} where the class goes")
    return templates


def read_names(folder: SetFolder) -> list[str] | None:
    """The lines of the user's or the set's file of class names; none: there is no such file."""
    return folder.read_lines(folder.options.class_names, NAMES_FILE, by_place=True)


def name_folders(folder: SetFolder, classes: Sequence[str]) -> dict[str, str]:
    """Folder to the words for its class.

    A file of names has a line for each folder, in their order or each behind its folder; or, where the folders are
    WordNet ids of ImageNet-1k, a line for each of its thousand classes.
    """
    lines = read_names(folder)
    if lines is None:
        return {label: _words_of(label) for label in classes}
    behind = dict(line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    if all(label in behind for label in classes):
        return {label: behind[label].split(",")[0].strip() for label in classes}
    if len(lines) == len(classes):
        return dict(zip(classes, lines, strict=True))
    wnids = load_imagenet_wnids()
    if len(lines) == len(wnids) and set(classes) <= set(wnids):
        by_wnid = dict(zip(wnids, lines, strict=True))
        return {label: by_wnid[label] for label in classes}
    raise folder.error(
        f"{len(lines)} lines of class names for {len(classes)} class folders; wanted a line for each, in the order of "
        f"the folders' names or each behind its folder's name"
    )


def distinct(names: Sequence[str]) -> list[str]:
    """A class for each name, in order; of equal names (ImageNet has two cranes) the later ones are numbered."""
    classes: dict[str, None] = {}
    for name in names:
        label, number = name, 1
        while label in classes:  # a numbered one may itself be another's name
            number += 1
            label = f"{name} ({number})"
        classes[label] = None
    return list(classes)


def _words_of(label: str) -> str:
    found = _WNID.fullmatch(label)
    if found is None:
        return label.replace("_", " ")
    table = load_noun_table()
    try:
        return table.lemma_names(int(found[1]))[0].replace("_", " ")
    except KeyError:
        return label


def _chosen(folder: SetFolder, classes: Sequence[str], names: Mapping[str, str]) -> list[str]:
    if folder.options.only_classes is None:
        return list(classes)
    lines = folder.read_lines(folder.options.only_classes, "") or []
    by_name = {**{names.get(label, label): label for label in reversed(classes)}, **{label: label for label in classes}}
    by_place = {str(place): label for place, label in enumerate(classes)}
    if unknown := [line for line in lines if line not in by_name and line not in by_place]:
        raise folder.error(
            f"only_classes has {unknown[:3]}; wanted classes of the set, or positions from 0 to {len(classes) - 1}"
        )
    chosen = {by_name.get(line) or by_place[line] for line in lines}
    return [label for label in classes if label in chosen]
