"""Times and durations as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from polos_redis.executions.statuses import Moment, Part


def iso(time: datetime | None) -> str | None:
    """Returns a time in ISO 8601 with milliseconds, as in JSON output."""
    return None if time is None else time.isoformat(timespec="milliseconds")


def utc(time: str | datetime | None) -> str:
    """Returns a time (ISO 8601 if text) in UTC, to the second; "-" for None."""
    if time is None:
        return "-"
    return _parsed(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def until(time: str | None) -> str:
    """Returns a deadline and the time left on this machine's clock."""
    if time is None:
        return "without a deadline"
    left = (_parsed(time) - datetime.now(UTC)).total_seconds()
    return f"until {utc(time)} ({f'in {duration(left)}' if left > 0 else 'due now'})"


def since(time: str) -> str:
    """Returns a past time and its age."""
    age = (datetime.now(UTC) - _parsed(time)).total_seconds()
    return f"since {utc(time)} ({duration(max(0.0, age))})"


def told(parts: Sequence[Part]) -> str:
    """Returns an execution's status and its details as one text."""
    return "".join(_moment(part) if isinstance(part, Moment) else part for part in parts)


def _moment(moment: Moment) -> str:
    return since(moment.at) if moment.word == "since" else until(moment.at)


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


def _parsed(time: str | datetime) -> datetime:
    return datetime.fromisoformat(time) if isinstance(time, str) else time
