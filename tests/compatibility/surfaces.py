"""All surfaces as they are now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.compatibility import declared, python_names
from tests.compatibility.exercised import exercise
from tests.compatibility.snapshots import Facts

DECLARED: dict[str, Callable[[], Facts]] = {
    "python": python_names.facts,
    "commands": declared.commands,
    "rest": declared.rest,
    "problems": declared.problem_types,
    "metrics": declared.metrics,
    "settings": declared.settings,
}
EXERCISED = ("outputs", "exit_codes", "events", "logs")


def all_facts(url: str, namespace: str, folder: Path) -> dict[str, Facts]:
    """The facts of every surface, by name; needs a server and an empty folder."""
    return {**{name: read() for name, read in DECLARED.items()}, **exercise(url, namespace, folder)}
