"""Plain JSON values as people read them: what a template needs to write one, however large or hostile it is.

Keys become labels, numbers are grouped, times told, lists of alike things tables; what is long is folded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from polos_redis.decisions.answer_policy import verdict
from polos_redis.server.pages import times
from polos_redis.server.pages.words import label_of

DEEPEST = 6  # levels that are laid out; what lies deeper is shown as JSON
MOST_PARTS = 1500  # of one value, all levels together
FIRST = 12  # of a list or an object, before the rest is folded
LONG = 480  # characters, before a text is folded
LINES = 10
COLUMNS = 6
MOST_TEXT = 200_000  # characters of one text or of JSON that a page shows

Kind = Literal["text", "number", "none", "time", "date", "link", "code", "list", "map", "table"]

# What turns the direction of the text after it, and so can make 001 of 100.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NAMES_A_NUMBER = re.compile(
    r"(^|_)(id|number|no|year|zip|postcode|phone|code|port|account|iban)$|Id$|Number$"
)
_ORDERED = re.compile(r"(^|_)(steps|stages|actions|order|plan|phases)$")


@dataclass(frozen=True, slots=True)
class Shown:
    """A value laid out. Parts are the items of a list or the (label, value) of a map; `first` of them are
    shown at once. A table has `columns` and `rows`. `folded` text is shown by its beginning."""

    kind: Kind
    text: str = ""
    iso: str = ""
    items: Sequence[Shown] = ()
    pairs: Sequence[tuple[str, Shown]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Shown]] = ()
    ordered: bool = False
    first: int = FIRST
    folded: bool = False

    @property
    def small(self) -> bool:
        """Whether it fits beside its label."""
        if self.kind in ("list", "map", "table", "code"):
            return False
        return not self.folded and "\n" not in self.text and len(self.text) <= 120

    @property
    def beginning(self) -> str:
        line = self.text.strip().split("\n", 1)[0]
        return line[:160].rstrip(" .") + "…"

    @property
    def compact(self) -> bool:
        """Whether it is a list of a few letters each, that may stand side by side."""
        return not self.ordered and all(one.small and len(one.text) <= 24 for one in self.items)


@dataclass(slots=True)
class _Budget:
    left: int = field(default=MOST_PARTS)


def show(value: Any, key: str = "") -> Shown:
    """A value laid out; `key` is the name it goes by."""
    return _show(value, key, 0, _Budget())


def as_json(value: Any) -> str:
    """The value as indented JSON, cut where it is very long."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, TypeError, RecursionError):
        text = repr(value)
    return visible(text[:MOST_TEXT]) + ("\n… (cut here)" if len(text) > MOST_TEXT else "")


def visible(text: str) -> str:
    """A text in which nothing hides: what controls, or turns the direction, is written out."""
    text = _TURNING.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _show(value: Any, key: str, depth: int, budget: _Budget) -> Shown:
    budget.left -= 1
    if isinstance(value, dict | list) and value and (depth >= DEEPEST or budget.left <= 0):
        return Shown("code", as_json(value), folded=True)
    if isinstance(value, dict):
        if not value:
            return Shown("none", "nothing")
        pairs = [
            (visible(label_of(str(name))), _show(one, str(name), depth + 1, budget))
            for name, one in value.items()
        ]
        return Shown("map", pairs=pairs)
    if isinstance(value, list):
        if not value:
            return Shown("none", "none")
        return _table(value, depth, budget) or Shown(
            "list",
            items=[_show(one, key, depth + 1, budget) for one in value],
            ordered=bool(_ORDERED.search(key.lower())) and len(value) > 1,
        )
    return _scalar(value, key)


def _table(value: list[Any], depth: int, budget: _Budget) -> Shown | None:
    """A list of objects that are alike, and have no parts."""
    if len(value) < 2 or not all(isinstance(one, dict) and one for one in value):
        return None
    columns = list(dict.fromkeys(str(name) for one in value for name in one))
    fields = sum(len(one) for one in value)
    if len(columns) > COLUMNS or fields * 2 < len(columns) * len(value):
        return None
    if any(isinstance(field, dict | list) and field for one in value for field in one.values()):
        return None
    missing = Shown("none", "\N{EN DASH}")
    rows = [
        [_show(one[name], name, depth + 2, budget) if name in one else missing for name in columns]
        for one in value
    ]
    return Shown("table", columns=[visible(label_of(name)) for name in columns], rows=rows)


def _scalar(value: Any, key: str) -> Shown:
    if value is None:
        return Shown("none", "none")
    if isinstance(value, bool):
        return Shown("text", "Yes" if value else "No")
    if isinstance(value, int | float):
        return Shown("number", number(value, key))
    text = str(value)
    if _MOMENT.fullmatch(text) and (moment := times.parse(text)) is not None:
        return Shown("time", times.written(moment), iso=text)
    if _DAY.fullmatch(text) and (day := _day(text)):
        return Shown("date", day, iso=text)
    if _is_link(text):
        return Shown("link", text)
    if not text.strip():
        return Shown("none", "empty")
    cut = visible(text[:MOST_TEXT]) + (" … (cut here)" if len(text) > MOST_TEXT else "")
    return Shown("text", cut, folded=len(text) > LONG or text.count("\n") >= LINES)


def number(value: int | float, key: str = "") -> str:
    """A number with its thousands apart, unless its name says that it is one to call something by."""
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
    """Whether it is safe to make a link of: a web address that shows where it leads."""
    if not text.startswith(("https://", "http://")) or len(text) > 2000 or not text.isascii():
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.hostname) and "@" not in parts.netloc and not re.search(r"\s", text)


LEADS = ("description", "question", "message", "summary", "prompt")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a suspension asks, told: a title, a sentence under it, the context its form gives, the rest."""

    title: str
    lead: str
    context: Shown | None
    facts: Shown | None


def summary(step_key: str, data: Any) -> Summary:
    """What a suspension shows, laid out. Only the form's fields and `_approval_url` are left out."""
    form = data.get("_form") if isinstance(data, dict) else None
    form = form if isinstance(form, dict) else {}
    rest = data
    if isinstance(data, dict):
        rest = {name: one for name, one in data.items() if name not in ("_approval_url", "_form")}
        if data.get("_form") is not None and not isinstance(data["_form"], dict):
            rest["_form"] = data["_form"]
    lead = form.get("description")
    if not isinstance(lead, str):
        lead = ""
        for name in LEADS:
            told = rest.get(name) if isinstance(rest, dict) else None
            if isinstance(told, str) and 0 < len(told) <= 300 and "\n" not in told:
                lead = told
                rest = {key: one for key, one in rest.items() if key != name}
                break
    title = form.get("title")
    title = title if isinstance(title, str) and title.strip() else label_of(step_key)
    context = form.get("context")
    return Summary(
        visible(title)[:300],
        visible(lead)[:4000],
        show(context) if context not in (None, "", {}, []) else None,
        show(rest) if rest not in (None, {}) else None,
    )


def outcome(suspension: Mapping[str, Any]) -> str:
    """open, approved, rejected, answered, expired or closed."""
    status = str(suspension["status"])
    if status != "answered":
        return status
    approved = verdict(suspension["answer"])
    return "answered" if approved is None else "approved" if approved else "rejected"


def gist(data: Any, most: int = 3) -> list[tuple[str, Shown]]:
    """The first few short facts of what is shown, for a line in a list."""
    facts = summary("", data).facts
    pairs = facts.pairs if facts is not None else ()
    return [(label, one) for label, one in pairs if one.small and len(one.text) <= 60][:most]
