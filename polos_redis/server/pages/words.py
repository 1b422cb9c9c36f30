"""How things are told to people: labels, spans of time, counts."""

from __future__ import annotations

import re

_ACRONYMS = {
    "id",
    "url",
    "uri",
    "ip",
    "api",
    "sql",
    "iban",
    "vat",
    "pdf",
    "json",
    "html",
    "usd",
    "eur",
    "gbp",
    "csv",
}
_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])")


def label_of(key: str) -> str:
    """A name of code as people read it: "estimated_cost" and "estimatedCost" as "Estimated cost". What does
    not look like one (it has blanks, say) stays as it is."""
    if not re.fullmatch(r"\w+([-.]\w+)*", key):
        return key
    words = [word for part in re.split(r"[-_.]+", key) for word in _BORDER.split(part) if word]
    told = [word.upper() if word.lower() in _ACRONYMS else _lower(word) for word in words]
    if not told:
        return key
    return told[0][:1].upper() + told[0][1:] + "".join(f" {word}" for word in told[1:])


def _lower(word: str) -> str:
    return word if word.isupper() and len(word) > 1 else word.lower()


def span(seconds: float) -> str:
    """A length of time, short: "420 ms", "3.2 s", "5 min 10 s", "2 h 5 min", "3 d 4 h"."""
    seconds = max(0.0, seconds)
    if seconds < 0.0005:
        return "0 ms"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms".replace(".0 ", " ")
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    whole = round(seconds)
    for size, unit, smaller, next_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size:,} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{whole} s"


def about(seconds: float) -> str:
    """A length of time in one unit and in words, as one says it: "2 hours"."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return count(int(seconds // size), unit)
    return "less than a minute"


def until(seconds: float) -> str:
    """A length of time to come, to the minute: "1 h 59 min"."""
    return span(seconds // 60 * 60) if seconds >= 60 else about(seconds)


def count(number: int, noun: str, plural: str = "") -> str:
    """ "1 approval", "1,204 approvals"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


STATES = {
    "queued": "Running",
    "waiting": "Waiting",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
}


def state(status: str) -> str:
    """An execution's status in one word. One that is queued runs, or will as soon as a worker is free."""
    return STATES.get(status, status.capitalize())
