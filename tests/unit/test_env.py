"""Where commands keep state: the home, or a folder of this user's that no other user has laid out."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from orchestrator.env import state_folder, temporary_state_folder


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_state_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_folder() == tmp_path / "state" / "vl-orchestrator"


def test_a_home_that_cannot_be_written_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nohome")
    assert state_folder() is None


def test_a_user_without_a_home_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert state_folder() is None


def test_the_temporary_folder_is_the_user_s_alone_and_found_again() -> None:
    folder = temporary_state_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert temporary_state_folder() == folder


def test_a_temporary_folder_that_another_laid_out_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    planned = tmp_path / f"vl-orchestrator-{os.getuid()}"
    planned.symlink_to(tmp_path / "theirs")
    assert temporary_state_folder() != planned
    assert list((tmp_path / "theirs").iterdir()) == []
