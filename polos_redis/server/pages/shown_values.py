"""Lays out plain JSON values, or previews of them, for the templates, however large or hostile they are.

Keys become labels, numbers get thousands separators, times are formatted, lists of similar objects become
tables, and long values are folded. What is left out is counted: `ShownValue.left`. The texts are those of the
data; the templates escape what is invisible in them.
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
MAX_PARTS = 2000  # of one value, on all levels
UNFOLDED_PARTS = 12  # of a list or an object; the rest is folded
UNFOLDED_CHARACTERS = 480  # of a text
UNFOLDED_LINES = 10
MAX_COLUMNS = 6  # of a table
MAX_CHARACTERS = 200_000  # of one text
MAX_JSON = 20_000  # characters of a value as JSON; a longer one is a link

Kind = Literal["text", "number", "none", "time", "date", "link", "code", "list", "map", "table"]

_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NAMES_A_NUMBER = re.compile(
    r"(^|_)(id|number|no|year|zip|postcode|phone|code|port|account|iban)$|Id$|Number$"
)
_ORDERED = re.compile(r"(^|_)(steps|stages|actions|order|plan|phases)$")


@dataclass(frozen=True, slots=True)
class ShownValue:
    """A value laid out. A list has `items`, a map `pairs` of label and value, a table `columns` and `rows`;
    the first `unfolded` of them are visible. Of a `folded` text, the `beginning` is visible. `left` items or
    characters are left out."""

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
    left: int = 0

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
    """Returns a value as indented JSON; empty if it is long, or only the beginning of a value."""
    if _is_partial(value):
        return ""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, TypeError, RecursionError):
        return ""
    return text if len(text) <= MAX_JSON else ""


def _left(value: Any) -> int:
    """The number of items or characters that a preview leaves out here."""
    left: int = getattr(value, "left", 0)
    return left


def _is_partial(value: Any) -> bool:
    """Whether a preview leaves anything out, or a value is too large to be shown in full."""
    stack, parts = [value], MAX_PARTS
    while stack:
        one = stack.pop()
        parts -= 1
        if parts < 0 or _left(one):
            return True
        if isinstance(one, dict):
            if any(map(_left, one)):
                return True
            stack += one.values()
        elif isinstance(one, list):
            stack += one
    return False


def _show(value: Any, key: str, depth: int, budget: _Budget) -> ShownValue:
    budget.parts -= 1
    left = _left(value)
    if isinstance(value, dict | list) and (depth >= MAX_DEPTH or (value and budget.parts <= 0)):
        return ShownValue("code", as_json(value), folded=True, left=left + len(value))
    if isinstance(value, dict):
        if not value and not left:
            return ShownValue("none", "nothing")
        pairs = []
        for name, one in value.items():
            if budget.parts <= 0:
                break
            label = label_of(str(name)) + ("…" if _left(name) else "")
            pairs.append((label, _show(one, str(name), depth + 1, budget)))
        return ShownValue("map", pairs=pairs, left=left + len(value) - len(pairs))
    if isinstance(value, list):
        if not value and not left:
            return ShownValue("none", "none")
        table = _table(value, depth, budget)
        if table is not None:
            return table
        items = []
        for one in value:
            if budget.parts <= 0:
                break
            items.append(_show(one, key, depth + 1, budget))
        return ShownValue(
            "list",
            items=items,
            ordered=bool(_ORDERED.search(key.lower())) and len(value) > 1,
            left=left + len(value) - len(items),
        )
    return _scalar(value, key)


def _table(value: list[Any], depth: int, budget: _Budget) -> ShownValue | None:
    """Lays out a list of similar flat objects as a table; returns None for other lists."""
    if len(value) < 2 or not all(isinstance(one, dict) and one and not _left(one) for one in value):
        return None
    columns = list(dict.fromkeys(str(name) for one in value for name in one))
    fields = sum(len(one) for one in value)
    if len(columns) > MAX_COLUMNS or fields * 2 < len(columns) * len(value):
        return None
    if any(isinstance(field, dict | list) and field for one in value for field in one.values()):
        return None
    missing = ShownValue("none", "\N{EN DASH}")
    rows = []
    for one in value:
        if budget.parts <= 0:
            break
        budget.parts -= sum(name not in one for name in columns)
        rows.append(
            [_show(one[name], name, depth + 2, budget) if name in one else missing for name in columns]
        )
    left = _left(value) + len(value) - len(rows)
    return ShownValue("table", columns=list(map(label_of, columns)), rows=rows, left=left)


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
    return ShownValue(
        "text",
        text[:MAX_CHARACTERS],
        folded=len(text) > UNFOLDED_CHARACTERS or text.count("\n") >= UNFOLDED_LINES,
        left=_left(value) + max(0, len(text) - MAX_CHARACTERS),
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
