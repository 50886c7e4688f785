"""Concepts beside the shards: labels of the caption that is drawn, the same as found on the fly; refused for others."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.concept_labels import ConceptReader, HasLabel, read_chunk_concepts, read_concepts
from orchestrator.data.concepts import Labeller, StoredConcepts, open_finder, open_labeller
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.index import DatasetIndex, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.selection import ensure_selection
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.errors import AnnotationError, DatasetError
from orchestrator.labels.concepts import ConceptCounts, build_vocabulary
from orchestrator.spec.batches import Batches
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import Store, open_store
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import PACKAGED_TABLE, load_noun_table
from tagger_file import tagger_file

FIELDS = ("txt", "syn")
FINDER = FinderFacts(mode="corenet", noun_table=None, tagger=None)
TEXTS = (b"a dog on a sofa", b"two cats", b"it was as it is", "собака".encode(), b"<b>a red cube</b>", b"", b"\xff\xfe")
NUM_SAMPLES = (100, 40)
SIZE, BLOCK = 16, 20


def captions_of(number: int) -> dict[str, bytes]:
    """A sample's captions: in both fields, in one of them, or in none that has a concept."""
    return {"txt": TEXTS[number % 7], "syn": TEXTS[number // 7 % 7]}


def can_be_drawn(data: bytes) -> bool:
    return data not in (b"", b"\xff\xfe")


@dataclass(frozen=True)
class Pool:
    store: Store
    index: DatasetIndex

    def reader(self, keeps: bool = True, fields: tuple[str, ...] = FIELDS) -> ConceptReader:
        return ConceptReader((ShardsSource.now(self.store, self.index.digest),), fields, FINDER, S3Spec(), keeps)

    def labeller(self, stored: bool, resamples: bool = False) -> Labeller:
        counts = ConceptCounts()
        for shard in range(len(NUM_SAMPLES)):
            counts.add(ConceptCounts.of_shard(self.reader(keeps=False).read(0, shard)))
        finder = packaged_finder().version
        vocabulary = build_vocabulary(counts.concepts, counts.num_captions, 1, finder=finder, data=(self.index.digest,))
        return open_labeller(vocabulary, FINDER, S3Spec(), FIELDS if stored else None, resamples)

    def read_epoch(self, labeller: Labeller) -> list[Mapping[str, np.ndarray[Any, Any]]]:
        order = SampleOrder(
            [DatasetOrder(ChunkTable(self.index.shards.num_samples), 0)],
            WindowShuffle(BLOCK, 0, Batches(global_size=BLOCK)),
        )
        reader = ShardsBlockReader(
            (ShardsSource.now(self.store, self.index.digest),),
            ShardsSpec(kind="shards", train="x", caption_fields=FIELDS),
            order.shuffle,
            BlockLayout(Batches(global_size=BLOCK), BLOCK, 1),
            BlockFormat((columns.IMAGE, columns.CONCEPTS), SIZE, 8, 4, None, labeller),
        )
        task = BlockTask(tuple(range(sum(NUM_SAMPLES) // BLOCK)), order.window_visits(0, sum(NUM_SAMPLES)))
        return [unpack_block(block, SIZE) for block in reader.read_blocks(task)]


def write_shards(maker: Any, order: int = 1) -> None:
    """Two shards; ``order`` -1: the same samples, the last one first."""
    for shard, (start, number) in enumerate(zip((0, NUM_SAMPLES[0]), NUM_SAMPLES, strict=True)):
        members = []
        for sample in range(start, start + number)[::order]:
            members.append((f"{sample:05d}.png", maker.image((sample, 0, 0))))
            members += [(f"{sample:05d}.{field}", text) for field, text in captions_of(sample).items()]
        maker.write_members(f"{shard:05d}.tar", members)


def open_pool(folder: Path) -> Pool:
    store = open_store(str(folder))
    index = index_dataset(store)
    save_index(store, index)
    return Pool(store, index)


@pytest.fixture
def pool(maker: Any, tmp_path: Path) -> Pool:
    write_shards(maker)
    return open_pool(tmp_path)


def test_a_second_start_reads_what_is_stored_and_finds_the_same(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [pool.reader().read(0, shard) for shard in range(2)]
    assert [shard.was_stored for shard in first] == [False, False]
    texts = [captions_of(number)["txt"] for number in range(NUM_SAMPLES[0])]
    expected = [packaged_finder().find(text.decode()) if can_be_drawn(text) else None for text in texts]
    assert first[0].columns[0].to_pylist() == expected
    assert first[0].num_undecodable == sum(
        text == b"\xff\xfe" for number in range(100) for text in captions_of(number).values()
    )
    monkeypatch.setattr("orchestrator.data.concept_labels.read_shard", None)  # captions are not read again
    second = [pool.reader().read(0, shard) for shard in range(2)]
    assert all(shard.was_stored for shard in second)
    for one, other in zip(first, second, strict=True):
        assert [column.to_pylist() for column in one.columns] == [column.to_pylist() for column in other.columns]


def test_stored_labels_are_those_of_the_caption_that_was_drawn_and_the_same_as_on_the_fly(pool: Pool) -> None:
    for shard in range(2):
        pool.reader().read(0, shard)
    live, stored = pool.read_epoch(pool.labeller(stored=False)), pool.read_epoch(pool.labeller(stored=True))
    for one, other in zip(live, stored, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert len({tuple(row) for block in stored for row in block["concepts"].tolist()}) == 4


def test_a_sample_without_label_is_kept_or_replaced_and_counted(pool: Pool) -> None:
    code = columns.SKIP_REASONS.index(columns.NO_CONCEPT)
    kept = pool.read_epoch(pool.labeller(stored=False))
    assert not any((block["skip_reason"] == code).any() for block in kept)
    num_empty = sum((block["concepts"][:, 0] < 0).sum() for block in kept)
    assert num_empty > 20
    replaced = pool.read_epoch(pool.labeller(stored=False, resamples=True))
    assert all((block["concepts"][:, 0] >= 0).all() for block in replaced)
    assert sum((block["skip_reason"] == code).sum() for block in replaced) > 20


def test_samples_without_label_in_any_caption_are_filtered_from_the_plan(pool: Pool) -> None:
    labeller = pool.labeller(stored=True)
    assert labeller.stored is not None
    for shard in range(2):
        pool.reader().read(0, shard)
    rule = HasLabel(labeller.vocabulary, labeller.stored)
    selection = ensure_selection(pool.store, pool.index, None, lambda _: (pool.store, ""), rule=rule)
    has_label = [
        any(can_be_drawn(text) and packaged_finder().find(text.decode()) for text in captions_of(number).values())
        for number in range(sum(NUM_SAMPLES))
    ]
    assert 0 < selection.num_kept == sum(has_label) < len(has_label)
    assert selection.filtered == {"no_concept": len(has_label) - sum(has_label)}
    bits = np.unpackbits(selection.kept.view(np.uint8), bitorder="little")
    assert bits[:100].tolist() == has_label[:100]
    assert bits[128:168].tolist() == has_label[100:]


def test_stored_concepts_are_refused_where_they_are_absent_or_another_jobs(pool: Pool, maker: Any) -> None:
    labeller = pool.labeller(stored=True)
    with pytest.raises(AnnotationError, match=r"concepts-corenet.*00000\.tar is absent.*orchestrator label concepts"):
        pool.read_epoch(labeller)
    for shard in range(2):
        pool.reader(fields=("syn", "txt")).read(0, shard)
    with pytest.raises(AnnotationError, match=r"of 2 caption fields, the job labels with .*or caption_fields"):
        pool.read_epoch(labeller)
    for shard in range(2):
        assert not pool.reader().read(0, shard).was_stored, "another job's are made again"
    assert labeller.stored is not None
    maker_of_other = replace(labeller.stored.annotation.maker, version="corenet-2 3.1-abc")
    other = StoredConcepts(replace(labeller.stored.annotation, maker=maker_of_other), FIELDS)
    with pytest.raises(AnnotationError, match=r"was made by 'corenet-2 3\.0.*the job labels with 'corenet-2 3.1-abc'"):
        pool.read_epoch(replace(labeller, stored=other))


def test_stored_concepts_of_another_version_of_a_shard_are_refused_and_made_again(pool: Pool, maker: Any) -> None:
    for shard in range(2):
        pool.reader().read(0, shard)
    maker.write_tar("00001.tar", range(30))
    index = index_dataset(pool.store)
    save_index(pool.store, index)
    changed = Pool(pool.store, index)
    stored = StoredConcepts.by(packaged_finder(), "corenet", FIELDS)
    vocabulary = build_vocabulary({2084071: 1}, 1, 1, finder="f")
    with pytest.raises(AnnotationError, match=r"00001.*another version.*40 samples instead of 30.*label concepts"):
        HasLabel(vocabulary, stored).keeps(pool.store, index.shards[1])
    assert [changed.reader().read(0, shard).was_stored for shard in range(2)] == [True, False]


def test_labels_that_came_with_a_copy_are_joined_by_key_and_not_by_position(
    pool: Pool, maker: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In another place versions of objects mean nothing, and a shard in another order is as long as it was."""
    for shard in range(2):
        pool.reader().read(0, shard)
    folder = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(tmp_path, folder)
    copied = open_pool(folder)
    assert all(copied.reader().read(0, shard).was_stored for shard in range(2)), "nothing moved"
    labeller = copied.labeller(stored=True)
    for one, other in zip(pool.read_epoch(labeller), copied.read_epoch(labeller), strict=True):
        assert np.array_equal(one["concepts"], other["concepts"])

    write_shards(type(maker)(folder), order=-1)
    moved = open_pool(folder)
    refused = r"concepts-corenet.*: sample 0 has key '00099', its labels are those of '00000': .*another order"
    with pytest.raises(AnnotationError, match=r"its labels are those of.*another order.*orchestrator label concepts"):
        moved.read_epoch(labeller)
    assert labeller.stored is not None
    with pytest.raises(AnnotationError, match=refused):
        read_concepts(moved.store, moved.index.shards[0], labeller.stored)
    with pytest.raises(AnnotationError, match=refused):
        HasLabel(labeller.vocabulary, labeller.stored).keeps(moved.store, moved.index.shards[0])
    assert not any(moved.reader().read(0, shard).was_stored for shard in range(2)), "they are found again"
    live, stored = moved.read_epoch(moved.labeller(stored=False)), moved.read_epoch(labeller)
    assert all(np.array_equal(one["concepts"], other["concepts"]) for one, other in zip(live, stored, strict=True))


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_labels_that_came_with_a_copy_of_rows_without_keys_are_taken_where_the_content_is_known(
    maker: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, sha256: str
) -> None:
    maker.write_parquet("0.parquet", range(40))
    folder = tmp_path_factory.mktemp("copy") / "data"
    stored = StoredConcepts.by(packaged_finder(), "corenet", FIELDS)
    here, row = open_pool(tmp_path), open_pool(tmp_path).index.shards[0]
    index = DatasetIndex.from_rows(here.index.uri, "parquet", [replace(row, sha256=sha256)])  # as after data verify
    save_index(here.store, index)
    here.reader().read(0, 0)
    shutil.copytree(tmp_path, folder)
    copy = open_store(str(folder))

    def read_both(store: Store, etag: str) -> None:
        read_concepts(store, replace(index.shards[0], etag=etag), stored)
        read_chunk_concepts(store, replace(index.shards[0], etag=etag), 0, stored)

    read_both(here.store, row.etag)
    if sha256:
        read_both(copy, "")
        return
    for read in (read_concepts, lambda store, shard, stored: read_chunk_concepts(store, shard, 0, stored)):
        with pytest.raises(AnnotationError, match=r"nothing says that the rows here are in the same order.*verify"):
            read(copy, replace(index.shards[0], etag=""), stored)


def test_a_vocabulary_of_another_finder_is_refused(pool: Pool) -> None:
    vocabulary = replace(pool.labeller(stored=False).vocabulary, finder="corenet-2 3.1-abc")
    with pytest.raises(DatasetError, match=r"counted with 'corenet-2 3.1-abc', the job labels with 'corenet-2 3.0"):
        open_labeller(vocabulary, FINDER, S3Spec())


def test_another_noun_table_is_read_from_where_the_job_says_and_a_missing_one_says_what_to_do(tmp_path: Path) -> None:
    place = (tmp_path / "nouns.npz").as_uri()
    vocabulary = build_vocabulary({2084071: 1}, 1, 1, finder=packaged_finder().version)
    elsewhere = FinderFacts(mode="corenet", noun_table=place, tagger=None)
    with pytest.raises(
        DatasetError, match=r"noun_table: .*nouns\.npz does not exist; leave noun_table out .*wordnet-base"
    ):
        open_labeller(vocabulary, elsewhere, S3Spec())
    (tmp_path / "nouns.npz").write_bytes(PACKAGED_TABLE.read_bytes())
    assert open_labeller(vocabulary, elsewhere, S3Spec()).labels("a dog") == [0]
    tagless = FinderFacts(mode="nouns", noun_table=None, tagger=(tmp_path / "none.zip").as_uri())
    with pytest.raises(
        DatasetError, match=r"tagger: .*none\.zip does not exist; .*averaged_perceptron_tagger_eng\.zip"
    ):
        open_labeller(vocabulary, tagless, S3Spec())
    assert load_noun_table().version in packaged_finder().version


def test_nouns_are_stored_and_labelled_alike_with_the_tagger_that_the_job_names(pool: Pool) -> None:
    finder = FinderFacts(mode="nouns", noun_table=None, tagger=tagger_file().as_uri())
    reader = replace(pool.reader(), finder=finder)
    counts = ConceptCounts.of_shard(reader.read(0, 0))
    version = open_finder(finder, S3Spec()).version
    vocabulary = build_vocabulary(counts.concepts, counts.num_captions, 1, finder=version)
    labeller = open_labeller(vocabulary, finder, S3Spec(), FIELDS)
    assert labeller.stored is not None
    assert labeller.stored.annotation.name == "concepts-nouns"
    (column, _) = read_concepts(pool.store, pool.index.shards[0], labeller.stored)
    labels = [labeller.vocabulary.indices(row) for row in column.to_pylist() if row is not None]
    texts = [captions_of(number)["txt"] for number in range(NUM_SAMPLES[0])]
    assert labels == [labeller.labels(text.decode()) for text in texts if can_be_drawn(text)]
    assert any(labels)
