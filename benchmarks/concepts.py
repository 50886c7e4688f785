"""Captions to CatLIP's labels: the fast path against the published one, in one run, with the labels compared.

The published path (apple/corenet, described in docs/objectives.md) is written here anew: clean with ftfy, NLTK's
tokenizer, its tagger (whose tags nobody reads), lemmatizer and WordNet reader, labels looked up in a list. Tokens and
lemmas are those of NLTK 3.8.1, which it pins (``tests/shared/nltk_381.py``). It is spared the sentence splitter, whose
data is rarely at hand, so that it is rather too fast. Both are measured in CPU seconds of
one core; captions are made up, about 10 words each, words as frequent as in text (Zipf). The fast path's figure is of
captions that it has not seen, after a warm-up on others: a data set does not repeat its captions, but their words.

    python benchmarks/concepts.py [--nltk-data FOLDER] [--wordnet /usr/share/wordnet] [--captions FILE] [--json FILE]

FOLDER holds taggers/averaged_perceptron_tagger_eng.zip; without it or WordNet's files only the fast path is measured.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import numpy as np

from orchestrator.wordnet.captions import ConceptFinder
from orchestrator.wordnet.table import load_noun_table

ROOT = Path(__file__).parents[1]
NUM_FAST, NUM_SLOW = 500_000, 4_000
UNSEEN = 0.2  # share of the captions that no warm-up sees
VOCABULARY_SIZE = 24_320  # of the published DataComp runs
FUNCTION_WORDS = "a the of in on with and for at is to by from an this that it as are".split()  # noqa: SIM905
OTHER_WORDS = "red big old vintage free stock photo image picture view new best white black vector".split()  # noqa: SIM905
ENDINGS = ("", "", "", "", "", "", "s", "s", ",", "'s", " -", "!", ".")
RARE = "café “quoted” <b>bold</b> 50%20off rock+roll #1 don't Ünïcode собака 🐕 &amp; 8x10 ＷＩＤＥ ﬁsh dogâ€™s".split()  # noqa: SIM905


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("ORCHESTRATOR_NLTK_DATA", str(ROOT.parent / "shared" / "nltk_data"))
    parser.add_argument("--nltk-data", type=Path, default=Path(data), help="holds taggers/averaged_perceptron_...zip")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="WordNet 3.0's database files")
    parser.add_argument("--captions", type=Path, help="a caption a line, instead of made-up ones")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    captions = arguments.captions.read_text().splitlines() if arguments.captions else list(make_captions(NUM_FAST))
    vocabulary = count_vocabulary(captions)
    result = measure_fast(captions, vocabulary)
    tagger = arguments.nltk_data / "taggers" / "averaged_perceptron_tagger_eng.zip"
    if tagger.exists() and (arguments.wordnet / "data.noun").exists():
        with tempfile.TemporaryDirectory() as folder:
            published = published_labelling(arguments.wordnet, tagger, Path(folder), vocabulary)
            result |= compare(captions[:NUM_SLOW], vocabulary, published)
        result["times_published"] = round(result["fast_per_s"] / result["published_per_s"], 1)
    else:
        sys.stdout.write(f"the published path needs {tagger} and WordNet in {arguments.wordnet} (wordnet-base)\n")
    for name, value in result.items():
        sys.stdout.write(f"{name:28} {value:,}\n" if isinstance(value, int | float) else f"{name:28} {value}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def make_captions(number: int) -> Iterator[str]:
    """Made-up captions; the same each time."""
    rng = random.Random(0)
    nouns = [word.lower() for word in load_noun_table().words if word.isalpha()]
    rng.shuffle(nouns)
    nouns = OTHER_WORDS + nouns[:30_000]
    frequencies = list(accumulate(1 / (rank + 3) for rank in range(len(nouns))))
    for _ in range(number):
        size = rng.randint(6, 14)
        words = [
            rng.choice(FUNCTION_WORDS)
            if rng.random() < 0.4
            else rng.choices(nouns, cum_weights=frequencies)[0] + rng.choice(ENDINGS)
            for _ in range(size)
        ]
        if rng.random() < 0.1:
            words[rng.randrange(size)] = rng.choice(RARE)
        yield " ".join([words[0].capitalize(), *words[1:]]) + rng.choice(("", "", "."))


def count_vocabulary(captions: Sequence[str]) -> list[int]:
    """Offsets of the most frequent concepts, as many as the published runs have."""
    finder = ConceptFinder(load_noun_table())
    counts = Counter(offset for caption in captions for offset in finder.find(caption))
    return [offset for offset, _ in counts.most_common(VOCABULARY_SIZE)]


def measure_fast(captions: Sequence[str], vocabulary: Sequence[int]) -> dict[str, Any]:
    """Captions a CPU second: unseen ones after a warm-up (``fast_per_s``), the first ones, and those seen before."""
    label = ConceptFinder(load_noun_table()).labelling({offset: index for index, offset in enumerate(vocabulary)})
    num_unseen = round(UNSEEN * len(captions))
    warm_up, unseen = captions[:-num_unseen], captions[-num_unseen:]
    first_per_s = per_cpu_second(label, warm_up[:num_unseen])
    per_cpu_second(label, warm_up[num_unseen:])
    return {
        "captions": len(captions),
        "words_per_caption": round(sum(len(caption.split()) for caption in captions) / len(captions), 2),
        "vocabulary": len(vocabulary),
        "warm_up_captions": len(warm_up),
        "fast_per_s": per_cpu_second(label, unseen),
        "fast_first_captions_per_s": first_per_s,
        "fast_seen_before_per_s": per_cpu_second(label, unseen),
    }


def per_cpu_second(label: Callable[[str], Any], captions: Sequence[str]) -> int:
    """Captions labelled in a second of this process's CPU time."""
    started_s = time.process_time()
    for caption in captions:
        label(caption)
    return round(len(captions) / (time.process_time() - started_s))


