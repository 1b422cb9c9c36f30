"""Lays out plain JSON values for the templates, however large or hostile the values are.

Keys become labels, numbers get thousands separators, times are formatted, lists of similar objects become
tables, and long values are folded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from polos_redis.server.pages import times
from polos_redis.server.pages.labels import label_of

MAX_DEPTH = 6  # levels laid out; deeper values are shown as JSON
MAX_PARTS = 1500  # of one value, on all levels
UNFOLDED_PARTS = 12  # of a list or an object; the rest is folded
UNFOLDED_CHARACTERS = 480  # of a text
UNFOLDED_LINES = 10
MAX_COLUMNS = 6  # of a table
MAX_CHARACTERS = 200_000  # of one text, or of JSON

Kind = Literal["text", "number", "none", "time", "date", "link", "code", "list", "map", "table"]

# Controls of the text direction, which can make "100" look like "001".
_BIDI_CONTROL = re.compile("[\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NAMES_A_NUMBER = re.compile(
    r"(^|_)(id|number|no|year|zip|postcode|phone|code|port|account|iban)$|Id$|Number$"
)
_ORDERED = re.compile(r"(^|_)(steps|stages|actions|order|plan|phases)$")


@dataclass(frozen=True, slots=True)
class ShownValue:
    """A value laid out. A list has `items`, a map `pairs` of label and value, a table `columns` and `rows`;
    the first `unfolded` of them are visible. Of a `folded` text, the `beginning` is visible."""

    kind: Kind
    text: str = ""
    iso: str = ""
    items: Sequence[ShownValue] = ()
    pairs: Sequence[tuple[str, ShownValue]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[ShownValue]] = ()
    ordered: bool = False
    unfolded: int = UNFOLDED_PARTS
    folded: bool = False

    @property
    def small(self) -> bool:
        """Whether the value fits beside its label."""
        if self.kind in ("list", "map", "table", "code"):
            return False
        return not self.folded and "\n" not in self.text and len(self.text) <= 120

    @property
    def beginning(self) -> str:
        line = self.text.strip().split("\n", 1)[0]
        return line[:160].rstrip(" .") + "…"

    @property
    def compact(self) -> bool:
        """Whether the items of a list are short enough to stand side by side."""
        return not self.ordered and all(one.small and len(one.text) <= 24 for one in self.items)


@dataclass(slots=True)
class _Budget:
    parts: int = field(default=MAX_PARTS)


def show(value: Any, key: str = "") -> ShownValue:
    """Lays out a value; its `key` decides how numbers and lists are shown."""
    return _show(value, key, 0, _Budget())


def as_json(value: Any) -> str:
    """Returns a value as indented JSON, truncated if it is very long."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, TypeError, RecursionError):
        text = repr(value)
    return visible(text[:MAX_CHARACTERS]) + ("\n… (truncated)" if len(text) > MAX_CHARACTERS else "")


def visible(text: str) -> str:
    """Returns a text with its control characters, also those of direction, made visible."""
    text = _BIDI_CONTROL.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _show(value: Any, key: str, depth: int, budget: _Budget) -> ShownValue:
    budget.parts -= 1
    if isinstance(value, dict | list) and value and (depth >= MAX_DEPTH or budget.parts <= 0):
        return ShownValue("code", as_json(value), folded=True)
    if isinstance(value, dict):
        if not value:
            return ShownValue("none", "nothing")
        pairs = [
            (visible(label_of(str(name))), _show(one, str(name), depth + 1, budget))
            for name, one in value.items()
        ]
        return ShownValue("map", pairs=pairs)
    if isinstance(value, list):
        if not value:
            return ShownValue("none", "none")
        return _table(value, depth, budget) or ShownValue(
            "list",
            items=[_show(one, key, depth + 1, budget) for one in value],
            ordered=bool(_ORDERED.search(key.lower())) and len(value) > 1,
        )
    return _scalar(value, key)


def _table(value: list[Any], depth: int, budget: _Budget) -> ShownValue | None:
    """Lays out a list of similar flat objects as a table; returns None for other lists."""
    if len(value) < 2 or not all(isinstance(one, dict) and one for one in value):
        return None
    columns = list(dict.fromkeys(str(name) for one in value for name in one))
    fields = sum(len(one) for one in value)
    if len(columns) > MAX_COLUMNS or fields * 2 < len(columns) * len(value):
        return None
    if any(isinstance(field, dict | list) and field for one in value for field in one.values()):
        return None
    missing = ShownValue("none", "\N{EN DASH}")
    rows = [
        [_show(one[name], name, depth + 2, budget) if name in one else missing for name in columns]
        for one in value
    ]
    return ShownValue("table", columns=[visible(label_of(name)) for name in columns], rows=rows)


def _scalar(value: Any, key: str) -> ShownValue:
    if value is None:
        return ShownValue("none", "none")
    if isinstance(value, bool):
        return ShownValue("text", "Yes" if value else "No")
    if isinstance(value, int | float):
        return ShownValue("number", number(value, key))
    text = str(value)
    if _TIME.fullmatch(text) and (time := times.parse(text)) is not None:
        return ShownValue("time", times.utc_text(time), iso=text)
    if _DAY.fullmatch(text) and (day := _day(text)):
        return ShownValue("date", day, iso=text)
    if _is_link(text):
        return ShownValue("link", text)
    if not text.strip():
        return ShownValue("none", "empty")
    shown = visible(text[:MAX_CHARACTERS]) + (" … (truncated)" if len(text) > MAX_CHARACTERS else "")
    return ShownValue(
        "text", shown, folded=len(text) > UNFOLDED_CHARACTERS or text.count("\n") >= UNFOLDED_LINES
    )


def number(value: int | float, key: str = "") -> str:
    """Returns a number with thousands separators, unless its key says that it identifies something."""
    if _NAMES_A_NUMBER.search(key):
        return str(value)
    if isinstance(value, float):
        return f"{value:,}".removesuffix(".0")
    return f"{value:,}" if abs(value) >= 10_000 else str(value)


def _day(text: str) -> str:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return ""
    return f"{day.day} {datetime(day.year, day.month, 1):%B} {day.year}"  # noqa: DTZ001


def _is_link(text: str) -> bool:
    """Whether a text is a web address that shows where it leads, so that linking it is safe."""
    if not text.startswith(("https://", "http://")) or len(text) > 2000 or not text.isascii():
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.hostname) and "@" not in parts.netloc and not re.search(r"\s", text)
