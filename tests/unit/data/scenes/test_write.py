"""Shards on disk: complete, readable, the same bytes whoever writes them, and whole or absent."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.scenes.contact_sheet import write_contact_sheet
from orchestrator.data.scenes.targets import TARGETS
from orchestrator.data.scenes.write import ScenesSummary, write_scenes
from orchestrator.errors import DatasetError, StorageAccessError

TRAIN_MEMBERS = ["jpg", "txt"]
EVAL_MEMBERS = ["jpg", "txt", "json", "depth.npy", "normal.npy", "mask.png"]


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _samples(folder: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, extension = member.name.split(".", 1)
                content = tar.extractfile(member)
                assert content is not None
                samples[key][extension] = content.read()
    return samples


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ScenesSummary]:
    folder = tmp_path_factory.mktemp("scenes") / "small"
    return folder, write_scenes(str(folder), 50, 36, 0, samples_per_shard=20, num_processes=1)


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    written: tuple[Path, ScenesSummary], tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []

    def record(done: int, total: int) -> None:
        calls.append((done, total))

    other = tmp_path / "other"
    write_scenes(str(other), 50, 36, 0, samples_per_shard=20, num_processes=2, progress=record)
    assert _digests(other) == _digests(written[0])
    assert calls[-1] == (95, 95)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_another_seed_gives_other_bytes(written: tuple[Path, ScenesSummary], tmp_path: Path) -> None:
    write_scenes(str(tmp_path), 20, 4, 1, samples_per_shard=20, num_processes=1)
    assert _digests(tmp_path)["train/00000.tar"] != _digests(written[0])["train/00000.tar"]


def test_the_summary_counts_what_is_there(written: tuple[Path, ScenesSummary]) -> None:
    folder, summary = written
    assert summary.num_samples == {"train": 50, "val": 9, "eval": 36}
    assert summary.num_shards == {"train": 3, "val": 1, "eval": 2}
    assert summary.num_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for split, count in summary.num_samples.items():
        assert len(_samples(folder / split)) == count


def test_keys_and_members_follow_img2dataset(written: tuple[Path, ScenesSummary]) -> None:
    folder, _ = written
    for split, members in (("train", TRAIN_MEMBERS), ("val", TRAIN_MEMBERS), ("eval", EVAL_MEMBERS)):
        samples = _samples(folder / split)
        assert all(list(sample) == members for sample in samples.values())
    assert list(_samples(folder / "train"))[19:22] == ["000000019", "000010000", "000010001"]


def test_members_decode_to_what_they_promise(written: tuple[Path, ScenesSummary]) -> None:
    for sample in _samples(written[0] / "eval").values():
        image = Image.open(io.BytesIO(sample["jpg"]))
        assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
        depth, normal = (np.load(io.BytesIO(sample[name]), allow_pickle=False) for name in EVAL_MEMBERS[3:5])
        assert (depth.dtype, depth.shape) == (np.float32, (64, 64))
        assert (normal.dtype, normal.shape) == (np.float16, (64, 64, 3))
        mask = np.array(Image.open(io.BytesIO(sample["mask.png"])))
        record = json.loads(sample["json"])
        assert record["caption"] == sample["txt"].decode()
        assert mask.max() == len(record["objects"])
        for k, item in enumerate(record["objects"]):
            rows, columns = np.nonzero(mask == k + 1)
            assert item["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_evaluation_targets_are_described_and_balanced(written: tuple[Path, ScenesSummary]) -> None:
    described: dict[str, Any] = json.loads((written[0] / "eval" / "targets.json").read_text())["targets"]
    records = [json.loads(sample["json"])["targets"] for sample in _samples(written[0] / "eval").values()]
    assert list(described) == list(TARGETS)
    for name, target in described.items():
        assert target["multi_label"] == (name in ("all_shapes", "all_colors"))
        labels = [record[name] if target["multi_label"] else [record[name]] for record in records]
        assert {label for own in labels for label in own} <= set(target["classes"])
        assert target["named_in_captions"] == (name in ("shape", "color", "all_shapes", "all_colors"))
        assert all(template.count("{}") == 1 for template in target["templates"])
    assert Counter(record["shape"] for record in records) == dict.fromkeys(described["shape"]["classes"], 3)
    assert Counter(record["color"] for record in records) == dict.fromkeys(described["color"]["classes"], 3)


def test_all_shapes_and_all_colors_are_those_of_the_objects(written: tuple[Path, ScenesSummary]) -> None:
    for sample in _samples(written[0] / "eval").values():
        record = json.loads(sample["json"])
        for name, key in (("all_shapes", "shape"), ("all_colors", "color")):
            assert sorted(record["targets"][name]) == sorted({item[key] for item in record["objects"]})
            assert record["targets"][key] in record["targets"][name]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"num_train": 0}, "num_train is 0"),
        ({"num_eval": 3}, "num_eval is 3"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 4}, "image_size is 4"),
        ({"samples_per_shard": 10_001}, "samples_per_shard is 10001"),
        ({"num_processes": 0}, "num_processes is 0"),
        ({"dest": "s3://bucket/scenes"}, "not a local folder"),
    ],
)
def test_wrong_requests_are_refused_by_name(changed: dict[str, Any], named: str, tmp_path: Path) -> None:
    request = {"dest": str(tmp_path / "new"), "num_train": 4, "num_eval": 4, "seed": 0, **changed}
    with pytest.raises(DatasetError, match=named):
        write_scenes(**request)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DatasetError, match="not an empty folder"):
        write_scenes(str(tmp_path), 4, 4, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(StorageAccessError, match=r"file/new cannot be written \(.*File exists\)"):
        write_scenes(str(tmp_path / "file" / "new"), 4, 4, 0)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(str(tmp_path / "new"), 4, 4, 0, num_processes=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_rendering_process_that_dies_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    # A program on standard input has no file that a spawned process could import: its processes die at once.
    program = f"""
from orchestrator.data.scenes.write import write_scenes
write_scenes({str(tmp_path / "new")!r}, 4, 4, 0, num_processes=2)
"""
    ended = subprocess.run([sys.executable, "-"], input=program, text=True, capture_output=True, timeout=120)
    assert ended.returncode == 1
    assert "WorkerLostError" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_contact_sheet_is_a_small_png(tmp_path: Path) -> None:
    write_contact_sheet(str(tmp_path / "sheet.png"), seed=0)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width >= 8 * 128
    assert (tmp_path / "sheet.png").stat().st_size < 400_000
