"""Times and durations for people. In the browser, `pages.js` rewrites the times in the reader's time zone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from polos_redis.server.pages.labels import count

NO_TIME = Markup("&ndash;")

# --- durations ------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Returns a short duration: "420 ms", "3.2 s", "5 min 10 s", "2 h 5 min", "3 d 4 h"."""
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


def rough_duration(seconds: float) -> str:
    """Returns a duration in one unit, spelled out: "2 hours"."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return count(int(seconds // size), unit)
    return "less than a minute"


def remaining(seconds: float) -> str:
    """Returns the time left, to the minute: "1 h 59 min"."""
    return duration(seconds // 60 * 60) if seconds >= 60 else rough_duration(seconds)


def execution_duration(execution: Mapping[str, Any]) -> str:
    """Returns how long a finished execution took; empty for others."""
    created, finished = parse(execution["created_at"]), parse(execution["finished_at"])
    return duration((finished - created).total_seconds()) if created and finished else ""


# --- times ----------------------------------------------------------------------------------


def parse(text: Any) -> datetime | None:
    """Returns a time in ISO 8601 with a time zone; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
        return None if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def utc_text(time: datetime, *, seconds: bool = False) -> str:
    """Returns "3 Mar 2026, 14:05 UTC"."""
    clock = time.strftime("%H:%M:%S" if seconds else "%H:%M")
    return f"{time.day} {time:%b} {time.year}, {clock} UTC"


def when(iso: str | None, *, seconds: bool = False) -> Markup:
    """Returns a time with its date as HTML."""
    time = parse(iso)
    if time is None:
        return NO_TIME
    return _html(time, utc_text(time, seconds=seconds), "seconds" if seconds else "full")


def ago(iso: str | None) -> Markup:
    """Returns a past time as its age in HTML: "5 minutes ago"."""
    time = parse(iso)
    if time is None:
        return NO_TIME
    age = (datetime.now(UTC) - time).total_seconds()
    return _html(time, "just now" if age < 60 else f"{rough_duration(age)} ago", "ago")


def left(iso: str | None) -> Markup:
    """Returns a future time as the time left in HTML: "in 5 minutes"; a past time as `ago` does."""
    time = parse(iso)
    if time is None:
        return NO_TIME
    seconds = (time - datetime.now(UTC)).total_seconds()
    return _html(time, f"in {remaining(seconds)}", "left") if seconds > 0 else ago(iso)


def _html(time: datetime, text: str, style: str) -> Markup:
    return Markup('<time datetime="{}" data-style="{}" title="{}">{}</time>').format(
        time.isoformat(timespec="milliseconds"), style, utc_text(time, seconds=True), text
    )
