"""docs/promises.md says correctly where each guarantee is tested, and leaves out no boundary."""

from __future__ import annotations

import re
from collections import defaultdict

from tests import ROOT

PAGE = (ROOT / "docs/promises.md").read_text("utf-8")
COLUMNS = ["boundary", "guarantee", "server settings", "source of truth", "what you must do", "tests in"]
# What people and machines hand over to each other: none of these may be without a promise.
BOUNDARIES = {
    *("invoke", "step", "suspend", "answer", "event", "timer"),
    *("child", "schedule", "queue limit", "notification", "audit"),
}


def _rows() -> list[list[str]]:
    lines = PAGE.partition("\n## The table\n")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]


def _marked() -> dict[str, set[str]]:
    """Maps boundaries to the test files with a test that is marked with them."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").glob("*/test_*.py"):
        for names in re.findall(r"mark\.promise\(([^)]*)\)", path.read_text("utf-8")):
            for name in re.findall(r'"([^"]+)"', names):
                found[name].add(f"{path.parent.name}/{path.stem.removeprefix('test_')}")
    return found


def test_each_promise_is_tested_where_the_table_says() -> None:
    head, _, *rows = _rows()
    assert head == COLUMNS
    assert all(len(row) == len(COLUMNS) and all(row) for row in rows), "an empty cell"
    table = {row[0]: sorted(row[-1].split(", ")) for row in rows}
    assert len(table) == len(rows), "a boundary with two rows"
    assert table == {name: sorted(files) for name, files in _marked().items()}


def test_every_boundary_has_a_promise() -> None:
    assert {row[0] for row in _rows()[2:]} >= BOUNDARIES


def test_the_settings_are_those_the_page_explains() -> None:
    explained = set(re.findall(r"^- \*\*(.+?)\*\*:", PAGE, re.MULTILINE))
    for row in _rows()[2:]:
        word = re.split(r"[,;]", row[2])[0]
        assert word in explained | {"as its decision"}, row[2]
