import io
import pickle
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import DatasetError
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_noun_table
from orchestrator.wordnet.vocabulary import Vocabulary, read_coverage

# The example vocabulary of apple/corenet, in its order.
LEMMAS = ("image", "stock", "black", "free", "white", "design", "set", "woman", "template", "home")


@pytest.fixture
def vocabulary() -> Vocabulary:
    table = load_noun_table()
    offsets = tuple(table.synsets(lemma)[0] for lemma in LEMMAS)
    return Vocabulary(
        offsets=offsets, counts=tuple(range(100, 0, -10)), num_captions=200, min_count=5, finder="f", data=("d",)
    )


def with_metadata(data: bytes, **changes: str) -> bytes:
    rows = pq.read_table(io.BytesIO(data))
    metadata = {key.decode(): value.decode() for key, value in rows.schema.metadata.items()} | changes
    sink = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def test_corenets_own_example_gets_corenets_labels(vocabulary):
    labels = packaged_finder().labelling(vocabulary.index_of)("An image of black dog.")
    assert [int(index in labels) for index in range(len(vocabulary))] == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_labels_are_ascending_and_empty_for_a_caption_without_concepts(vocabulary):
    label = packaged_finder().labelling(vocabulary.index_of)
    for caption, expected in (("home design, white home", [4, 5, 9]), ("a dog", []), ("", [])):
        assert label(caption) == expected
        assert vocabulary.indices(packaged_finder().find(caption)) == expected


def test_a_vocabulary_survives_parquet_and_a_process_border(vocabulary):
    data = vocabulary.to_bytes(load_noun_table(), {"imagenet_1k": 3})
    assert read_coverage(data) == {"imagenet_1k": 3}
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


def test_the_digest_tells_other_counts_another_order_finder_and_data(vocabulary):
    others = [
        replace(vocabulary, **change)
        for change in ({"num_captions": 201}, {"offsets": vocabulary.offsets[::-1]}, {"finder": "g"}, {"data": ("e",)})
    ]
    assert len({vocabulary.digest, *(other.digest for other in others)}) == 5


def test_a_file_that_is_no_vocabulary_or_of_another_version_is_refused(vocabulary):
    sink = io.BytesIO()
    pq.write_table(pa.table({"caption": ["a dog"]}), sink)
    for data in (b"", b"not parquet", sink.getvalue()):
        with pytest.raises(DatasetError, match=r"objective\.vocabulary"):
            Vocabulary.from_bytes(data)
    with pytest.raises(DatasetError, match="version 1 instead of 2"):
        Vocabulary.from_bytes(with_metadata(vocabulary.to_bytes(load_noun_table()), version="1"))
