import io
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import DatasetError
from orchestrator.wordnet.table import load_noun_table
from orchestrator.wordnet.vocabulary import Vocabulary

# The example vocabulary of apple/corenet, in its order.
LEMMAS = ("image", "stock", "black", "free", "white", "design", "set", "woman", "template", "home")


@pytest.fixture
def vocabulary() -> Vocabulary:
    table = load_noun_table()
    offsets = tuple(table.synsets(lemma)[0] for lemma in LEMMAS)
    return Vocabulary(offsets=offsets, counts=tuple(range(100, 0, -10)), num_captions=200, min_count=5)


def with_metadata(data: bytes, **changes: str) -> bytes:
    rows = pq.read_table(io.BytesIO(data))
    metadata = {key.decode(): value.decode() for key, value in rows.schema.metadata.items()} | changes
    sink = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def test_corenets_own_example_gets_corenets_labels(vocabulary):
    labels = vocabulary.labels("An image of black dog.")
    assert [int(index in labels) for index in range(len(vocabulary))] == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_labels_are_ascending_and_empty_for_a_caption_without_concepts(vocabulary):
    assert vocabulary.labels("home design, white home") == [4, 5, 9]
    assert vocabulary.labels("") == []
    assert vocabulary.index_of(vocabulary.offsets[3]) == 3
    assert vocabulary.index_of(2084071) is None
    assert vocabulary.names()[:2] == ["image.n.01", "stock.n.01"]


def test_a_vocabulary_survives_parquet_and_a_process_border(vocabulary):
    data = vocabulary.to_bytes()
    rows = pq.read_table(io.BytesIO(data))
    assert rows.slice(0, 1).to_pylist() == [
        {
            "synset": "image.n.01",
            "wnid": f"n{vocabulary.offsets[0]:08d}",
            "offset": vocabulary.offsets[0],
            "lemma_names": load_noun_table().lemma_names(vocabulary.offsets[0]),
            "count": 100,
        }
    ]
    for copy in (Vocabulary.from_bytes(data), pickle.loads(pickle.dumps(vocabulary))):
        assert copy == vocabulary
        assert copy.digest == vocabulary.digest


def test_the_digest_tells_other_counts_and_another_order(vocabulary):
    recounted = Vocabulary(vocabulary.offsets, vocabulary.counts, num_captions=201, min_count=5)
    reordered = Vocabulary(vocabulary.offsets[::-1], vocabulary.counts, num_captions=200, min_count=5)
    assert len({vocabulary.digest, recounted.digest, reordered.digest}) == 3


def test_a_file_that_is_no_vocabulary_or_from_another_wordnet_is_refused(vocabulary):
    sink = io.BytesIO()
    pq.write_table(pa.table({"caption": ["a dog"]}), sink)
    for data in (b"", b"not parquet", sink.getvalue()):
        with pytest.raises(DatasetError, match=r"objective\.vocabulary"):
            Vocabulary.from_bytes(data)
    with pytest.raises(DatasetError, match=r"3\.1-0123"):
        Vocabulary.from_bytes(with_metadata(vocabulary.to_bytes(), noun_table="3.1-0123"))
