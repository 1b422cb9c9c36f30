"""Conversions between stored times (milliseconds since 1970) and the times users pass and see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from polos_redis.errors import InvalidInputError, PolosError

LONGEST_SECONDS = 1e10  # about 300 years
LAST_MS = 253_402_300_799_999  # the end of year 9999, the last that datetime can express

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


def to_datetime(ms: float) -> datetime:
    """A stored time as an aware datetime in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def to_ms(when: datetime) -> int:
    """An aware datetime in whole ms, rounded down."""
    return (when - _EPOCH) // _MILLISECOND


def to_datetime_us(us: int) -> datetime:
    """A stored time in microseconds as an aware datetime in UTC, exactly."""
    return _EPOCH + us * _MICROSECOND


def to_us(when: datetime) -> int:
    """An aware datetime in whole microseconds since 1970."""
    return (when - _EPOCH) // _MICROSECOND


def to_iso(ms: float) -> str:
    """A stored time as ISO 8601 in UTC with milliseconds."""
    return to_datetime(ms).isoformat(timespec="milliseconds")


def iso(ms: float | None) -> str | None:
    """As `to_iso`; None for None or 0."""
    return to_iso(ms) if ms else None


def utc(time: str | datetime) -> str:
    """A time (ISO 8601 if text) for people: in UTC, to the second."""
    when = datetime.fromisoformat(time) if isinstance(time, str) else time
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- times that users pass ---


def milliseconds(
    what: str,
    seconds: float | timedelta | None,
    name: str = "timeout",
    *,
    zero: bool = False,
    error: type[PolosError] = InvalidInputError,
) -> int | None:
    """A duration in whole ms, at least 1 (or 0 if `zero` allows it); None for None.

    Raises `error` with `what` and `name` in its message.
    """
    if seconds is None:
        return None
    number = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if zero and number == 0 and not isinstance(number, bool):
        return 0
    if not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 < number < LONGEST_SECONDS:
        raise error(
            f"{what}: {name} must be a positive number of seconds, a timedelta or None, not {seconds!r}"
        )
    return max(1, int(number * 1000))


def span(what: str, **parts: float) -> int:
    """Sum of a duration's parts (seconds=, minutes=, ...) in ms, at least 0. Raises `InvalidInputError`."""
    try:
        total = timedelta(**{name: part or 0 for name, part in parts.items()})
    except (TypeError, ValueError, OverflowError):
        total = timedelta.max
    if total.total_seconds() >= LONGEST_SECONDS:
        nonzero = {name: part for name, part in parts.items() if part}
        raise InvalidInputError(f"{what}: expected numbers that add up to at most 300 years, not {nonzero!r}")
    return max(0, total // _MILLISECOND)


def checked_ms(what: str, when: datetime) -> int:
    """A point in time in ms; 1 for any time before 1970. Raises `InvalidInputError`."""
    if not isinstance(when, datetime) or when.utcoffset() is None:
        raise InvalidInputError(
            f"{what}: expected a datetime with a time zone, such as datetime.now(UTC), not {when!r}"
        )
    return min(max(1, to_ms(when)), LAST_MS)
