"""Times as users give them, in the store's ms."""

from __future__ import annotations

from datetime import datetime, timedelta


def milliseconds(what: str, seconds: float | timedelta | None, name: str = "timeout") -> int | None:
    """A timeout in ms, at least 1; None for none. `what` and `name` are for the error."""
    if seconds is None:
        return None
    number = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 < number < 1e10:
        raise ValueError(f"{what}: {name} is a positive number of seconds or None, not {seconds!r}")
    return max(1, int(number * 1000))


def moment(what: str, when: datetime) -> int:
    """An aware datetime in ms since 1970."""
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise ValueError(
            f"{what}: expected a datetime with a time zone (datetime.now(UTC), say), not {when!r}"
        )
    return int(when.timestamp() * 1000)
