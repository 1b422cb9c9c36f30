"""The tables of failure modes and threats in the docs say correctly where each row is tested."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from tests import ROOT


@pytest.mark.parametrize(
    ("mark", "page", "rows"),
    [
        ("failure", "docs/reliability.md", [*range(1, 56)]),
        ("threat", "docs/security.md", [*range(1, 32)]),
    ],
)
def test_every_row_is_tested_where_the_table_says(mark: str, page: str, rows: list[int]) -> None:
    marked: dict[int, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").glob("*/test_*.py"):
        for numbers in re.findall(rf"mark\.{mark}\(([\d, ]+)\)", path.read_text("utf-8")):
            for number in numbers.split(","):
                marked[int(number)].add(f"{path.parent.name}/{path.stem.removeprefix('test_')}")
    table = {}
    for line in (ROOT / page).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            table[int(cells[0])] = set(cells[-1].split(", "))
    assert sorted(table) == rows
    assert all(marked[n] for n in table), "a row without a test"
    assert {n: sorted(names) for n, names in table.items()} == {n: sorted(marked[n]) for n in table}
    assert not marked.keys() - table.keys()
