"""What programs use of a release is as its snapshots have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compatibility import snapshots
from tests.compatibility.exercised import exercise
from tests.compatibility.snapshots import Facts
from tests.compatibility.surfaces import DECLARED


def expect_same(found: dict[str, Facts]) -> None:
    changed = [
        change
        for surface, after in found.items()
        for change in snapshots.changes(surface, snapshots.read(surface), after)
    ]
    if changed:
        pytest.fail(snapshots.report(changed), pytrace=False)


@pytest.mark.parametrize("surface", DECLARED)
def test_what_the_code_declares_is_as_before(surface: str) -> None:
    expect_same({surface: DECLARED[surface]()})


def test_what_a_run_shows_is_as_before(one_partition: str, namespace: str, tmp_path: Path) -> None:
    expect_same(dict(exercise(one_partition, namespace, tmp_path)))