def published_labelling(
    wordnet_dir: Path, tagger: Path, folder: Path, vocabulary: Sequence[int]
) -> Callable[[str], list[int]]:
    """The published path; labels ascending, once each."""
    import nltk
    from nltk.corpus import wordnet

    load_script("scripts/build_wordnet_table.py").lay_nltk_data(wordnet_dir, folder)
    (folder / "taggers").mkdir()
    shutil.copy(tagger, folder / "taggers")
    nltk.data.path[:] = [str(folder)]
    wordnet.ensure_loaded()
    nltk_381 = load_script("tests/shared/nltk_381.py")
    keys = [f"n{offset}" for offset in vocabulary]

    def label(caption: str) -> list[int]:
        labels = []
        for word, _ in nltk.pos_tag(nltk_381.tokenize(clean(caption))):
            lemma = nltk_381.lemmatize(word)
            try:
                synset = wordnet.synset(f"{lemma}.n.01")
            except Exception:  # noqa: BLE001  # as published
                continue
            if synset.name() == f"{lemma}.n.01" and (key := f"{synset.pos()}{synset.offset()}") in keys:
                labels.append(keys.index(key))
        target_V = np.zeros(len(keys), np.int64)
        target_V[labels] = 1
        return np.flatnonzero(target_V).tolist()

    return label


def clean(caption: str) -> str:
    """The published cleaning; without ftfy where that is not installed."""
    caption = re.sub("<.*?>", "", unquote(caption).replace("+", " ")).strip("\n")
    return fix_text(re.sub(" +", " ", caption)).strip().lower()


def fix_text(caption: str) -> str:
    """ftfy's repairs."""
    if importlib.util.find_spec("ftfy") is None:
        return caption
    import ftfy

    return ftfy.fix_text(caption)


def compare(
    captions: Sequence[str], vocabulary: Sequence[int], published: Callable[[str], list[int]]
) -> dict[str, Any]:
    """The published speed, and where labels differ: for ftfy's repairs, or unexplained."""
    label = ConceptFinder(load_noun_table()).labelling({offset: index for index, offset in enumerate(vocabulary)})
    published(captions[0])  # loads its data
    found: dict[str, Any] = {"published_per_s": per_cpu_second(published, captions), "compared": len(captions)}
    differing = [caption for caption in captions if label(caption) != published(caption)]
    repaired = [caption for caption in differing if label(fix_text(caption)) == published(caption)]
    found |= {"ftfy": importlib.util.find_spec("ftfy") is not None, "differing": len(differing)}
    found["differing_for_ftfy"] = repaired
    found["differing_unexplained"] = [caption for caption in differing if caption not in repaired]
    return found


def load_script(path: str) -> ModuleType:
    """A file of the repository that lies in no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
