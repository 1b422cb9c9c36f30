"""Cron expressions in a time zone: when a schedule's ticks are.

The expression is cronsim's affair (imported when the first schedule is met); what a change of the clocks does
to its ticks is decided here, the same for five fields and for six:

- fixed times ("30 2 * * *": neither minute nor hour begins with `*`) are times of the wall clock. One that
  the clocks skip in spring comes at the end of the gap, one that they show twice in autumn comes the first
  time only.
- all others ("*/10 * * * *") are intervals: they tick in both of the hours that look alike, and in no hour
  that does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from polos_redis.errors import ConfigurationError
from polos_redis.values.times import to_datetime, to_ms

FIELDS = "minute hour day month weekday, or six with seconds first"


class Cron:
    """The ticks of a cron expression: moments in ms since 1970."""

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        """Raises `ConfigurationError` for an expression or a time zone that can't be used."""
        self.expression = expression
        self.zone = _zone(timezone)
        if not isinstance(expression, str) or len(expression.split()) not in (5, 6):
            raise ConfigurationError(f"a cron expression has five fields ({FIELDS}), not {expression!r}")
        minute, hour = expression.split()[-5:-3]
        self._by_wall_clock = minute[0] != "*" and hour[0] != "*"
        self.after(0)

    def after(self, moment: int) -> int:
        """The first tick after a moment."""
        start = to_datetime(moment)
        for tick in self._from(start.astimezone(self.zone)):
            if tick > start:
                return to_ms(tick)
        raise ConfigurationError(f"the cron expression {self.expression!r} never comes due")

    def _from(self, start: datetime) -> Iterator[datetime]:
        """Ticks from about a local time on, in UTC."""
        from cronsim import CronSim, CronSimError

        try:
            ticks = CronSim(self.expression, start.replace(tzinfo=None) if self._by_wall_clock else start)
        except CronSimError as error:
            raise ConfigurationError(
                f"the cron expression {self.expression!r} can't be used: {str(error).lower()}"
            ) from None
        for tick in ticks:
            yield self._moment(tick) if self._by_wall_clock else tick.astimezone(UTC)

    def _moment(self, wall: datetime) -> datetime:
        """The moment, in UTC, at which the wall clock first shows a time, or has just passed it."""
        while True:
            moment = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
            if moment.astimezone(self.zone).replace(tzinfo=None) == wall:
                return moment
            wall += timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Declared:
    """A schedule as a workflow declares it; `key` tells several schedules of one workflow apart."""

    cron: str
    timezone: str = "UTC"
    key: str = "global"

    @classmethod
    def of(cls, schedule: str | dict[str, Any] | bool | None, workflow_id: str) -> Declared | None:
        """What `@workflow(schedule=)` declares; nothing for a workflow that is only scheduled by
        `schedules.create` (True, None), or never (False). Raises `ConfigurationError`."""
        if schedule is None or isinstance(schedule, bool):
            return None
        given = {"cron": schedule} if isinstance(schedule, str) else schedule
        if not isinstance(given, dict) or not {"cron"} <= given.keys() <= set(cls.__slots__):
            raise ConfigurationError(
                f"workflow {workflow_id!r}: schedule is a cron expression, a dict of cron, timezone and key, "
                f"True, False or None, not {schedule!r}"
            )
        declared = cls(**given)
        try:
            Cron(declared.cron, declared.timezone)
            check_key(declared.key)
        except ConfigurationError as error:
            raise ConfigurationError(f"workflow {workflow_id!r}: {error}") from None
        return declared


def check_key(key: str) -> str:
    """Refuse what can't be a schedule's key."""
    if not isinstance(key, str) or not 0 < len(key) <= 1024:
        raise ConfigurationError(f"a schedule's key is a text of 1 to 1024 characters, not {key!r}")
    return key


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, AttributeError, OSError):
        raise ConfigurationError(
            f"there is no time zone {name!r}: give a name like 'Europe/Berlin' or 'UTC'"
        ) from None
