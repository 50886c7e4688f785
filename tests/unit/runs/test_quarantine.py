"""What a run skipped becomes a list that the next run's ``deny`` takes, and that denies these samples."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from orchestrator import columns
from orchestrator.cli.main import app
from orchestrator.data.index import load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.selection import build_selection
from orchestrator.data.stream import StreamPlace
from orchestrator.errors import BadSampleLimitError, DatasetError, RunNotFoundError
from orchestrator.runs.folder import claim_run
from orchestrator.runs.quarantine import QuarantineList, write_quarantine_list
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts, ShardsFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.spec.selection import SelectionSpec
from orchestrator.storage.store import open_store
from orchestrator.training.run_ledger import build_ledger

GLOBAL_SIZE = 2
JOB: dict[str, Any] = {
    "kind": "pretrain",
    "objective": {"name": "clip"},
    "model": {"preset": "vit_nano_32"},
    "batch": {"global_size": GLOBAL_SIZE},
    "optimizer": {"learning_rate": 1e-3},
    "budget": {"steps": 4},
}

Skipped = Sequence[tuple[int, int, int]]
"""(data set, shard, index) of each."""


def write_tars(folder: Path, shards: Mapping[str, Sequence[str]]) -> Path:
    """Indexed tars of samples with these keys."""
    folder.mkdir()
    for name, keys in shards.items():
        with tarfile.open(folder / name, "w", format=tarfile.GNU_FORMAT) as tar:
            for member in (f"{key}.{ending}" for key in keys for ending in ("jpg", "txt")):
                info = tarfile.TarInfo(member)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"a"))
    return index(folder)


def write_parquet(folder: Path, **shards: pa.Table) -> Path:
    """Indexed Parquet shards."""
    folder.mkdir()
    for name, table in shards.items():
        texts = ["a"] * len(table)
        pq.write_table(table.append_column("jpg", [texts]).append_column("txt", [texts]), folder / f"{name}.parquet")
    return index(folder)


def index(folder: Path) -> Path:
    store = open_store(str(folder))
    save_index(store, index_dataset(store))
    return folder


def leave_run(cluster: ClusterSpec, name: str, folders: Sequence[Path], skipped: Skipped) -> Plan:
    """A run that ended before its first checkpoint: too much was skipped in its first step."""
    indexes = [load_index(open_store(str(folder))) for folder in folders]
    train = tuple(
        ShardsFacts(
            uri=folder.as_uri(),
            digest=found.digest,
            num_shards=len(found.shards),
            num_samples=found.num_samples,
            bytes=found.size_bytes,
        )
        for folder, found in zip(folders, indexes, strict=True)
    )
    data = {"kind": "shards", "train": [{"uri": facts.uri} for facts in train], "max_skipped_fraction": 0}
    job = PretrainSpec.model_validate({**JOB, "name": name, "data": data})
    plan = resolve_plan(job, cluster, Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="none"), train=train))
    store = open_store(plan.run_uri)
    claim_run(store, plan)
    _, ledger = build_ledger(plan, StreamPlace(0, (0,)), 1, torch.device("cpu"), store)
    ledger.add(block_of(skipped), left_out=False)
    with pytest.raises(BadSampleLimitError):
        ledger.check_skipped(plan.data, 1, GLOBAL_SIZE, ledger.skipped())
    return plan


def block_of(skipped: Skipped) -> dict[str, np.ndarray]:
    dataset, shard, number = np.array(skipped, np.int32).T
    place = {columns.DATASET: dataset, columns.EPOCH: 0 * dataset, columns.SHARD: shard, columns.INDEX: number}
    return (
        place | {f"skipped_{name}": values for name, values in place.items()} | {columns.SKIP_REASON: 0 * dataset + 2}
    )


def list_of(plan: Plan, cluster: ClusterSpec, folder: Path, list_by: str = "key") -> QuarantineList:
    return write_quarantine_list(plan.run_uri, cluster, f"{folder}/list.parquet", list_by)


def denied(folder: Path, lists: Path, list_by: str = "key") -> list[tuple[int, int]]:
    """(shard, index) of the samples that the list keeps from the next run."""
    store = open_store(str(folder))
    found = load_index(store)
    assert found is not None
    spec = SelectionSpec(deny="list.parquet", list_by=list_by)
    kept = build_selection(store, found, spec, lambda path: (open_store(str(lists)), path)).kept
    bits = np.unpackbits(kept.view(np.uint8), bitorder="little").reshape(len(kept), 64)
    sizes = found.shards.num_samples.tolist()  # all below one chunk
    return [(shard, int(at)) for shard, size in enumerate(sizes) for at in np.flatnonzero(bits[shard, :size] == 0)]


def test_the_list_denies_what_was_skipped_and_says_where_and_why(cluster: ClusterSpec, tmp_path: Path) -> None:
    keys = {f"{shard}.tar": [f"{shard}{number:02}" for number in range(20)] for shard in range(4)}
    folder = write_tars(tmp_path / "tars", keys)
    plan = leave_run(cluster, "tars", [folder], [(0, 2, 7), (0, 0, 3), (0, 2, 7)])
    assert list_of(plan, cluster, tmp_path) == QuarantineList(3)
    rows = pq.read_table(tmp_path / "list.parquet").to_pylist()
    assert rows[0] == {"key": b"003", "shard": f"{folder}/0.tar", "index": 3, "epoch": 0, "reason": "image_undecodable"}
    assert denied(folder, tmp_path) == [(0, 3), (2, 7)]


def test_a_copy_of_a_data_set_is_named_where_it_lies(cluster: ClusterSpec, tmp_path: Path) -> None:
    """Its index says where it was made."""
    original = write_tars(tmp_path / "original", {"0.tar": ["a", "b", "c"]})
    copy = original.rename(tmp_path / "copy")
    plan = leave_run(cluster, "copy", [copy], [(0, 0, 2)])
    assert list_of(plan, cluster, tmp_path).num_rows == 1
    assert pq.read_table(tmp_path / "list.parquet")["shard"].to_pylist() == [f"{copy}/0.tar"]
    assert denied(copy, tmp_path) == [(0, 2)]


def test_rows_of_parquet_are_named_by_their_columns(cluster: ClusterSpec, tmp_path: Path) -> None:
    """``key`` is a column as any other: a row's number would be the key of another row."""
    wide = pa.table(
        {"key": ["2", "0", "1"], "id": pa.array([10, 11, 2**40]), "who": pa.array(list("xyz")).dictionary_encode()}
    )
    small = pa.table({"key": ["5", "6"], "id": pa.array([20, None], pa.int32()), "who": ["v", "w"]})
    folder = write_parquet(tmp_path / "rows", a=wide, b=small)
    plan = leave_run(cluster, "rows", [folder], [(0, 0, 2), (0, 1, 1)])
    for list_by, expected in (("key", ["1", "6"]), ("id", [2**40, None]), ("who", ["z", "w"])):
        written = list_of(plan, cluster, tmp_path, list_by)
        assert pq.read_table(tmp_path / "list.parquet")[list_by].to_pylist() == expected
        assert denied(folder, tmp_path, list_by) == [(0, 2), (1, 1)][: 2 - expected.count(None)]
        assert written.notes == (("1 of them have no id: the list does not deny them",) if None in expected else ())
    with pytest.raises(DatasetError, match=r"no column 'uid'; there are: key, id, who, jpg, txt; .*--list-by"):
        list_of(plan, cluster, tmp_path, "uid")


