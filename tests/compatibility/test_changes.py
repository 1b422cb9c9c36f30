"""Differences between snapshots: each is one sentence, with the step of the version that it needs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import __version__
from tests import ROOT
from tests.compatibility import snapshots
from tests.compatibility.snapshots import SURFACES, Facts, changes, read, report
from tests.harness.programs import program

names = st.sampled_from("abcdef")
facts = st.sampled_from(
    ["attribute", "keyword, default 1", "keyword, required", "positional 1, required", "null"]
)
surfaces = st.dictionaries(names, st.dictionaries(names, facts))

HAS = {"polos_redis.f": {"is": "function", "one": "keyword, required", "two": "keyword, default 1"}}


def _but(**parts: str | None) -> Facts:
    """`HAS` with other parts; None removes one."""
    changed = {name: fact for name, fact in {**HAS["polos_redis.f"], **parts}.items() if fact is not None}
    return {"polos_redis.f": changed}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({}, "polos_redis.f was removed: major"),
        ({**HAS, "polos_redis.g": {"one": "keyword, required"}}, "polos_redis.g was added: minor"),
        (_but(two=None), "polos_redis.f: two was removed (it was: keyword, default 1): major"),
        (_but(three="keyword, default 3"), "polos_redis.f: three was added (keyword, default 3): minor"),
        (_but(three="keyword, required"), "polos_redis.f: three was added (keyword, required): major"),
        (
            _but(one="keyword, default None"),
            "polos_redis.f: one changed from 'keyword, required' to 'keyword, default None': minor",
        ),
        (
            _but(one="positional 1, default None"),
            "polos_redis.f: one changed from 'keyword, required' to 'positional 1, default None': major",
        ),
        (
            _but(two="keyword, default 2"),
            "polos_redis.f: two changed from 'keyword, default 1' to 'keyword, default 2': major",
        ),
        (
            {"polos_redis.f": {**HAS["polos_redis.f"], "is": "async function"}},
            "polos_redis.f: changed from 'function' to 'async function': major",
        ),
    ],
)
def test_a_change_is_a_sentence_with_its_step(after: Facts, said: str) -> None:
    assert [str(one) for one in changes("python", HAS, after)] == [f"Python: {said}"]


def test_the_report_names_the_largest_step_and_the_command() -> None:
    after = {**_but(three="keyword, default 3", two=None)}
    *lines, end = report(changes("python", HAS, after)).splitlines()
    assert len(lines) == 2
    assert end == (
        "Together that is a major step of the version (before 1.0 always a minor one). If it is meant, "
        "note it in CHANGELOG.md and run `make snapshots`; docs/compatibility.md explains the steps."
    )
    assert snapshots.COMMAND.removeprefix("make ") in (ROOT / "Makefile").read_text().split(".PHONY")[1]


@given(surfaces)
def test_the_same_is_no_change(one: Facts) -> None:
    assert report(changes("python", one, one)) == ""


@given(surfaces, surfaces)
def test_every_difference_is_found_once(one: Facts, other: Facts) -> None:
    found = [change.sentence for change in changes("python", one, other)]
    differing: set[object] = set(one.keys() ^ other.keys())
    differing |= {
        (thing, part)
        for thing in one.keys() & other.keys()
        for part in one[thing].keys() | other[thing].keys()
        if one[thing].get(part) != other[thing].get(part)
    }
    assert len(found) == len(set(found)) == len(differing)


@given(surfaces, surfaces)
def test_what_breaks_programs_is_major(one: Facts, other: Facts) -> None:
    """A minor step leaves what programs use as it was, and lets them pass no more than they had to."""
    if any(change.step == "major" for change in changes("python", one, other)):
        return
    for thing, parts in one.items():
        assert parts.keys() <= other[thing].keys()
        for part, fact in other[thing].items():
            if fact.endswith("required"):
                assert parts.get(part) in (fact, "null")


def test_snapshots_are_written_as_they_are_read(tmp_path: Path) -> None:
    snapshots.write("python", HAS, tmp_path / "new")
    assert read("python", tmp_path / "new") == HAS
    for surface in SURFACES:
        snapshots.write(surface, read(surface), tmp_path)
        written, committed = (folder / f"{surface}.json" for folder in (tmp_path, snapshots.FOLDER))
        assert written.read_bytes() == committed.read_bytes()


def test_every_file_is_of_a_surface() -> None:
    assert {path.stem for path in snapshots.FOLDER.iterdir()} == SURFACES.keys()


# --- completeness -------------------------------------------------------------------------


def test_every_command_with_json_was_run() -> None:
    printing = {name for name, parts in read("commands").items() if "--json" in parts}
    logging = {"polos worker", "polos serve"}  # their --json is the format of the log
    assert printing - logging | {"polos export"} == read("outputs").keys()


def test_every_type_of_event_was_emitted() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "polos_redis/state/scripts").rglob("*.lua"))
    kinds = set(re.findall(r"'((?:workflow|step)_(?!id|key)[a-z]+)'", scripts))
    kinds |= {f"{word}_KEY" for word in re.findall(r"'(suspend|resume|timeout|decision)_' \.\.", scripts)}
    assert {"workflow_start", "step_finish", "suspend_KEY"} <= kinds <= read("events").keys()


def test_the_documentation_names_every_surface() -> None:
    page = (ROOT / "docs/compatibility.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    starts = {
        "python": "Python",
        "commands": "`polos`",
        "outputs": "`--json` output",
        "rest": "REST",
        "exit_codes": "exit codes",
    }
    for surface, title in SURFACES.items():
        assert any(row.startswith(starts.get(surface, title)) for row in rows), surface


# --- since a release ----------------------------------------------------------------------


def test_since_a_revision(tmp_path: Path) -> None:
    """The comparison with the last release, in a repository of its own."""
    folder = tmp_path / "tests" / "snapshots"
    folder.parent.mkdir()

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
        subprocess.run([program("git"), *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    snapshots.write("python", HAS, folder)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "a release")
    git("tag", f"v{__version__}")
    snapshots.write("python", _but(two=None), folder)
    snapshots.write("metrics", {"polos_new": {"is": "gauge"}}, folder)
    found = [str(one) for one in snapshots.since(f"v{__version__}", tmp_path, folder)]
    assert found == [
        "Python: polos_redis.f: two was removed (it was: keyword, default 1): major",
        "metrics: polos_new was added: minor",
    ]
    with pytest.raises(RuntimeError, match="v9"):
        snapshots.since("v9", tmp_path, folder)
