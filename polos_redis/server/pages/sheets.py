"""What stands in a form: texts by HTML name, as a browser sends them, and complaints.

HTML names are JSON pointers below "answer", so that any property name will do; complaints go by paths with
dots, as those of `InvalidAnswerError` do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

MOST_ROWS: Final = 200  # of one list


class Sheet:
    """What stands in a form: texts by HTML name, and complaints by path ("" for the whole)."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.texts: dict[str, list[str]] = {}
        for name, text in pairs:
            self.texts.setdefault(name, []).append(text)
        self.complaints: dict[str, str] = {}
        self.focus = ""  # the HTML name of the field to go to

    def get(self, name: str) -> str:
        """The text under a name; empty where there is none."""
        return self.texts.get(name, [""])[-1]

    def all(self, name: str) -> list[str]:
        return self.texts.get(name, [])

    def put(self, name: str, *texts: str) -> None:
        self.texts[name] = list(texts)

    def complain(self, path: str, message: str) -> None:
        """The first complaint about a field stands."""
        self.complaints.setdefault(path, message)

    @property
    def zone(self) -> tzinfo:
        """The time zone that times without one were typed in: the browser's, UTC where it told none."""
        return _zone(self.get("zone"))

    def rows(self, name: str) -> list[int]:
        """Which rows of a list there are, in order."""
        numbers = [int(text) for text in self.all(f"{name}#") if text.isascii() and text.isdigit()]
        return list(dict.fromkeys(numbers))[:MOST_ROWS]

    def add_row(self, name: str) -> int:
        rows = self.rows(name)
        new = max(rows, default=-1) + 1
        if len(rows) < MOST_ROWS:
            self.put(f"{name}#", *map(str, [*rows, new]))
        return new

    def remove_row(self, row: str) -> None:
        name, _, number = row.rpartition("/")
        self.put(f"{name}#", *(str(one) for one in self.rows(name) if str(one) != number))


def _zone(name: str) -> tzinfo:
    if name and re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", name):
        try:
            return ZoneInfo(name)
        except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError where there are no data at all
            return UTC
        except KeyError:
            return UTC
    return UTC
