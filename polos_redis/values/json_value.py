"""Marker for values that came as JSON and whose type is not known yet.

JSON has no tuples, dates or enum members: a strict type accepts their JSON form from JSON, but not from
Python. So whoever validates a value later has to know how it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A plain JSON value as it was read: None, bool, int, float, str, and lists and dicts of these."""

    value: Any


def from_json(value: Any) -> Any:
    """The value marked as JSON; None, which stands for no value at all, unchanged."""
    return None if value is None else JsonValue(value)
