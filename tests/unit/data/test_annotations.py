"""The files of annotations: what goes in comes out, chunk by chunk, and only for the shard they were made for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.annotation_header import Annotation, AnnotationColumn, Maker
from orchestrator.data.annotations import (
    annotation_path,
    read_annotation_chunk,
    read_annotation_header,
    write_annotation,
)
from orchestrator.data.metadata import key_array
from orchestrator.data.shard import ShardRow
from orchestrator.errors import AnnotationError
from orchestrator.storage.store import Store, open_store

MAKER = Maker("tests", "1", "abc", "orchestrator label tests JOB.yaml")
COLUMNS = (
    AnnotationColumn("score", "number"),
    AnnotationColumn("labels", "labels", width=3),
    AnnotationColumn("vector", "embedding", width=2),
    AnnotationColumn("depth", "depth", scale=0.001),
)
ANNOTATION = Annotation("things", COLUMNS, MAKER)
SHARD = ShardRow("a/00000.tar", 10_240, "v1", 200, (0, 1, 2, 3, 4), sha256="0123")
INDEXES = [*range(3, 60), *range(130, 200)]  # none in the second chunk


def make_table(indexes: list[int]) -> pa.Table:
    return pa.table(
        {
            "index": pa.array(indexes, pa.int32()),
            "key": key_array([f"k{index}" for index in indexes]),
            "score": pa.array([index / 2 if index != 5 else None for index in indexes], pa.float32()),
            "labels": pa.array([list(range(index % 4)) for index in indexes], pa.list_(pa.int32())),
            "vector": pa.array([np.array([index, 1], np.float16) for index in indexes], pa.list_(pa.float16(), 2)),
            "depth": pa.array([bytes([index]) for index in indexes], pa.binary()),
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_rows_come_back_chunk_by_chunk(store: Store) -> None:
    table = make_table(INDEXES)
    write_annotation(store, SHARD, ANNOTATION, table)
    assert annotation_path("things", SHARD.path) == "_orchestrator/things/a/00000.parquet"
    for chunk in range(SHARD.num_chunks):
        found = read_annotation_chunk(store, "things", SHARD, chunk, ("score", "labels", "vector", "depth"))
        assert found is not None
        header, rows = found
        assert header.annotation == ANNOTATION
        chosen = [at for at, index in enumerate(INDEXES) if index // 64 == chunk]
        assert rows.to_pylist() == table.take(pa.array(chosen, pa.int64())).to_pylist()
    assert pq.ParquetFile(Path(store.uri, annotation_path("things", SHARD.path))).metadata.num_row_groups == 3


def test_only_the_columns_that_are_asked_for_are_read(store: Store) -> None:
    write_annotation(store, SHARD, ANNOTATION, make_table(INDEXES))
    found = read_annotation_chunk(store, "things", SHARD, 0, ("score",))
    assert found is not None
    assert found[1].column_names == ["index", "key", "score"]
    with pytest.raises(AnnotationError, match="no column other"):
        read_annotation_chunk(store, "things", SHARD, 0, ("score", "other"))


def test_a_shard_without_annotation_and_one_without_annotated_samples(store: Store) -> None:
    assert read_annotation_header(store, "things", SHARD) is None
    assert read_annotation_chunk(store, "things", SHARD, 0, ()) is None
    write_annotation(store, SHARD, ANNOTATION, make_table([]))
    found = read_annotation_chunk(store, "things", SHARD, 0, ("score",))
    assert found is not None
    assert found[1].num_rows == 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"num_samples": 201}, "200 samples instead of 201 samples"),
        ({"size_bytes": 20_480}, "10240 bytes instead of 20480 bytes"),
        ({"etag": "v2"}, "version v1 instead of v2"),
        ({"sha256": "4567"}, "SHA-256 0123 instead of 4567"),
    ],
)
def test_an_annotation_of_another_version_of_its_shard_is_refused(
    store: Store, changed: dict[str, Any], named: str
) -> None:
    write_annotation(store, SHARD, ANNOTATION, make_table(INDEXES))
    for read in (
        lambda shard: read_annotation_header(store, "things", shard),
        lambda shard: read_annotation_chunk(store, "things", shard, 0, ("score",)),
    ):
        with pytest.raises(AnnotationError) as caught:
            read(replace(SHARD, **changed))
        for part in ("_orchestrator/things/a/00000.parquet", "a/00000.tar", named, MAKER.command):
            assert part in str(caught.value)


def test_an_annotation_under_another_shards_name_is_refused(store: Store) -> None:
    write_annotation(store, SHARD, ANNOTATION, make_table(INDEXES))
    content = store.read_bytes(annotation_path("things", SHARD.path))
    store.write_bytes(annotation_path("things", "a/00001.tar"), content)
    with pytest.raises(AnnotationError, match=r"a/00000\.tar instead of a/00001\.tar"):
        read_annotation_header(store, "things", replace(SHARD, path="a/00001.tar"))


def test_in_a_copy_of_the_data_set_etags_mean_nothing_and_checksums_still_do(store: Store, tmp_path: Path) -> None:
    write_annotation(store, SHARD, ANNOTATION, make_table(INDEXES))
    copy = open_store(str(tmp_path / "copy"))
    path = annotation_path("things", SHARD.path)
    copy.write_bytes(path, store.read_bytes(path))
    assert read_annotation_header(copy, "things", replace(SHARD, etag="other")) is not None
    with pytest.raises(AnnotationError, match="SHA-256"):
        read_annotation_header(copy, "things", replace(SHARD, etag="other", sha256="4567"))


def write_again(store: Store, columns: list[str], **options: Any) -> None:
    """The same file with some of its columns, as no maker leaves it."""
    path = Path(store.uri, annotation_path("things", SHARD.path))
    file = pq.ParquetFile(path)
    table = file.read().select(columns).replace_schema_metadata(file.schema_arrow.metadata)
    pq.write_table(table, path, **options)


@pytest.mark.parametrize("lost", ["index", "key", "score"])
def test_a_column_that_the_header_names_and_the_file_lacks_is_damage(store: Store, lost: str) -> None:
    write_annotation(store, SHARD, ANNOTATION, make_table(INDEXES))
    write_again(store, [name for name in ("index", "key", "score") if name != lost])
    with pytest.raises(AnnotationError, match=f"no column {lost}"):
        read_annotation_chunk(store, "things", SHARD, 0, ("score",))


def test_row_groups_that_do_not_say_whose_they_are_are_damage(store: Store) -> None:
    write_annotation(store, SHARD, ANNOTATION, make_table(INDEXES))
    write_again(store, ["index", "key", "score"], write_statistics=False)
    with pytest.raises(AnnotationError, match="row group 0 does not say whose it is"):
        read_annotation_chunk(store, "things", SHARD, 0, ("score",))


def test_a_value_that_changed_on_disk_is_damage(store: Store) -> None:
    write_annotation(store, SHARD, ANNOTATION, make_table(INDEXES))
    path = Path(store.uri, annotation_path("things", SHARD.path))
    column = pq.read_metadata(path).row_group(0).column(2)
    content = bytearray(path.read_bytes())
    content[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match="CRC checksum"):
        read_annotation_chunk(store, "things", SHARD, 0, ("score",))


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"plain"])
def test_what_is_no_annotation_is_said(store: Store, content: bytes) -> None:
    if content == b"plain":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"index": [1]}), sink)
        content = sink.getvalue().to_pybytes()
    store.write_bytes(annotation_path("things", SHARD.path), content)
    with pytest.raises(AnnotationError, match="is not an annotation of this version"):
        read_annotation_header(store, "things", SHARD)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"index": pa.array([1, 1], pa.int32())}, "must rise"),
        ({"index": pa.array([2, 1], pa.int32())}, "must rise"),
        ({"index": pa.array([-1, 1], pa.int32())}, "within the shard's 200"),
        ({"index": pa.array([1, 200], pa.int32())}, "within the shard's 200"),
        ({"index": pa.array([1, None], pa.int32())}, "without index or key"),
        ({"score": pa.array([1, 2], pa.int32())}, "'score' is int32; number wants float"),
        ({"vector": pa.array([[1], [2]], pa.list_(pa.float32(), 1))}, "embedding wants fixed_size_list"),
        ({"labels": pa.array([[1, 2, 3, 4], []], pa.list_(pa.int32()))}, "more than 3 labels in 'labels'"),
        ({"depth": None}, "column 'depth' is absent"),
    ],
)
def test_tables_of_another_form_are_not_written(store: Store, changed: dict[str, Any], named: str) -> None:
    columns = {name: make_table([0, 1])[name] for name in make_table([]).column_names} | changed
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    with pytest.raises(AnnotationError, match=named):
        write_annotation(store, SHARD, ANNOTATION, table)
    assert store.list() == ()


@pytest.mark.parametrize("name", ["selections", "../up", "", "Depth", "a/b"])
def test_names_that_are_no_folder_of_annotations(name: str) -> None:
    with pytest.raises(AnnotationError, match="wanted a name"):
        annotation_path(name, "00000.tar")


def test_the_digest_follows_columns_and_maker() -> None:
    same = replace(ANNOTATION, name="elsewhere", maker=replace(MAKER, command="another"))
    assert same.digest == ANNOTATION.digest
    others = [replace(ANNOTATION, maker=replace(MAKER, **{part: "x"})) for part in ("name", "version", "settings")]
    others.append(replace(ANNOTATION, columns=COLUMNS[:2]))
    assert len({ANNOTATION.digest, *(other.digest for other in others)}) == 5