def test_a_key_need_not_be_utf8(cluster: ClusterSpec, tmp_path: Path) -> None:
    tars = write_tars(tmp_path / "latin", {"0.tar": [f"caf\udce9{number}" for number in range(3)]})
    rows = write_parquet(tmp_path / "text", a=pa.table({"key": ["p", "q"]}))
    plan = leave_run(cluster, "latin", [tars, rows], [(0, 0, 1), (1, 0, 0)])
    assert list_of(plan, cluster, tmp_path) == QuarantineList(2)
    assert (denied(tars, tmp_path), denied(rows, tmp_path)) == ([(0, 1)], [(0, 0)])


def test_a_column_that_no_list_holds_is_refused_by_name(cluster: ClusterSpec, tmp_path: Path) -> None:
    first = pa.table({"id": [1, 2], "score": [0.5, 0.25]})
    folder = write_parquet(tmp_path / "mixed", a=first, b=pa.table({"id": ["x"], "score": [0.5]}))
    plan = leave_run(cluster, "mixed", [folder], [(0, 0, 1), (0, 1, 0)])
    with pytest.raises(DatasetError, match=r"'id' is not of one type in all shards .*--list-by"):
        list_of(plan, cluster, tmp_path, "id")
    with pytest.raises(DatasetError, match=r"'score' holds double; wanted text or whole numbers"):
        list_of(plan, cluster, tmp_path, "score")


