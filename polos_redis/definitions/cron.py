"""Cron expressions in a time zone: when a schedule ticks.

cronsim reads the expression (it is imported with the first schedule). This module handles clock changes, the
same way for five fields and for six:

- A fixed time ("30 2 * * *": neither minute nor hour begins with `*`) is a wall-clock time. One that is
  skipped in spring ticks at the end of the gap; one that is repeated in autumn ticks the first time only.
- Any other expression ("*/10 * * * *") is an interval. It ticks in both repeated hours, and not in a skipped
  one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys
from polos_redis.values.times import to_datetime, to_ms

FIELDS = "minute hour day month weekday, or six with seconds first"


class Cron:
    """The ticks of a cron expression, in ms since 1970."""

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        """Raises `ConfigurationError` if the expression or the time zone is invalid."""
        self.expression = expression
        self.zone = _zone(timezone)
        if not isinstance(expression, str) or len(expression.split()) not in (5, 6):
            raise ConfigurationError(f"a cron expression needs five fields ({FIELDS}), not {expression!r}")
        minute, hour = expression.split()[-5:-3]
        self._by_wall_clock = minute[0] != "*" and hour[0] != "*"
        self.after(0)

    def after(self, ms: int) -> int:
        """Returns the first tick after a time."""
        start = to_datetime(ms)
        for tick in self._from(start.astimezone(self.zone)):
            if tick > start:
                return to_ms(tick)
        raise ConfigurationError(f"the cron expression {self.expression!r} never ticks")

    def _from(self, start: datetime) -> Iterator[datetime]:
        """Yields the ticks from about a local time on, in UTC."""
        from cronsim import CronSim, CronSimError

        try:
            ticks = CronSim(self.expression, start.replace(tzinfo=None) if self._by_wall_clock else start)
        except CronSimError as error:
            raise ConfigurationError(
                f"invalid cron expression {self.expression!r}: {str(error).lower()}"
            ) from None
        for tick in ticks:
            yield self._to_utc(tick) if self._by_wall_clock else tick.astimezone(UTC)

    def _to_utc(self, wall: datetime) -> datetime:
        """Returns the time, in UTC, at which the wall clock first shows a time, or has just passed it."""
        while True:
            utc = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
            if utc.astimezone(self.zone).replace(tzinfo=None) == wall:
                return utc
            wall += timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Declared:
    """A schedule that a workflow declares; `key` identifies it among the workflow's schedules."""

    cron: str
    timezone: str = "UTC"
    key: str = "global"

    @classmethod
    def of(cls, schedule: str | dict[str, Any] | bool | None, workflow_id: str) -> Declared | None:
        """Returns the schedule that `@workflow(schedule=)` declares; None for a workflow that only
        `schedules.create` schedules (True, None), or nothing does (False). Raises `ConfigurationError`."""
        if schedule is None or isinstance(schedule, bool):
            return None
        fields = {"cron": schedule} if isinstance(schedule, str) else schedule
        if not isinstance(fields, dict) or not {"cron"} <= fields.keys() <= set(cls.__slots__):
            raise ConfigurationError(
                f"workflow {workflow_id!r}: schedule must be a cron expression, a dict with cron, timezone "
                f"and key, True, False or None, not {schedule!r}"
            )
        declared = cls(**fields)
        try:
            Cron(declared.cron, declared.timezone)
            check_key(declared.key)
        except ConfigurationError as error:
            raise ConfigurationError(f"workflow {workflow_id!r}: {error}") from None
        return declared


def check_key(key: str) -> str:
    """Returns a valid schedule key. Raises `ConfigurationError`."""
    return keys.check_text("a schedule's key", key, error=ConfigurationError)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, AttributeError, OSError):
        raise ConfigurationError(
            f"unknown time zone {name!r}: use a name like 'Europe/Berlin' or 'UTC'"
        ) from None
