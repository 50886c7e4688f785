"""Data sets have names of their own, which MLflow takes."""

import pytest

from orchestrator.spec.short_names import short_names


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        ([], []),
        (["s3://b/pool/train/"], ["train"]),
        (["file:///data/a", "file:///data/b"], ["a", "b"]),
        (["file:///my%20sets/%C3%BCn%C3%AF"], ["ünï"]),
        (["s3://b/cc3m/train", "s3://b/cc12m/train", "s3://b/laion"], ["cc3m-train", "cc12m-train", "b-laion"]),
        (["s3://b/lang=en", "s3://b/(new) @2"], ["lang-en", "-new- -2"]),
        (["s3://b/x=1", "s3://b/x+1"], ["x-1-1", "x-1-2"]),
        (["s3://b/same", "s3://b/same"], ["same-1", "same-2"]),
    ],
)
def test_names_are_short_and_differ(uris: list[str], names: list[str]) -> None:
    assert short_names(uris) == names
