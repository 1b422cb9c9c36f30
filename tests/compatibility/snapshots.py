"""Snapshots of the public surfaces, the differences between two of them, and the semver step of each.

A surface is a table of things that programs use (a function, a command, an event type), each with its parts
(a parameter, an option, a field) and a fact about each part. `tests/compatibility/snapshots/` has one JSON
file per surface, with one line per part.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests import ROOT

FOLDER = Path(__file__).parent / "snapshots"
COMMAND = "make snapshots"

Facts = Mapping[str, Mapping[str, str]]  # thing -> part -> fact
Step = Literal["major", "minor"]

THING = "is"  # the part that says what the thing itself is: no Python name, option or field has this name
REQUIRED = "required"  # how the fact of a part ends that programs must pass
NOTHING = "null"  # the fact of a field that has had no value yet

SURFACES = {  # file -> title
    "python": "Python",
    "commands": "command line",
    "outputs": "output of commands",
    "exit_codes": "exit codes",
    "rest": "REST",
    "problems": "problems",
    "events": "events",
    "logs": "logs",
    "metrics": "metrics",
    "settings": "settings",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between two snapshots of a surface, as a sentence, and the semver step it needs."""

    surface: str
    sentence: str
    step: Step

    def __str__(self) -> str:
        return f"{SURFACES[self.surface]}: {self.sentence}: {self.step}"


def changes(surface: str, before: Facts, after: Facts) -> Iterator[Change]:
    """Yields every difference. What is gone or differs is a major step, what is new a minor one; but it is
    major if programs must pass it, and minor if they no longer need to."""
    for thing in sorted(before.keys() | after.keys()):
        old, new = before.get(thing), after.get(thing)
        if new is None:
            yield Change(surface, f"{thing} was removed", "major")
        elif old is None:
            yield Change(surface, f"{thing} was added", "minor")
        else:
            yield from _of_parts(surface, thing, old, new)


def _of_parts(surface: str, thing: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for part in sorted(old.keys() | new.keys()):
        was, is_now = old.get(part), new.get(part)
        if was == is_now:
            continue
        if is_now is None:
            yield Change(surface, f"{thing}: {part} was removed (it was: {was})", "major")
        elif was is None:
            step: Step = "major" if is_now.endswith(REQUIRED) else "minor"
            yield Change(surface, f"{thing}: {part} was added ({is_now})", step)
        else:
            eased = was == NOTHING or (
                was.endswith(REQUIRED) and is_now.startswith(was.removesuffix(REQUIRED))
            )
            changed = "changed" if part == THING else f"{part} changed"
            yield Change(
                surface, f"{thing}: {changed} from {was!r} to {is_now!r}", "minor" if eased else "major"
            )


def report(found: Iterable[Change]) -> str:
    """The changes, one a line, the step that they need together, and what to do; "" without any."""
    found = list(found)
    if not found:
        return ""
    step = "major" if any(one.step == "major" for one in found) else "minor"
    end = (
        f"Together that is a {step} step of the version (before 1.0 always a minor one). If it is meant, "
        f"note it in CHANGELOG.md and run `{COMMAND}`; docs/compatibility.md explains the steps."
    )
    return "\n".join((*map(str, found), end))


# --- files ------------------------------------------------------------------------------


def read(surface: str, folder: Path = FOLDER) -> Facts:
    """A surface as it was written last; empty if it never was."""
    path = folder / f"{surface}.json"
    return parse(path.read_text("utf-8")) if path.exists() else {}


def parse(text: str) -> Facts:
    facts: Facts = json.loads(text)
    return facts


def write(surface: str, facts: Facts, folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    ordered = {thing: dict(sorted(facts[thing].items())) for thing in sorted(facts)}
    text = json.dumps(ordered, indent=1, ensure_ascii=False)
    (folder / f"{surface}.json").write_text(text + "\n", "utf-8")


def since(revision: str, root: Path = ROOT, folder: Path = FOLDER) -> list[Change]:
    """The changes from a git revision to the snapshots in a folder. Raises `RuntimeError` with git's
    message."""
    found: list[Change] = []
    listed = _git(
        root, "ls-tree", "-r", "--name-only", "--full-tree", revision, "--", f"{_path(root, folder)}/"
    )
    for surface in SURFACES:
        name = f"{_path(root, folder)}/{surface}.json"
        before = parse(_git(root, "show", f"{revision}:{name}")) if name in listed.splitlines() else {}
        found += changes(surface, before, read(surface, folder))
    return found


def _path(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout
