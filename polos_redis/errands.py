"""Failed errands: work that workers do for executions, topics and schedules beside running code, and that has
failed since it last succeeded. `polos_redis.worker.errands` describes the kinds."""

from __future__ import annotations

from polos_redis.connection.connection import Connection
from polos_redis.errors import ErrandNotFoundError
from polos_redis.results import ErrandFailure
from polos_redis.state.errands import FailedErrand
from polos_redis.values.times import iso

KINDS = {
    "l": "slot request",
    "a": "slot grant",
    "h": "slot check",
    "w": "event delivery",
    "u": "end of a subscription",
    "s": "subscription check",
    "e": "trigger",
    "k": "schedule",
    "y": "early answer",
}


async def list_failed(connection: Connection) -> list[ErrandFailure]:
    """Returns the errands whose latest attempt has failed, those set aside first; also those of users'
    values that are running."""
    store = await connection.store()
    found = [describe(one) async for one in store.errands.failures()]
    return sorted(found, key=lambda one: (one.status != "set aside", one.tried_at or ""))


async def retry(connection: Connection, name: str) -> None:
    """Have a failed errand tried again now, with all its attempts.

    Raises `ErrandNotFoundError` if none of that name has failed.
    """
    store = await connection.store()
    async for one in store.errands.failures():
        if one.name == name and await store.errands.retry(one.prefix, name):
            return
    raise ErrandNotFoundError(name)


def describe(failed: FailedErrand) -> ErrandFailure:
    """Returns a failed errand for people and programs."""
    execution_id, step_key = None, None
    if failed.name.startswith("y"):
        execution_id, _, step_key = failed.name[1:].partition(" ")
    return ErrandFailure(
        errand=failed.name,
        kind=KINDS.get(failed.name[:1], "unknown"),
        execution_id=execution_id,
        step_key=step_key,
        status="set aside" if failed.set_aside else "running" if failed.running else "failing",
        attempts=failed.attempts,
        error=None if failed.running else failed.reason,
        tried_at=iso(failed.tried_ms),
    )
