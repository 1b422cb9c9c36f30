"""Times as users give them, converted to the ms of the store."""

from __future__ import annotations

from datetime import datetime, timedelta

from polos_redis.errors import InvalidInputError

LONGEST_SECONDS = 1e10  # about 300 years
LAST_MS = 253_402_300_799_999  # the end of the year 9999, as far as dates go


def milliseconds(
    what: str, seconds: float | timedelta | None, name: str = "timeout", *, zero: bool = False
) -> int | None:
    """Returns a duration in ms, None for None; at least 1 unless `zero` allows 0. Raises `InvalidInputError`,
    which names `what` and `name`."""
    if seconds is None:
        return None
    number = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if zero and number == 0 and not isinstance(number, bool):
        return 0
    if not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 < number < LONGEST_SECONDS:
        raise InvalidInputError(
            f"{what}: {name} is a positive number of seconds (or a timedelta) or None, not {seconds!r}"
        )
    return max(1, int(number * 1000))


def span(what: str, **parts: float) -> int:
    """Returns the sum of the parts of a duration (seconds, minutes, ...) in ms, 0 if it is negative."""
    try:
        whole = timedelta(**{name: part or 0 for name, part in parts.items()})
    except (TypeError, ValueError, OverflowError):
        whole = timedelta.max
    if whole.total_seconds() >= LONGEST_SECONDS:
        given = {name: part for name, part in parts.items() if part}
        raise InvalidInputError(f"{what}: expected numbers, of 300 years at the most together, not {given!r}")
    return max(0, whole // timedelta(milliseconds=1))


def moment(what: str, when: datetime) -> int:
    """Returns an aware datetime as ms since 1970; 1 for earlier ones."""
    if not isinstance(when, datetime) or when.utcoffset() is None:
        raise InvalidInputError(
            f"{what}: expected a datetime with a time zone (datetime.now(UTC), say), not {when!r}"
        )
    return min(max(1, int(when.timestamp() * 1000)), LAST_MS)
