"""Which samples of a data set a job trains on, as one bit a sample: made once for a plan and kept beside the shards.

The masks lie in ``_orchestrator/selections/<digest>.parquet``, named by what they are; ``<key>.json`` in the same
folder, named by what they were made from, leads a second plan to them. The rules are ``sample_list.py`` and
``predicate.py``, what they look at comes from ``metadata.py``.

Memory: 8 bytes a chunk of 64 samples, beside one shard's columns for each thread and the lists that cannot be mapped.
"""

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.index import ADDED_FOLDER, DatasetIndex
from orchestrator.data.metadata import read_metadata, sidecar_path
from orchestrator.data.predicate import Mask, SampleRule, satisfies
from orchestrator.data.sample_list import SampleList, open_sample_list
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.errors import DatasetError
from orchestrator.spec.selection import SHARD_KEY, SelectionSpec
from orchestrator.storage.store import ObjectNotFoundError, Store

logger = logging.getLogger(__name__)

SELECTIONS_FOLDER = f"{ADDED_FOLDER}/selections"

NOT_ALLOWED = "not_allowed"
DENIED = "denied"
WHERE = "where."
"""Reasons to leave a sample out: not on the one list, on the other, and by column that does not say what it should."""

OpenList = Callable[[str], tuple[Store, str]]
"""From a list as the job names it to a store and the list's path in it."""

OnShards = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""

Masks = npt.NDArray[np.uint64]

_VERSION = "1"
_THREADS = 8
_SCHEMA = pa.schema({"kept": pa.uint64()})


@dataclass(frozen=True, eq=False)
class Selection:
    """Some samples of one data set."""

    index_digest: str
    """Of the data set's index."""
    kept: Masks
    """[chunks], the chunks of all shards in the order of the index, ceil(num_samples / 64) of a shard; bit i is
    sample i of the chunk, from the least."""
    filtered: dict[str, int]
    """Samples left out, by reason, each counted under the first that applies: ``not_allowed``, ``denied``,
    ``where.<column>``; 0 where a rule leaves out none."""

    @cached_property
    def num_kept(self) -> int:
        """Samples that stay."""
        return int(np.bitwise_count(self.kept).sum(dtype=np.int64))

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the index's digest and the masks: says which samples, not why."""
        content = hashlib.sha256(f"{self.index_digest}\n".encode())
        content.update(np.ascontiguousarray(self.kept, "<u8").data)
        return content.hexdigest()


def ensure_selection(
    store: Store,
    index: DatasetIndex,
    spec: SelectionSpec | None,
    open_list: OpenList,
    progress: OnShards | None = None,
    rule: SampleRule | None = None,
) -> Selection:
    """The selection that was made before from the same, else made now and kept beside the shards.

    Raises as ``build_selection``; StorageAccessError when the folder takes no file.
    """
    key = selection_key(store, index, spec, open_list, rule)
    try:
        found = find_selection(store, key)
    except DatasetError as error:
        logger.warning("%s; making it again", error)
        found = None
    if found is not None:
        return found
    selection = build_selection(store, index, spec, open_list, progress, rule)
    save_selection(store, selection)
    content = {"digest": selection.digest, "filtered": selection.filtered}
    store.write_bytes(_key_path(key), json.dumps(content).encode())
    return selection


def selection_key(
    store: Store,
    index: DatasetIndex,
    spec: SelectionSpec | None,
    open_list: OpenList,
    rule: SampleRule | None = None,
) -> str:
    """Hexadecimal SHA-256 of what a selection is made from; reads no list and no metadata.

    Covers index and spec, and by size and etag lists, shards and the tables beside them, none of which the index's
    digest shows. Another place has other etags: there a selection is made again, and has the same digest.

    Raises DatasetError when a list is absent.
    """
    lines = [_VERSION, index.digest, *([spec.model_dump_json()] if spec else []), *([rule.digest] if rule else [])]
    for location in filter(None, (spec.allow, spec.deny) if spec else ()):
        list_store, path = open_list(location)
        info = list_store.stat(path)
        if info is None:
            raise DatasetError(f"{list_store.uri}/{path} does not exist; correct allow or deny under the job's select")
        lines.append(f"{info.size_bytes} {info.etag}")
    sources = {*index.shards.paths} | _sidecars(index, spec)
    lines += [f"{info.path}\0{info.size_bytes} {info.etag}" for info in store.list() if info.path in sources]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def build_selection(
    store: Store,
    index: DatasetIndex,
    spec: SelectionSpec | None,
    open_list: OpenList,
    progress: OnShards | None = None,
    rule: SampleRule | None = None,
) -> Selection:
    """Look at every sample's key or metadata; nothing is written.

    Raises:
        DatasetError: a list or column that is absent or of another type than the rules ask for, metadata that does
            not match its shard, nothing kept.
        ShardReadError: reading failed after its retries.
        ShardDamagedError: a shard is not what its index says.
    """
    shards = [shard for shard in index.shards if shard.num_samples]
    sidecars = _sidecars(index, spec) & {info.path for info in store.list()}
    kept, filtered = [], Counter[str]()
    with ExitStack() as lists, ThreadPoolExecutor(_THREADS) as pool:
        allow, deny = (
            lists.enter_context(open_sample_list(*open_list(location), spec.list_by)) if spec and location else None
            for location in ((spec.allow, spec.deny) if spec else (None, None))
        )
        rules = _Rules(spec, allow, deny, rule)

        def select(shard: ShardRow) -> tuple[Masks, Counter[str]]:
            columns = read_metadata(store, shard, spec.columns, sidecar_path(shard) in sidecars) if spec else {}
            return rules.apply(store, shard, columns)

        for masks, counts in pool.map(select, shards):
            kept.append(masks)
            filtered.update(counts)
            if progress is not None:
                progress(len(kept), len(shards))
    selection = Selection(index.digest, np.concatenate(kept), dict(filtered))
    if not selection.num_kept:
        counted = ", ".join(f"{reason} {count:,}" for reason, count in filtered.items())
        raise DatasetError(
            f"{store.uri}: the job's select keeps none of {index.num_samples:,} samples ({counted}); correct its "
            f"lists and predicates"
        )
    return selection


