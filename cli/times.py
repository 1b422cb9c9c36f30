"""Times and durations as text for people: on a terminal with their distance from now by this machine's
clock."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from polos_redis.executions.statuses import Moment, Part
from polos_redis.values import times


def iso(time: datetime | None) -> str | None:
    """Returns a time in ISO 8601 with milliseconds, as in JSON output."""
    return None if time is None else time.isoformat(timespec="milliseconds")


def utc(time: str | datetime | None) -> str:
    """Returns a time (ISO 8601 if text) in UTC, to the second; "-" for None."""
    if time is None:
        return "-"
    return times.utc(time)


def ago(time: str | datetime | None) -> str:
    """Returns a time as tables show it: "3 min ago" or "in 2 h" on a terminal, elsewhere as `utc`."""
    if time is None or not sys.stdout.isatty():
        return utc(time)
    seconds = _left(time)
    if abs(seconds) < 1:
        return "now"
    return f"in {rough(seconds)}" if seconds > 0 else f"{rough(-seconds)} ago"


def dated(time: str | datetime | None) -> str:
    """Returns a time as reports show it: as `utc`, and on a terminal as `ago` in parentheses."""
    return f"{utc(time)} ({ago(time)})" if time is not None and sys.stdout.isatty() else utc(time)


def until(time: str | None) -> str:
    """Returns a deadline and the time left."""
    if time is None:
        return "without a deadline"
    left = _left(time)
    return f"until {utc(time)} ({f'in {duration(left)}' if left > 0 else 'due now'})"


def since(time: str) -> str:
    """Returns a past time and its age."""
    return f"since {utc(time)} ({duration(max(0.0, -_left(time)))})"


def in_words(parts: Sequence[Part], *, brief: bool = False) -> str:
    """Returns an execution's status and its details as one text. If `brief`, a terminal gets only the
    distances of its times: "for 3 min", "due in 2 h"."""
    shown = _brief if brief and sys.stdout.isatty() else _whole
    return "".join(shown(part) if isinstance(part, Moment) else part for part in parts)


def _whole(moment: Moment) -> str:
    return since(moment.at) if moment.word == "since" else until(moment.at)


def _brief(moment: Moment) -> str:
    left = _left(moment.at)
    if moment.word == "since":
        return f"for {rough(max(0.0, -left))}"
    return f"due in {rough(left)}" if left > 0 else "due now"


def rough(seconds: float) -> str:
    """Returns a duration in its largest unit, rounded."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if round(seconds / (size / 60)) >= 60 or seconds >= size:
            return f"{round(seconds / size):,} {unit}"
    return f"{round(seconds)} s"


def duration(seconds: float) -> str:
    """Returns a duration in its two largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _left(time: str | datetime) -> float:
    """The seconds from now to a time, negative for a past one."""
    return (_parsed(time) - datetime.now(UTC)).total_seconds()


def _parsed(time: str | datetime) -> datetime:
    return datetime.fromisoformat(time) if isinstance(time, str) else time
