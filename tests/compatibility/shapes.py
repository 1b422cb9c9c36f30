"""The shape of JSON values: which keys there are, and the types of their values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tests.compatibility.snapshots import THING

# Keys under which there is whatever a user's code or Redis has.
FREE = {
    *(
        "answer",
        "data",
        "event",
        "form",
        "input",
        "journal",
        "progress",
        "reject_schema",
        "result",
        "schema",
        "state",
    ),
    "value",
}


def shape(values: Iterable[Any], *, free: Iterable[str] = FREE) -> dict[str, str]:
    """The paths in some values and the types found there. `a.b[]` is an item of the list `b` in the object
    `a`. Null counts only where there is nothing else: when a field is null, its documentation says."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for value in values:
        _add(found, "", value, frozenset(free))
    return {path or THING: " or ".join(sorted(kinds - {"null"} or kinds)) for path, kinds in found.items()}


def _add(found: dict[str, set[str]], path: str, value: Any, free: frozenset[str]) -> None:
    if path.rpartition(".")[2] in free:
        found[path].add("any")
        return
    found[path].add(_kind(value))
    if isinstance(value, dict):
        for key, one in value.items():
            _add(found, f"{path}.{key}" if path else key, one, free)
    elif isinstance(value, list):
        for one in value:
            _add(found, f"{path}[]", one, free)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "time" if _is_time(value) else "text"
    return "list" if isinstance(value, list) else "object"


def _is_time(text: str) -> bool:
    try:
        return len(text) >= 20 and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
