"""Summarises a suspension for the templates: title, lead, facts, outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polos_redis.decisions.answer_types import verdict
from polos_redis.redaction import APPROVAL_URL
from polos_redis.server.pages.declared_form import form_in_data
from polos_redis.server.pages.shown_values import ShownValue, show

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
    """Summarises a suspension's data. Omits only the form's fields and `_approval_url`."""
    data, declared = suspension["data"], suspension.get("form")
    form = form_in_data(suspension) or {}
    rest = data
    if isinstance(data, dict):
        rest = _without(data, APPROVAL_URL, *(["_form"] if form else []))
    lead, title = form.get("description"), form.get("title")
    if not isinstance(lead, str):
        lead, rest = _lead(rest)
    context = form.get("context")
    return Summary(
        str((declared or {}).get("title") or "")[:300],
        str((declared or {}).get("description") or "")[:4000],
        title.strip()[:300] if isinstance(title, str) else "",
        lead[:4000],
        show(context) if context not in (None, "", {}, []) else None,
        show(rest) if rest not in (None, {}) or hasattr(rest, "left") else None,
    )


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
