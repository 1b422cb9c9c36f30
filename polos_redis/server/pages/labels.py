"""Labels for people: names from code, counts, statuses."""

from __future__ import annotations

import re

_ACRONYMS = frozenset(
    ("id", "url", "uri", "ip", "api", "sql", "iban", "vat", "pdf", "json", "html", "usd", "eur", "gbp", "csv")
)
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])")


def is_identifier(name: str) -> bool:
    """Whether a name is one word, as programs use them: no sentence could be made of it."""
    return re.fullmatch(r"\w+([-.]\w+)*", name) is not None


def label_of(name: str) -> str:
    """Returns an identifier as a label: "Estimated cost" for "estimated_cost" and "estimatedCost". Returns
    any other text (with spaces, say) unchanged."""
    if not is_identifier(name):
        return name
    parts = [word for part in re.split(r"[-_.]+", name) for word in _WORD_BOUNDARY.split(part) if word]
    if not parts:
        return name
    words = [word.upper() if word.lower() in _ACRONYMS else _lower(word) for word in parts]
    return words[0][:1].upper() + words[0][1:] + "".join(f" {word}" for word in words[1:])


def _lower(word: str) -> str:
    return word if word.isupper() and len(word) > 1 else word.lower()


def cut(text: str, longest: int) -> str:
    """Returns a text of at most `longest` characters, ending in "…" if it was cut."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def count(number: int, noun: str, plural: str = "") -> str:
    """Returns "1 approval" or "1,204 approvals"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def status_label(status: str) -> str:
    """Returns an execution's status as a label."""
    return status.capitalize()
