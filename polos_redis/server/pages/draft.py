"""Drafts of an answer: the texts in a form's controls, as a browser sends them, and the errors found in them.

The HTML name of a control is a JSON pointer below "answer", so that every property name works. Errors are
keyed by dotted path, as in `InvalidAnswerError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

MAX_ROWS: Final = 200  # of one list
MAX_DIGITS: Final = 6  # of a row's or a variant's number


class Draft:
    """Texts by HTML name and errors by path ("" for the whole answer)."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.texts: dict[str, list[str]] = {}
        for name, text in pairs:
            self.texts.setdefault(name, []).append(text)
        self.errors: dict[str, str] = {}
        self.focus = ""  # the HTML name of the control to focus
        self.row_fields: dict[str, list[Any]] = {}  # of lists, until their rows change

    def get(self, name: str) -> str:
        """Returns the last text of a control; empty if there is none."""
        texts = self.texts.get(name)
        return texts[-1] if texts else ""

    def all(self, name: str) -> list[str]:
        return self.texts.get(name, [])

    def put(self, name: str, *texts: str) -> None:
        self.texts[name] = list(texts)
        if name.endswith(("#", "=")):
            self.row_fields.clear()

    def add_error(self, path: str, message: str) -> None:
        """Adds an error. The first one at a path stays."""
        self.errors.setdefault(path, message)

    @property
    def size(self) -> int:
        """The size of all texts in HTML, in bytes; at most."""
        return sum(_html_bytes(text) for texts in self.texts.values() for text in texts)

    @property
    def zone(self) -> tzinfo:
        """The browser's time zone, for times typed without one; UTC if unknown."""
        return _zone(self.get("zone"))

    def rows(self, name: str) -> list[int]:
        """Returns the numbers of a list's rows, in order."""
        numbers = [number for text in self.all(f"{name}#") if (number := number_of(text)) >= 0]
        return list(dict.fromkeys(numbers))[:MAX_ROWS]

    def add_row(self, name: str) -> int:
        rows = self.rows(name)
        new = max(rows, default=-1) + 1
        if len(rows) < MAX_ROWS:
            self.put(f"{name}#", *map(str, [*rows, new]))
        return new

    def remove_row(self, row: str) -> None:
        name, _, number = row.rpartition("/")
        self.put(f"{name}#", *(str(other) for other in self.rows(name) if str(other) != number))


def _html_bytes(text: str) -> int:
    escaped = sum(map(text.count, "<>&\"'"))
    return len(text.encode("utf-8", "surrogatepass")) + 4 * escaped


def number_of(text: str) -> int:
    """Returns the number of a row or a variant; -1 for any other text."""
    return int(text) if len(text) <= MAX_DIGITS and text.isascii() and text.isdigit() else -1


def _zone(name: str) -> tzinfo:
    if name and re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", name):
        try:
            return ZoneInfo(name)
        except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
            return UTC
    return UTC
