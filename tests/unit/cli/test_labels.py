"""What ``label concepts`` prints of what it found."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from orchestrator.cli.labels import _print
from orchestrator.labels.concepts import build_vocabulary, describe_coverage
from orchestrator.runs.label import LabelResult
from orchestrator.wordnet.captions import packaged_finder

DOG, TENCH = 2084071, 1440764


def test_the_summary_says_what_was_counted_covered_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = build_vocabulary({DOG: 3000, TENCH: 1000}, 8000, 1, finder=packaged_finder().version)
    histogram = np.array([4000, 3000, 1000, *[0] * 8])
    result = LabelResult(
        vocabulary="file:///data/_orchestrator/concepts-0.parquet",
        digest=vocabulary.digest,
        num_concepts=len(vocabulary),
        num_shards=9,
        num_stored=4,
        num_samples=8100,
        num_captions=8000,
        num_without=100,
        num_undecodable=7,
        num_cut=1,
        coverage=describe_coverage(vocabulary, histogram, 0, packaged_finder()),
    )
    assert json.loads(json.dumps(asdict(result))) == asdict(result)
    _print(result)
    shown = capsys.readouterr().out
    for said in (
        f"2 concepts; digest {vocabulary.digest}",
        result.vocabulary,
        "9, of which 4 had their concepts already",
        "8,000 of 8,100 samples; 100 samples without; of those read now 7 not UTF-8, 1 cut for their length",
        "0: 50.0%, 1: 37.5%, 2: 12.5%",
        "dog.n.01 3,000, tench.n.01 1,000; the first 1% carry 75.0% of labels",
        "1 of its 1,000 classes",
    ):
        assert said in shown
