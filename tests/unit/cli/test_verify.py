"""``orchestrator data verify``: exit codes, the table and the JSON."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from orchestrator.cli.main import app
from orchestrator.data.index import INDEX_PATH


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with nothing wrong."""
    (tmp_path / "data").mkdir()
    for shard in range(2):
        members = {}
        for number in range(4):
            key = f"{shard}{number}"
            members |= {f"{key}.png": png(40 * shard + number), f"{key}.txt": f"caption {key}".encode()}
        write_tar(tmp_path / "data" / f"{shard}.tar", members)
    return tmp_path / "data"


def verify(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", "verify", *map(str, arguments), "--processes", "1"])


def damage(folder: Path) -> None:
    """A shard whose every caption is missing, under keys that a terminal must not obey; and one that is cut off."""
    write_tar(folder / "0.tar", {f"[red]\x1b[2J{number}.png": png(number) for number in range(9)})
    path = folder / "1.tar"
    path.write_bytes(path.read_bytes()[:1000])


def test_a_sound_data_set_exits_with_0(folder: Path) -> None:
    shown = verify(folder)
    assert shown.exit_code == 0, shown.output
    assert f"{folder}: 8 samples in 2 shards looked at, no index to compare with: nothing wrong" in shown.stdout
    document = json.loads(verify(folder, "--json").stdout)
    assert (document["problems"], document["counts"], document["num_samples"]) == ([], {}, 8)


def test_the_table_counts_each_reason_and_shows_some_examples(folder: Path) -> None:
    damage(folder)
    shown = verify(folder)
    assert shown.exit_code == 1
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["caption_missing", "9", "no", "caption"] in lines
    assert sum("[red]" in line for line in shown.stdout.splitlines()) == 3
    assert "0.tar [red]\\x1b[2J0: none of txt; it has png" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "1.tar: cut off inside" in shown.stdout
    assert "10 problems" in shown.stdout
    assert not (folder / INDEX_PATH).exists()


def test_json_lists_every_problem(folder: Path) -> None:
    damage(folder)
    shown = verify(folder, "--json", "--sample", "100%", "--seed", "3")
    assert shown.exit_code == 1
    document = json.loads(shown.stdout)
    assert document["sampling"] == {"fraction": 1.0, "seed": 3}
    assert document["counts"] == {"caption_missing": 9, "shard_damaged": 1}
    assert [set(problem) for problem in document["problems"]] == [{"shard", "reason", "key", "detail"}] * 10
    assert document["problems"][0] == {
        "shard": "0.tar",
        "reason": "caption_missing",
        "key": "[red]\x1b[2J0",
        "detail": "none of txt; it has png",
    }
    assert document["problems"][-1]["key"] is None


def test_fix_index_writes_it_and_says_what_it_holds(folder: Path) -> None:
    damage(folder)
    shown = verify(folder, "--fix-index")
    assert shown.exit_code == 1
    assert "9 whole samples in 2 shards (there was none before), 1 of them damaged" in shown.stdout
    again = verify(folder, "--json")
    assert json.loads(again.stdout)["indexed"] is True
    assert json.loads(again.stdout)["counts"] == {"caption_missing": 9, "truncated_data": 1}


def test_fields_and_the_limit_can_be_named(folder: Path) -> None:
    document = json.loads(verify(folder, "--json", "--caption-field", "alt", "--max-image-pixels", "95").stdout)
    assert document["counts"] == {"image_too_large": 8, "caption_missing": 8}
    document = json.loads(verify(folder, "--json", "--caption-field", "alt", "--caption-field", "txt").stdout)
    assert document["counts"] == {}
    document = json.loads(verify(folder, "--json", "--image-field", "jpg").stdout)
    assert document["counts"] == {"image_missing": 8}


@pytest.mark.parametrize(
    "options",
    [
        ("--sample", "0"),
        ("--sample", "101%"),
        ("--sample", "some"),
        ("--fix-index", "--sample", "1%"),
        ("--cluster", "cluster/laptop", "--s3-endpoint", "http://127.0.0.1:9"),
    ],
)
def test_wrong_options_exit_with_2(folder: Path, options: tuple[str, ...]) -> None:
    assert verify(folder, *options).exit_code == 2


def test_a_folder_without_shards_is_the_users_error(tmp_path: Path) -> None:
    error = verify(tmp_path).exception
    assert getattr(error, "exit_code", None) == 2
    assert "holds no shards" in str(error)
