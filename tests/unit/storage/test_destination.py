"""Where a user lets something be written: what the operating system refuses is said by name."""

from pathlib import Path

import pytest

from orchestrator.errors import StorageAccessError
from orchestrator.storage.destination import explaining_writes, local_destination


def test_a_path_is_made_absolute_and_a_uri_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_destination("a#b/c") == tmp_path / "a#b" / "c"
    with pytest.raises(StorageAccessError, match=r"s3://bucket/x is a URI, .*name a path"):
        local_destination("s3://bucket/x")


def test_a_refused_write_names_the_target_and_what_is_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "below" / "new"
    said = r"below/new cannot be written \(.*: Not a directory\)"
    with pytest.raises(StorageAccessError, match=said), explaining_writes(target):
        target.parent.mkdir(parents=True)
