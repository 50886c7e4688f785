"""Flickr30k, Flickr8k and COCO in Karpathy's splits: images with five captions or so, for retrieval.

dataset_flickr30k.json        images with filename, split and sentences (cs.stanford.edu/people/karpathy/deepimagesent)
flickr_annotations_30k.csv    the same as a table: filename, split, and raw, a JSON list of captions
images/*.jpg                  also flickr30k-images/, or the folder itself; COCO's below the folder it names
"""

import csv
import io
import json
from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.data.labelled.file_rows import FileRows, LabelledFile, drop_empty_captions
from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.set_folder import SetFolder

_TABLE = "flickr_annotations_30k.csv"
_FILES = ("dataset_flickr30k.json", "dataset_flickr8k.json", "dataset_coco.json", _TABLE)
_FOLDERS = ("images/", "flickr30k-images/", "flickr30k_images/", "")
MARK = ", ".join(_FILES)


class _Image(NamedTuple):
    path: str
    split: str
    captions: tuple[str, ...]


def fits(folder: SetFolder) -> bool:
    """Whether one of the files is there."""
    return any(folder.has(name) for name in _FILES)


def open_set(folder: SetFolder) -> LabelledSet:
    """Images of one split; there is nothing to fit probes to, so no training part either."""
    name = next((name for name in _FILES if folder.has(name)), None)
    if name is None:
        raise folder.error(f"there is none of {MARK}")
    split = folder.options.split or "test"
    try:
        found = _read_table(folder) if name == _TABLE else _read_json(folder, name)
        images = [image for image in found if image.split == split]
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise folder.misread(name, error) from error
    if not images:
        raise folder.error(f"{name} has no image of split {split!r}")
    place = folder.find_images([image.path for image in images], _FOLDERS)
    files = [LabelledFile(f"{place}{image.path}", captions=image.captions) for image in images]
    return LabelledSet(folder.uri, "karpathy", {}, FileRows(folder.store, drop_empty_captions(folder.store, files)))


def _read_json(folder: SetFolder, name: str) -> Iterator[_Image]:
    for image in folder.read_json(name)["images"]:
        below = f"{image['filepath']}/" if image.get("filepath") else ""
        captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
        yield _Image(f"{below}{image['filename']}", image["split"], captions)


def _read_table(folder: SetFolder) -> Iterator[_Image]:
    for row in csv.DictReader(io.StringIO(folder.store.read_bytes(_TABLE).decode("utf-8-sig"))):
        captions = tuple(caption.strip() for caption in json.loads(row["raw"]))
        yield _Image(row["filename"], row["split"], captions)
