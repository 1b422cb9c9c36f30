"""Summarises a suspension for the templates: title, lead, facts, outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polos_redis.decisions.answer_types import verdict
from polos_redis.server.pages.declared_form import form_in_data
from polos_redis.server.pages.shown_values import ShownValue, show

MAX_TITLE = 300  # characters of a form's title in the data; a longer one is shown like other data
MAX_LEAD = 4000  # of its description
LEAD_KEYS = ("description", "question", "message", "summary", "prompt")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a suspension shows.

    `title` and `description` are those of the form that the workflow's code declares; empty without one. All
    else is the data: `data_title`, the sentence `lead`, the `context` that a form in the data has, and the
    other `facts`.
    """

    title: str
    description: str
    data_title: str
    lead: str
    context: ShownValue | None
    facts: ShownValue | None

    @property
    def has_data(self) -> bool:
        return bool(self.data_title or self.lead or self.context or self.facts)


def summary(suspension: Mapping[str, Any]) -> Summary:
    """Summarises a suspension's data. Omits only a form's fields in it, which the page shows as fields."""
    data, declared = suspension["data"], suspension.get("form") or {}
    form = form_in_data(suspension) or {}
    title, lead = _text(form, "title", MAX_TITLE), _text(form, "description", MAX_LEAD)
    rest = data
    if form and isinstance(data, dict):
        apart = {"title": title is not None, "description": lead is not None}
        apart |= {"context": True, "fields": isinstance(form.get("fields"), list)}
        left: Any = data.get("_form")
        left = _without(left, *(name for name, shown in apart.items() if shown)) if left else None
        rest = _without(data, "_form")
        if left or getattr(left, "left", 0):
            rest["_form"] = left
    if lead is None:
        lead, rest = _lead(rest)
    context = form.get("context")
    return Summary(
        str(declared.get("title") or ""),
        str(declared.get("description") or ""),
        (title or "").strip(),
        lead,
        show(context) if context not in (None, "", {}, []) else None,
        show(rest) if rest not in (None, {}) or hasattr(rest, "left") else None,
    )


def _text(form: Mapping[str, Any], name: str, longest: int) -> str | None:
    """Returns a text of a form in the data; None if it has none that is short enough to stand apart."""
    text = form.get(name)
    return text if isinstance(text, str) and len(text) <= longest else None


def _without(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns a dict, or the preview of one, without some keys."""
    found = type(data)({key: value for key, value in data.items() if key not in names})
    if getattr(data, "left", 0):
        found.left = data.left  # type: ignore[attr-defined]
    return found


def _lead(data: Any) -> tuple[str, Any]:
    """Takes a short sentence out of the data; returns it and the rest."""
    for key in LEAD_KEYS:
        text = data.get(key) if isinstance(data, dict) else None
        if isinstance(text, str) and 0 < len(text) <= 300 and "\n" not in text:
            return text, _without(data, key)
    return "", data


def outcome(suspension: Mapping[str, Any]) -> str:
    """Returns open, approved, rejected, answered, expired or closed."""
    status = str(suspension["status"])
    if status != "answered":
        return status
    approved = verdict(suspension["answer"])
    return "answered" if approved is None else "approved" if approved else "rejected"


def gist(found: Summary, limit: int = 3) -> list[tuple[str, ShownValue]]:
    """Returns the first few short facts of a suspension's data, for a row of a list."""
    pairs = found.facts.pairs if found.facts is not None else ()
    return [(label, value) for label, value in pairs if value.small and len(value.text) <= 60][:limit]
