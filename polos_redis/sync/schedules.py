"""Schedules without asyncio: start workflows by cron expressions, and pause, resume or delete that.

Each function is that of the same name in `polos_redis.schedules`, and takes a `polos_redis.sync.PolosClient`.
"""

from polos_redis import schedules
from polos_redis.schedules import Schedule, SchedulePayload
from polos_redis.sync.calls import blocking

__all__ = ["Schedule", "SchedulePayload", "create", "delete", "get", "list", "pause", "resume"]

create = blocking(schedules.create)
get = blocking(schedules.get)
pause = blocking(schedules.pause)
resume = blocking(schedules.resume)
delete = blocking(schedules.delete)
list = blocking(schedules.list)  # noqa: A001 - schedules.list