def save_selection(store: Store, selection: Selection) -> None:
    """Write the masks beside their shards."""
    metadata = {
        "version": _VERSION,
        "index_digest": selection.index_digest,
        "chunk_samples": str(CHUNK_SAMPLES),
        "filtered": json.dumps(selection.filtered),
    }
    sink = pa.BufferOutputStream()
    table = pa.table({"kept": selection.kept}, schema=_SCHEMA.with_metadata(metadata))
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)  # masks hardly repeat
    store.write_bytes(_path(selection.digest), sink.getvalue().to_pybytes())


def load_selection(store: Store, digest: str) -> Selection:
    """The selection of that digest; its counts are those of the plan that wrote it last.

    Raises DatasetError when it is absent, damaged or another.
    """
    where = f"{store.uri}/{_path(digest)}"
    try:
        selection = _parse(store.read_bytes(_path(digest)))
    except ObjectNotFoundError as error:
        raise DatasetError(f"{where} is gone; planning the job again makes it again") from error
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{where} is not a selection of this version ({error}); plan the job again") from error
    if selection.digest != digest:
        raise DatasetError(f"{where} has digest {selection.digest}: it is damaged; remove it and plan the job again")
    return selection


def find_selection(store: Store, key: str) -> Selection | None:
    """The selection that was kept for ``key``; None when there is none. Raises as ``load_selection``."""
    try:
        content = json.loads(store.read_bytes(_key_path(key)))
        digest, filtered = str(content["digest"]), dict(content["filtered"])
    except ObjectNotFoundError:
        return None
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{store.uri}/{_key_path(key)} does not name a selection ({error})") from error
    return dataclasses.replace(load_selection(store, digest), filtered=filtered)


@dataclass(frozen=True)
class _Rules:
    """All that decides whether a sample stays."""

    spec: SelectionSpec | None
    allow: SampleList | None
    deny: SampleList | None
    rule: SampleRule | None

    def apply(self, store: Store, shard: ShardRow, columns: dict[str, pa.Array]) -> tuple[Masks, Counter[str]]:
        """Masks of the shard's chunks, and the samples left out by reason."""
        kept = np.zeros(shard.num_chunks * CHUNK_SAMPLES, bool)
        stays = kept[: shard.num_samples]
        stays[:] = True
        filtered = Counter[str]()
        for reason, holds in self._verdicts(store, shard, columns):
            filtered[reason] = int(np.count_nonzero(stays & ~holds))
            stays &= holds
        return np.packbits(kept, bitorder="little").view("<u8").astype(np.uint64), filtered

    def _verdicts(self, store: Store, shard: ShardRow, columns: dict[str, pa.Array]) -> Iterator[tuple[str, Mask]]:
        """Reason and the samples that it lets pass, rule by rule."""
        if self.spec is not None:
            yield from self._spec_verdicts(self.spec, columns, f"{store.uri}/{shard.path}")
        if self.rule is not None:
            yield self.rule.reason, self.rule.keeps(store, shard)

    def _spec_verdicts(
        self, spec: SelectionSpec, columns: dict[str, pa.Array], where: str
    ) -> Iterator[tuple[str, Mask]]:
        list_by = spec.list_by
        listed = partial(SampleList.contains, column=columns.get(list_by), where=f"{where}: {list_by!r}")
        if self.allow is not None:
            yield NOT_ALLOWED, listed(self.allow)
        if self.deny is not None:
            yield DENIED, ~listed(self.deny)
        for name, predicate in spec.where.items():
            yield f"{WHERE}{name}", satisfies(columns[name], predicate, f"{where}: {name!r}")


def _sidecars(index: DatasetIndex, spec: SelectionSpec | None) -> set[str]:
    """Paths of the tables beside tar shards that would be read; keys alone come from the tar."""
    if spec is None or index.format == "parquet" or spec.columns == (SHARD_KEY,):
        return set()
    return {sidecar_path(shard) for shard in index.shards}


def _path(digest: str) -> str:
    return f"{SELECTIONS_FOLDER}/{digest}.parquet"


def _key_path(key: str) -> str:
    return f"{SELECTIONS_FOLDER}/{key}.json"


def _parse(data: bytes) -> Selection:
    table = pq.read_table(pa.BufferReader(data), schema=_SCHEMA)
    metadata = pq.read_schema(pa.BufferReader(data)).metadata
    version, samples = metadata[b"version"].decode(), metadata[b"chunk_samples"].decode()
    if (version, samples) != (_VERSION, str(CHUNK_SAMPLES)):
        raise ValueError(f"version {version}, chunks of {samples}")
    filtered = {str(reason): int(count) for reason, count in json.loads(metadata[b"filtered"]).items()}
    return Selection(metadata[b"index_digest"].decode(), table["kept"].to_numpy(), filtered)
