"""Which annotations lie beside the shards of a data set, looked at before anything starts."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from orchestrator.data.annotation_header import AnnotationHeader
from orchestrator.data.annotations import annotation_path, read_annotation_header
from orchestrator.data.index import ADDED_FOLDER, DatasetIndex
from orchestrator.errors import AnnotationError
from orchestrator.spec.annotation import AnnotationColumnFacts, AnnotationFacts
from orchestrator.storage.store import Store

_MOST_HEADERS = 1000  # looked into beforehand, spread over the shards; read tasks look into every one that they read
_THREADS = 16


def read_annotation_facts(store: Store, index: DatasetIndex, folders: Mapping[str, str]) -> dict[str, AnnotationFacts]:
    """Those of ``folders`` (objective's word to folder) that at least one shard has.

    Raises:
        AnnotationError: a file is damaged or was made for another version of its shard, or files differ in what made
            them.
    """
    found = {name: _read_facts(store, index, folder) for name, folder in folders.items()}
    return {name: facts for name, facts in found.items() if facts is not None}


def _read_facts(store: Store, index: DatasetIndex, folder: str) -> AnnotationFacts | None:
    there = {info.path for info in store.list(f"{ADDED_FOLDER}/{folder}")}
    annotated = [at for at, path in enumerate(index.shards.paths) if annotation_path(folder, path) in there]
    if not annotated:
        return None
    looked_into = annotated[:: -(-len(annotated) // _MOST_HEADERS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = list(pool.map(lambda at: read_annotation_header(store, folder, index.shards[at]), looked_into))
    present = [header for header in headers if header is not None]
    if not present:  # deleted since they were listed
        return None
    first = present[0].annotation
    for header in present:
        _check_same(store, folder, present[0], header)
    columns = {item.name: AnnotationColumnFacts(kind=item.kind, width=item.width) for item in first.columns}
    return AnnotationFacts(digest=first.digest, columns=columns, num_shards=len(annotated))


def _check_same(store: Store, folder: str, one: AnnotationHeader, other: AnnotationHeader) -> None:
    if one.annotation.digest == other.annotation.digest:
        return
    makers = [
        f"{header.annotation.maker.name} {header.annotation.maker.version} ({header.annotation.maker.settings}) made "
        f"that of {header.shard.path}"
        for header in (one, other)
    ]
    raise AnnotationError(
        f"annotation {store.uri}/{ADDED_FOLDER}/{folder} is not of one maker: {'; '.join(makers)}; make it again for "
        f"all shards with '{other.annotation.maker.command}'"
    )
