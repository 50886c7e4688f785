"""A selection in a bucket: shards, the tables beside them and a list that cannot be mapped from where it lies."""

import io
import tarfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.indexing import index_dataset
from orchestrator.data.selection import ensure_selection, load_selection
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.selection import SelectionSpec
from orchestrator.storage.store import open_store


def test_a_bucket_is_selected_by_a_list_of_uids_from_a_bucket(s3_server: Any) -> None:
    s3 = S3Spec(endpoint=s3_server.endpoint)
    store = open_store(f"{s3_server.uri}/selected", s3)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number in range(100):
            archive.addfile(tarfile.TarInfo(f"{number:05d}.txt"))
    store.write_bytes("00000.tar", tar.getvalue())
    table = pa.BufferOutputStream()
    uids = {"key": [f"{number:05d}" for number in range(100)], "uid": [f"{number:032x}" for number in range(100)]}
    pq.write_table(pa.table(uids), table)
    store.write_bytes("00000.parquet", table.getvalue().to_pybytes())
    listed = io.BytesIO()
    np.save(listed, np.array([(0, 7), (0, 64), (1, 8)], "u8,u8"))
    lists = open_store(f"{s3_server.uri}/lists", s3)
    lists.write_bytes("uids.npy", listed.getvalue())

    spec = SelectionSpec(allow="uids.npy", list_by="uid")
    selection = ensure_selection(store, index_dataset(store), spec, lambda location: (lists, location))
    assert selection.kept.tolist() == [1 << 7, 1]
    assert selection.filtered == {"not_allowed": 98}
    assert load_selection(store, selection.digest).kept.tolist() == [1 << 7, 1]
