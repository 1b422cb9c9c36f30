"""Summarises a suspension for the templates: title, lead, facts, outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polos_redis.decisions.answer_types import verdict
from polos_redis.server.pages.labels import label_of
from polos_redis.server.pages.shown_values import ShownValue, show, visible

LEAD_KEYS = ("description", "question", "message", "summary", "prompt")


@dataclass(frozen=True, slots=True)
class Summary:
    """A suspension's title, the sentence below it, the context its form declares, and its other data."""

    title: str
    lead: str
    context: ShownValue | None
    facts: ShownValue | None


def summary(step_key: str, data: Any) -> Summary:
    """Summarises a suspension's data. Omits only the form's fields and `_approval_url`."""
    form = data.get("_form") if isinstance(data, dict) else None
    form = form if isinstance(form, dict) else {}
    rest = data
    if isinstance(data, dict):
        rest = {key: value for key, value in data.items() if key not in ("_approval_url", "_form")}
        if data.get("_form") is not None and not isinstance(data["_form"], dict):
            rest["_form"] = data["_form"]
    lead = form.get("description")
    if not isinstance(lead, str):
        lead, rest = _lead(rest)
    title = form.get("title")
    title = title if isinstance(title, str) and title.strip() else label_of(step_key)
    context = form.get("context")
    return Summary(
        visible(title)[:300],
        visible(lead)[:4000],
        show(context) if context not in (None, "", {}, []) else None,
        show(rest) if rest not in (None, {}) else None,
    )


def _lead(data: Any) -> tuple[str, Any]:
    """Takes a short sentence out of the data; returns it and the rest."""
    for key in LEAD_KEYS:
        text = data.get(key) if isinstance(data, dict) else None
        if isinstance(text, str) and 0 < len(text) <= 300 and "\n" not in text:
            return text, {other: value for other, value in data.items() if other != key}
    return "", data


def outcome(suspension: Mapping[str, Any]) -> str:
    """Returns open, approved, rejected, answered, expired or closed."""
    status = str(suspension["status"])
    if status != "answered":
        return status
    approved = verdict(suspension["answer"])
    return "answered" if approved is None else "approved" if approved else "rejected"


def gist(data: Any, limit: int = 3) -> list[tuple[str, ShownValue]]:
    """Returns the first few short facts of a suspension's data, for a row of a list."""
    facts = summary("", data).facts
    pairs = facts.pairs if facts is not None else ()
    return [(label, value) for label, value in pairs if value.small and len(value.text) <= 60][:limit]
