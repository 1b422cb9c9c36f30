"""Previews of executions and suspensions, within a page's budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from polos_redis.server.pages.suspension_summary import LEAD_KEYS
from polos_redis.values.plain import readable
from polos_redis.values.preview import PreviewBudget, Stored, item_of, preview

NODES: Final = 2000  # values that one page shows, on all levels
CHARACTERS: Final = 200_000  # of their texts
MAX_FORM_BYTES: Final = 1 << 18  # of a form in the data, encoded
KEPT_OF_ANSWER: Final = ("approved", "reason")


def page_budget() -> PreviewBudget:
    """Returns what one page may show of stored values."""
    return PreviewBudget(NODES, CHARACTERS)


def suspension_preview(
    suspension: Mapping[str, Any], budget: PreviewBudget, *, nodes: int = NODES, characters: int = CHARACTERS
) -> dict[str, Any]:
    """Returns a suspension, whose values are not decoded yet, with previews of them. The data may take so
    much of the budget; the answers take a part of what is left."""
    stored, form = suspension["data"], suspension["form"]
    data = shown(stored, budget, nodes, characters, keep=LEAD_KEYS)
    default = suspension["on_timeout"]
    return {
        **suspension,
        "data": data,
        "data_form": _form_in(stored),
        "form": readable(form.data) if isinstance(form, Stored) else form,  # bounded when it is declared
        "answer": answer_preview(suspension["answer"], budget),
        "on_timeout": None if default is None else {"data": answer_preview(default["data"], budget)},
        "decisions": [
            {**one, "data": answer_preview(one["data"], budget)} for one in suspension["decisions"]
        ],
    }


def _form_in(stored: Any) -> Any:
    """Returns the form in a suspension's data; None if there is none, or if it is as large as only data can
    be."""
    packed = item_of(stored.data or b"", "_form") if isinstance(stored, Stored) else None
    return None if packed is None or len(packed) > MAX_FORM_BYTES else readable(packed)


def answer_preview(stored: Any, budget: PreviewBudget) -> Any:
    """Returns the preview of an answer. Its verdict is never left out."""
    return shown(stored, budget, 100, 10_000, keep=KEPT_OF_ANSWER)


def shown(
    stored: Any, budget: PreviewBudget, nodes: int, characters: int, *, keep: tuple[str, ...] = ()
) -> Any:
    """Returns the preview of a value, which may take so much of the budget."""
    if not isinstance(stored, Stored):
        return stored
    part = budget.part(nodes, characters)
    before = part.nodes, part.characters
    found = preview(stored.data, part, keep=keep)
    budget.spend(before[0] - part.nodes, before[1] - part.characters)
    return found
