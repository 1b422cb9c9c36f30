"""The table in docs/reliability.md says correctly where each failure mode is tested."""

from __future__ import annotations

import re
from collections import defaultdict

from tests import ROOT


def test_every_failure_mode_is_tested_where_the_table_says() -> None:
    marked: dict[int, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").glob("*/test_*.py"):
        for numbers in re.findall(r"mark\.failure\(([\d, ]+)\)", path.read_text("utf-8")):
            for number in numbers.split(","):
                marked[int(number)].add(f"{path.parent.name}/{path.stem.removeprefix('test_')}")
    table = {}
    for line in (ROOT / "docs/reliability.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdigit():
            table[int(cells[0])] = set(cells[3].split(", "))
    assert sorted(table) == list(range(1, 41))
    assert {n: sorted(names) for n, names in table.items()} == {n: sorted(marked[n]) for n in table}
