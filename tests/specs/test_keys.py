"""The page of keys is what the specs say today."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_keys_is_current() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "keys.py"))["write_page"]()
    page = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    assert page == written, "run: make keys"
    assert page.count("`shuffle_window`") == page.count("`zero_stage`") // 2 == 1
