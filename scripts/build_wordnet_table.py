"""Builds the noun table that the package ships (``orchestrator/wordnet/nouns.npz``) from WordNet's database files.

    apt-get install wordnet-base
    python scripts/build_wordnet_table.py /usr/share/wordnet orchestrator/wordnet/nouns.npz

The files are read with NLTK, so that the table says what NLTK says. The same input gives the same bytes
(with the same zlib): rows are sorted, and the archive carries no time of its own.
"""

import argparse
import hashlib
import io
import logging
import shutil
import tempfile
import zipfile
from pathlib import Path

import nltk
import numpy as np
from nltk.corpus import wordnet

logger = logging.getLogger(__name__)

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
NUM_LEXICOGRAPHER_FILES = 45
EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)


def lay_nltk_data(wordnet_dir: Path, nltk_dir: Path) -> None:
    """Lays WordNet's files where NLTK looks for them, with the two that Debian's package leaves out.

    NLTK reads nothing outside its own folders, hence the copy. No noun depends on either file: ``lexnames`` needs
    one numbered line per lexicographer file, ``index.sense`` only serves the mapping between WordNet versions.
    """
    corpus = nltk_dir / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for part in PARTS_OF_SPEECH:
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            shutil.copy(wordnet_dir / name, corpus / name)
    lexnames = (f"{number:02d}\tfile{number:02d}\t1\n" for number in range(NUM_LEXICOGRAPHER_FILES))
    (corpus / "lexnames").write_text("".join(lexnames))
    (corpus / "index.sense").touch()


def read_arrays(nltk_dir: Path) -> dict[str, np.ndarray]:
    """The table's arrays (``orchestrator.wordnet.table`` says what they mean), from the files laid in ``nltk_dir``."""
    corpus = nltk_dir / "corpora" / "wordnet"
    nltk.data.path[:] = [str(nltk_dir)]
    synsets = sorted(wordnet.all_synsets("n"), key=lambda synset: synset.offset())
    offsets = [synset.offset() for synset in synsets]
    index_of = {offset: index for index, offset in enumerate(offsets)}
    sense_order = _sense_order(corpus / "index.noun")
    words = [synset.lemma_names() for synset in synsets]
    hypernyms = [
        sorted(index_of[up.offset()] for up in synset.hypernyms() + synset.instance_hypernyms()) for synset in synsets
    ]
    arrays = {
        "offsets_S": np.array(offsets, np.int32),
        "words": _utf8("\n".join(word for row in words for word in row)),
        "senses_W": np.array(
            [
                sense_order[word.lower()].index(offset) + 1
                for offset, row in zip(offsets, words, strict=True)
                for word in row
            ],
            np.uint8,
        ),
        "num_words_S": np.array([len(row) for row in words], np.uint8),
        "hypernyms_H": np.array([index for row in hypernyms for index in row], np.int32),
        "num_hypernyms_S": np.array([len(row) for row in hypernyms], np.uint8),
        "exceptions": _utf8((corpus / "noun.exc").read_text()),
    }
    content = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()
    return {"version": _utf8(f"{wordnet.get_version()}-{content[:12]}"), **arrays}


def _sense_order(index_file: Path) -> dict[str, list[int]]:
    """Lemma -> synset offsets, most frequent sense first (the last columns of WordNet's index)."""
    order = {}
    for line in index_file.read_text().splitlines():
        if not line.startswith(" "):
            lemma, _, num_senses, *rest = line.split()
            order[lemma] = [int(offset) for offset in rest[-int(num_senses) :]]
    return order


def _utf8(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As ``numpy.savez_compressed``, with a fixed date on every member."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", EPOCH_OF_ZIP)
            member.compress_type = zipfile.ZIP_DEFLATED
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(member, content.getvalue(), compresslevel=9)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the packaged WordNet noun table.")
    parser.add_argument("wordnet_dir", type=Path, help="WordNet's database files, such as /usr/share/wordnet")
    parser.add_argument("table", type=Path, help="the .npz to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not (arguments.wordnet_dir / "data.noun").exists():
        parser.error(f"{arguments.wordnet_dir} has no WordNet: apt-get install wordnet-base, and name its folder")
    with tempfile.TemporaryDirectory() as nltk_dir:
        lay_nltk_data(arguments.wordnet_dir, Path(nltk_dir))
        arrays = read_arrays(Path(nltk_dir))
    write_npz(arguments.table, arrays)
    version = arrays["version"].tobytes().decode()
    logger.info(
        "%s: %d synsets, version %s, %d bytes",
        arguments.table,
        arrays["offsets_S"].size,
        version,
        arguments.table.stat().st_size,
    )


if __name__ == "__main__":
    main()