@pytest.mark.parametrize("all_met_some", [False, True])
def test_names_that_samples_share_are_said(cluster: ClusterSpec, tmp_path: Path, all_met_some: bool) -> None:
    """Keys that begin anew in every shard."""
    sizes = (10, 12, 11)
    folder = write_tars(
        tmp_path / "anew",
        {f"{shard}.tar": [f"{number:03}" for number in range(size)] for shard, size in enumerate(sizes)},
    )
    skipped = [(0, 0, 3), *([(0, 1, 5), (0, 2, 6)] if all_met_some else [])]
    (note,) = list_of(leave_run(cluster, f"anew-{len(skipped)}", [folder], skipped), cluster, tmp_path).notes
    count = 2 if all_met_some else 1
    assert note.startswith(f"the list denies more than was skipped: {count} of 12 samples of {folder}/1.tar are good")
    assert "--list-by" in note
    assert len(denied(folder, tmp_path)) == len(sizes) * len(skipped)


def test_a_shard_that_lost_its_samples_is_refused_by_name(cluster: ClusterSpec, tmp_path: Path) -> None:
    folder = write_tars(tmp_path / "lost", {"0.tar": ["a", "b", "c"], "1.tar": ["d"]})
    plan = leave_run(cluster, "lost", [folder], [(0, 0, 2), (0, 1, 0)])
    with tarfile.open(folder / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    index(folder)
    with pytest.raises(DatasetError, match=r"lost/0.tar has 1 samples, and sample 2 of it was skipped"):
        list_of(plan, cluster, tmp_path)
    (folder / "0.tar").unlink()
    index(folder)
    with pytest.raises(DatasetError, match=r"no shard .*lost/0.tar any more"):
        list_of(plan, cluster, tmp_path)


def ledger(plan: Plan, cluster: ClusterSpec, folder: Path, *arguments: str) -> Result:
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster.model_dump(mode="json", exclude_defaults=True)))
    return CliRunner().invoke(app, ["ledger", plan.run_uri, "--cluster", str(folder), *arguments])


def test_the_command_lists_what_ended_a_run_before_its_first_checkpoint(cluster: ClusterSpec, tmp_path: Path) -> None:
    folder = write_tars(tmp_path / "early", {"0.tar": ["a", "b", "c"], "1.tar": ["a", "b"]})
    plan = leave_run(cluster, "early", [folder], [(0, 0, 0)])
    shown = ledger(plan, cluster, tmp_path, "--quarantine", str(tmp_path / "list.parquet"))
    assert shown.exit_code == 1, shown.output
    assert f"1 skipped samples: {tmp_path}/list.parquet" in shown.stderr
    assert "the list denies more than was skipped" in shown.stderr
    assert "no complete checkpoint yet, and so no ledger" in shown.stderr
    assert (0, 0) in denied(folder, tmp_path)
    assert isinstance(ledger(plan, cluster, tmp_path).exception, RunNotFoundError)
