"""Each layout of labelled images, as its publishers lay it out, gives each row once, with labels and captions."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layout_files import WNIDS, picture, put, write_clip_benchmark, write_coco, write_flickr, write_folders
from orchestrator.data.evaluation_set import EvaluationRow
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.labelled.class_words import distinct
from orchestrator.data.labelled.labelled_set import LabelledSet, RowRequest
from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.errors import DatasetError, EvaluationError
from orchestrator.spec.evaluation import LayoutSpec
from orchestrator.storage.store import open_store

SIZE = 8


def opened(root: Path, **options: Any) -> LabelledSet:
    found = open_labelled_set(open_store(str(root)), LayoutSpec(**options))
    for store in found.shard_folders:
        save_index(store, index_dataset(store))
    return found


def rows_of(found: LabelledSet, world_size: int = 1, **request: Any) -> list[EvaluationRow]:
    """Those of all ranks, by number; each must come once, and its image must be the one that has its number."""
    ranks = [list(found.read(RowRequest(SIZE, rank, world_size, **request))) for rank in range(world_size)]
    rows = sorted((row for one in ranks for row in one), key=lambda row: row.index)
    assert len({row.index for row in rows}) == len(rows)
    return rows


def reds(rows: list[EvaluationRow]) -> list[int]:
    """Which images they are."""
    return [int(row.image[0, 0, 0]) for row in rows]


def test_a_digest_says_whether_two_sets_ask_the_same_of_the_same_rows(tmp_path: Path) -> None:
    for name in ("one", "copy"):
        write_folders(tmp_path / name / "val", 2)
    assert opened(tmp_path / "one").digest == opened(tmp_path / "copy").digest
    put(next((tmp_path / "copy" / "val").iterdir()) / "more.png", picture(9))
    assert opened(tmp_path / "one").digest != opened(tmp_path / "copy").digest
    digests = []
    for number in (6, 6, 8):
        shards = tmp_path / f"shards-{len(digests)}"
        write_clip_benchmark(shards, "test", [b"0", b"1"] * (number // 2))
        put(shards / "classnames.txt", "cat\ndog\n")
        digests.append(opened(shards).digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("layout", ["image_folder", "clip_benchmark", "coco", "karpathy", "shards"])
def test_each_row_comes_once_over_all_ranks(tmp_path: Path, maker: Any, layout: str, world_size: int) -> None:
    write: dict[str, Callable[[], None]] = {
        "image_folder": lambda: write_folders(tmp_path / "val", 2),
        "clip_benchmark": lambda: write_clip_benchmark(tmp_path, "test", [b"0", b"1"] * 3),
        "coco": lambda: write_coco(tmp_path),
        "karpathy": lambda: write_flickr(tmp_path),
        "shards": lambda: put(maker.write_tar("0.tar", range(6)).with_name("targets.json"), PARITY),
    }
    write[layout]()
    put(tmp_path / "classnames.txt", "cat\ndog\nbird\n")
    found = pickle.loads(pickle.dumps(opened(tmp_path)))  # as ranks get it from rank 0
    assert found.layout == layout
    rows = rows_of(found, world_size)
    assert [row.index for row in rows] == list(range(found.judged.num_rows))
    assert len(rows) == {"coco": 7, "karpathy": 2}.get(layout, 6)
    for name in found.targets:
        assert all(
            set(row.targets[name] if isinstance(row.targets[name], list) else [row.targets[name]])
            <= set(found.targets[name].classes)
            for row in rows
        )


PARITY = {"targets": {"parity": {"classes": ["even", "odd"], "named_in_captions": True, "labels": "position"}}}


def test_folders_are_classes_and_wordnet_names_them(tmp_path: Path) -> None:
    write_folders(tmp_path / "val", 2)
    put(tmp_path / "val/readme.png", picture(0))
    put(tmp_path / "val/n01440764/deeper/one.png", picture(0))
    found = opened(tmp_path)
    target = found.targets["class"]
    assert target.classes == WNIDS
    assert [target.words_of(label) for label in WNIDS] == ["tench", "goldfish", "crane"]
    assert target.concept_of("n02012849") == "n02012849"
    assert target.templates[0] == "a photo of a {}."
    rows = rows_of(found)
    assert reds(rows) == list(range(6))
    assert [row.targets["class"] for row in rows] == [wnid for wnid in WNIDS for _ in range(2)]


@pytest.mark.parametrize(
    "names",
    [
        "tench\ngold fish\nbird crane\n",
        "n02012849 bird crane, crane\nn01440764 tench, Tinca tinca\nn01443537 gold fish\n",
        "\n".join({0: "tench", 1: "gold fish", 134: "bird crane"}.get(number, "other") for number in range(1000)),
    ],
    ids=["in order", "behind folders", "of all ImageNet-1k"],
)
def test_a_file_names_the_classes_of_folders(tmp_path: Path, names: str) -> None:
    write_folders(tmp_path / "set", 1)
    put(tmp_path / "names/mine.txt", names)
    put(tmp_path / "set/zeroshot_classification_templates.txt", "a {c} here\n{} there\n")
    found = opened(tmp_path / "set", class_names=str(tmp_path / "names/mine.txt"))
    assert [found.targets["class"].words_of(wnid) for wnid in WNIDS] == ["tench", "gold fish", "bird crane"]
    assert found.targets["class"].prompts_of(WNIDS[0]) == ["a tench here", "tench there"]


def test_limited_rows_are_spread_over_classes_and_a_training_part_follows_them(tmp_path: Path) -> None:
    write_folders(tmp_path / "val", 10)
    write_folders(tmp_path / "train", 20, first=100)
    found = opened(tmp_path, train_samples=30)
    assert found.first_train_row == 30
    assert (found.num_asked_for(12), found.num_asked_for(None)) == (42, 60)
    rows = rows_of(found, 2, max_samples=12)
    assert [row.index for row in rows if row.index < 30] == [place * 30 // 12 for place in range(12)]
    train = [row for row in rows if row.index >= 30]
    assert reds(train) == [100 + 2 * place for place in range(30)]
    assert [row.targets["class"] for row in train] == [wnid for wnid in WNIDS for _ in range(10)]


@pytest.mark.parametrize("wanted", ["goldfish\nn02012849\n", "1\n2\n"])
def test_classes_that_are_not_asked_for_are_left_out(tmp_path: Path, wanted: str, caplog: Any) -> None:
    write_folders(tmp_path / "folders", 2)
    put(tmp_path / "wanted.txt", wanted.replace("n02012849", "crane"))
    found = opened(tmp_path / "folders", only_classes=str(tmp_path / "wanted.txt"))
    assert found.targets["class"].classes == WNIDS[1:]
    assert reds(rows_of(found)) == [2, 3, 4, 5]
    write_clip_benchmark(tmp_path, "test", [b"0", b"1", b"2", b"1", b"0"])
    put(tmp_path / "classnames.txt", "tench\ngoldfish\ncrane\n")
    found = opened(tmp_path, only_classes="wanted.txt", layout="clip_benchmark")
    with caplog.at_level("WARNING", logger="orchestrator"):
        assert [row.targets["class"] for row in rows_of(found)] == ["goldfish", "crane", "goldfish"]
    assert "2 rows left out: {'class_not_asked_for': 2}" in caplog.text


def test_clip_benchmark_counts_classes_by_number_and_names_may_repeat(tmp_path: Path) -> None:
    write_clip_benchmark(tmp_path, "test", [b"0", b"2", b"1"])
    write_clip_benchmark(tmp_path, "train", [b"1"] * 12)
    put(tmp_path / "classnames.txt", "crane\nsun\ncrane\n")
    put(tmp_path / "zeroshot_classification_templates.txt", "a photo of {c}.\n")
    found = opened(tmp_path, train_samples=10)
    target = found.targets["class"]
    assert target.classes == ("crane", "sun", "crane (2)")
    assert target.prompts_of("crane (2)") == ["a photo of crane."]
    rows = rows_of(found)
    assert [row.targets["class"] for row in rows] == ["crane", "crane (2)", "sun", *["sun"] * 10]
    assert found.first_train_row == 3


def test_clip_benchmark_has_sets_of_several_labels_and_of_captions(tmp_path: Path) -> None:
    arrays = []
    for labels in ([1, 0, 1], [0, 0, 0]):
        buffer = io.BytesIO()
        np.save(buffer, np.array(labels), allow_pickle=False)
        arrays.append(buffer.getvalue())
    write_clip_benchmark(tmp_path, "test", arrays, "npy")
    put(tmp_path / "classnames.txt", "a\nb\nc\n")
    put(tmp_path / "dataset_type.txt", "multilabel\n")
    found = opened(tmp_path)
    assert found.targets["class"].multi_label
    assert [row.targets["class"] for row in rows_of(found)] == [["a", "c"], []]
    write_clip_benchmark(tmp_path, "test", [b"one\ntwo\n", b"three"], "txt")
    put(tmp_path / "dataset_type.txt", "retrieval")
    found = opened(tmp_path)
    assert found.targets == {}
    assert [row.captions for row in rows_of(found, caption_fields=("txt",))] == [("one", "two"), ("three",)]


def test_coco_has_captions_and_categories(tmp_path: Path, caplog: Any) -> None:
    write_coco(tmp_path)
    (tmp_path / "val2017/000000000003.jpg").unlink()
    put(tmp_path / "val2017/000000000004.jpg", b"broken")
    found = opened(tmp_path)
    target = found.targets["category"]
    assert (target.classes, target.multi_label) == (("person", "dog"), True)
    with caplog.at_level("WARNING", logger="orchestrator"):
        rows = rows_of(found)
    assert "2 rows left out: {'image_undecodable': 1, 'image_missing': 1}" in caplog.text
    assert [row.index for row in rows] == [0, 1, 4, 5, 6]  # by the image's number, which falls with its name here
    assert reds(rows) == [6, 5, 2, 1, 0]
    assert rows[-1].captions == tuple(f"100 and {k}" for k in range(5))
    assert [row.targets["category"] for row in rows[-3:]] == [[], ["person", "dog"], ["person"]]


def test_coco_may_have_captions_alone_and_names_its_parts(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations/instances_val2017.json").unlink()
    assert opened(tmp_path).targets == {}
    write_coco(tmp_path, "val2014")
    with pytest.raises(DatasetError, match=r"annotations of 2 parts \(val2014, val2017\); name one"):
        opened(tmp_path)
    assert list(opened(tmp_path, split="val2014").targets) == ["category"]
    write_coco(tmp_path, "train2014", num_images=12)
    found = opened(tmp_path, split="val2014", train_samples=10)
    assert [row.index for row in rows_of(found)] == list(range(7)) + [7 + place * 12 // 10 for place in range(10)]


@pytest.mark.parametrize("table", [False, True])
def test_karpathy_splits_have_the_captions_of_an_image(tmp_path: Path, table: bool) -> None:
    write_flickr(tmp_path, table)
    rows = rows_of(opened(tmp_path))
    assert reds(rows) == [1, 3]
    assert [row.captions for row in rows] == [("1 a", "b, 1"), ("3 a", "b, 3")]
    assert reds(rows_of(opened(tmp_path, split="val"))) == [2]
    with pytest.raises(DatasetError, match=r"train_samples is set, but layout karpathy has no training part"):
        opened(tmp_path, train_samples=10)


def test_shards_of_ones_own_may_hold_labels_in_members_of_their_own(maker: Any) -> None:
    members = [
        *[("a.png", picture(0)), ("a.cls", b"1\n"), ("a.tags", b'["x", "y"]')],
        *[("b.png", picture(1)), ("b.cls", b"0"), ("b.tags", b"y\n")],
    ]
    maker.write_members("0.tar", members)
    kind = {"classes": ["cat", "dog"], "named_in_captions": True, "field": "cls", "labels": "position"}
    tags = {"classes": ["x", "y"], "named_in_captions": False, "field": "tags", "multi_label": True}
    put(maker.folder / "targets.json", {"targets": {"kind": kind, "tags": tags}})
    rows = rows_of(opened(maker.folder))
    assert [row.targets for row in rows] == [{"kind": "dog", "tags": ["x", "y"]}, {"kind": "cat", "tags": ["y"]}]
    put(maker.folder / "targets.json", {"targets": {"kind": {**kind, "classes": ["cat", "cow"]}}})
    maker.write_members("0.tar", [("a.png", picture(0)), ("a.cls", b"2")])
    with pytest.raises(EvaluationError, match=r"row 0 \(a\): its \.cls does not read as labels: class 2 of 2"):
        rows_of(opened(maker.folder))


def test_what_fits_no_layout_or_several_is_said(tmp_path: Path) -> None:
    put(tmp_path / "notes.txt", "nothing")
    with pytest.raises(
        DatasetError, match=r"no layout .*shards: no targets\.json; clip_benchmark: no test/nshards\.txt"
    ):
        opened(tmp_path)
    write_flickr(tmp_path)
    write_coco(tmp_path)
    with pytest.raises(DatasetError, match=r"fits the layouts coco, karpathy; name one in evaluation\.layouts"):
        opened(tmp_path)
    assert opened(tmp_path, layout="karpathy").judged.num_rows == 2
    with pytest.raises(DatasetError, match=r"there is no targets\.json"):
        opened(tmp_path, layout="shards")


@pytest.mark.parametrize(
    ("options", "files", "said"),
    [
        ({}, {"classnames.txt": "a\nb\n"}, r"2 lines of class names for 3 class folders"),
        ({}, {"zeroshot_classification_templates.txt": "a photo\n"}, r"template 'a photo' has neither"),
        ({"class_names": "absent.txt"}, {}, r"there is no .*absent\.txt, which evaluation\.layouts names"),
        ({"only_classes": "few.txt"}, {"few.txt": "a\n3\n"}, r"only_classes has \['a', '3'\]"),
        ({"train_samples": 10}, {}, r"no image in train/<class>"),
        ({"split": "test"}, {}, r"no layout of labelled images fits"),
    ],
)
def test_wrong_descriptions_of_folders_are_named(
    tmp_path: Path, options: dict[str, Any], files: dict[str, str], said: str
) -> None:
    write_folders(tmp_path / "val", 1)
    for name, content in files.items():
        put(tmp_path / name, content)
    with pytest.raises(DatasetError, match=said):
        opened(tmp_path, **options)


def test_wrong_clip_benchmark_sets_are_named(tmp_path: Path) -> None:
    write_clip_benchmark(tmp_path, "test", [b"0", b"7"])
    with pytest.raises(DatasetError, match=r"there is no classnames\.txt"):
        opened(tmp_path)
    put(tmp_path / "classnames.txt", "a\nb\n")
    with pytest.raises(EvaluationError, match=r"row 1 \(s0000001\): its \.cls .* class 7, where classnames\.txt has 2"):
        rows_of(opened(tmp_path))
    put(tmp_path / "test/nshards.txt", "2")
    with pytest.raises(DatasetError, match=r"has 1 shards, its nshards\.txt says 2"):
        rows_of(opened(tmp_path))
    with pytest.raises(DatasetError, match=r"there is no train/nshards\.txt"):
        opened(tmp_path, train_samples=10)


def test_a_coco_folder_without_its_images_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    for path in (tmp_path / "val2017").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"no image where its annotations put the first: val2017/000000000006\.jpg"):
        opened(tmp_path)


ONE_CLASS = r"cannot ask for its classes \('cat'\): classes: .* at least 2 items .*; wanted two or more"


def test_public_sets_of_one_class_are_named(tmp_path: Path) -> None:
    put(tmp_path / "folder/val/cat/0.png", picture(0))
    with pytest.raises(DatasetError, match=ONE_CLASS):
        opened(tmp_path / "folder")
    put(tmp_path / "folder/val/dog/1.png", picture(1))
    put(tmp_path / "folder/few.txt", "cat\n")
    with pytest.raises(DatasetError, match=ONE_CLASS):
        opened(tmp_path / "folder", only_classes="few.txt")
    write_clip_benchmark(tmp_path / "shards", "test", [b"0"])
    put(tmp_path / "shards/classnames.txt", "cat\n")
    with pytest.raises(DatasetError, match=ONE_CLASS):
        opened(tmp_path / "shards")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat"], ONE_CLASS),
        (["cat", "cat"], r"holds one class twice \('cat'\)"),
        (["cat", None], r"classes\.1: .*string"),
    ],
)
def test_coco_categories_that_cannot_be_told_apart_are_named(tmp_path: Path, names: list[Any], said: str) -> None:
    write_coco(tmp_path)
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    path = tmp_path / "annotations/instances_val2017.json"
    put(path, {**json.loads(path.read_text()), "annotations": [], "categories": categories})
    with pytest.raises(DatasetError, match=said):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("annotation", "said"), [({"caption": None}, "is not of its layout's form: .*NoneType"), ({}, "lacks 'caption'")]
)
def test_coco_captions_of_another_form_are_named(tmp_path: Path, annotation: dict[str, Any], said: str) -> None:
    write_coco(tmp_path)
    path = tmp_path / "annotations/captions_val2017.json"
    put(path, {**json.loads(path.read_text()), "annotations": [{"image_id": 100, **annotation}]})
    with pytest.raises(DatasetError, match=rf"annotations/\*_val2017\.json {said}"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "flickr_annotations_30k.csv",
            f'raw,split,filename\n"{"x" * 140_000}",test,1.jpg',
            "field larger than .*131072",
        ),
        ("dataset_flickr30k.json", {"images": {"a": 1}}, "is not of its layout's form: 'str' object"),
        ("dataset_flickr30k.json", {}, "lacks 'images'"),
    ],
)
def test_karpathy_annotations_of_another_form_are_named(tmp_path: Path, name: str, content: Any, said: str) -> None:
    put(tmp_path / "images/1.jpg", picture(1))
    put(tmp_path / name, content)
    with pytest.raises(DatasetError, match=said):
        opened(tmp_path)


def test_names_are_numbered_until_no_other_class_has_them() -> None:
    assert distinct(["crane (2)", "crane", "crane", "crane"]) == ["crane (2)", "crane", "crane (3)", "crane (4)"]
    assert distinct(["crane", "crane", "crane (2)"]) == ["crane", "crane (2)", "crane (2) (2)"]


def test_lines_of_class_names_keep_their_places(tmp_path: Path) -> None:
    write_clip_benchmark(tmp_path, "test", [b"0", b"1"])
    names = tmp_path / "classnames.txt"
    put(names, "\ufeffzero\r\none\u2028and a half\x85\r\n two \n\n\n")
    assert opened(tmp_path).targets["class"].classes == ("zero", "one\u2028and a half", "two")
    for content, line in (("zero\n\ntwo\nthree\n", 2), ("\nzero\none\n", 1), ("zero\none\n \t\nthree", 3)):
        put(names, content)
        with pytest.raises(DatasetError, match=rf"line {line} of .*/classnames\.txt is empty"):
            opened(tmp_path)
    put(names, "a\nb\n")
    put(tmp_path / "zeroshot_classification_templates.txt", "a {c}\n\nthe {c}\n")  # of templates no place counts
    assert opened(tmp_path).targets["class"].templates == ("a {}", "the {}")


def test_an_empty_number_of_shards_is_named(tmp_path: Path) -> None:
    write_clip_benchmark(tmp_path, "test", [b"0", b"1"])
    put(tmp_path / "classnames.txt", "a\nb\n")
    put(tmp_path / "test/nshards.txt", "\n")
    with pytest.raises(DatasetError, match=r"no test/nshards\.txt with the number of its shards"):
        opened(tmp_path)


@pytest.mark.parametrize("below", ["val/", ""])
def test_hidden_folders_are_no_classes_and_hidden_files_no_images(tmp_path: Path, below: str) -> None:
    for number, name in enumerate(("cat/a.png", "dog/b.png", ".ipynb_checkpoints/b.png", "cat/._a.png")):
        put(tmp_path / below / name, picture(number))
    found = opened(tmp_path)
    assert found.targets["class"].classes == ("cat", "dog")
    assert reds(rows_of(found)) == [0, 1]


def test_empty_captions_are_left_out_and_counted(tmp_path: Path, caplog: Any) -> None:
    write_coco(tmp_path / "coco")
    captions = [{"image_id": 100, "caption": " \n"}, {"image_id": 100, "caption": "a"}, {"image_id": 99, "caption": ""}]
    path = tmp_path / "coco/annotations/captions_val2017.json"
    put(path, {**json.loads(path.read_text()), "annotations": captions})
    with caplog.at_level("WARNING", logger="orchestrator"):
        rows = rows_of(opened(tmp_path / "coco"))
    assert [row.captions for row in rows] == [()] * 6 + [("a",)]
    assert "/coco: 2 empty captions left out" in caplog.text
    write_flickr(tmp_path / "flickr")
    image = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": " "}, {"raw": "b"}]}
    put(tmp_path / "flickr/dataset_flickr30k.json", {"images": [image]})
    assert [row.captions for row in rows_of(opened(tmp_path / "flickr"))] == [("b",)]


def test_karpathys_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    write_flickr(tmp_path, table=True)
    table = tmp_path / "flickr_annotations_30k.csv"
    put(table, b"\xef\xbb\xbf" + table.read_bytes())
    assert reds(rows_of(opened(tmp_path))) == [1, 3]


def test_a_missing_first_image_does_not_hide_the_others(tmp_path: Path) -> None:
    write_coco(tmp_path)
    for number in (6, 5):  # the first two rows
        (tmp_path / f"val2017/{number:012d}.jpg").unlink()
    assert reds(rows_of(opened(tmp_path))) == [4, 3, 2, 1, 0]
