"""Semaphores across partitions: slots for executions that live in another partition than the semaphore.

Within one partition a script acquires and releases slots. Between two, errands do it by the functions here.
Each message carries the version of what the execution wants, so a late one can't undo a newer one.
"""

from __future__ import annotations

from polos_redis.state.store import Store

CHECK_MS = 30_000  # between looks at what two partitions should agree on


async def sync(store: Store, prefix: bytes, execution_id: str) -> int | None:
    """Acquire or release the slot of an execution of this partition, as the execution wants it."""
    wanted = await store.lane_of(prefix, execution_id)
    if wanted is None:
        return None
    lane, limit, version = wanted.lane, wanted.limit, wanted.version
    if not wanted.place:
        await store.free_place(lane, limit, execution_id, version)
    elif await store.ask_place(lane, limit, execution_id, version, CHECK_MS):
        await _admit(store, execution_id, version, lane, limit)
    else:  # it is among the waiters, unless the semaphore's partition forgets it
        return CHECK_MS
    return None


async def grant(store: Store, rest: str) -> None:
    """Tell an execution of another partition that it has a slot."""
    execution_id, version, limit, lane = rest.split(" ", 3)
    await _admit(store, execution_id, int(version), lane, int(limit))


async def _admit(store: Store, execution_id: str, version: int, lane: str, limit: int) -> None:
    if not await store.admit(execution_id, version):
        await store.free_place(lane, limit, execution_id, version)


async def check_holders(store: Store, rest: str) -> int | None:
    """Release the slots of executions that don't know of them: their partition, or this one, has lost its
    latest changes."""
    limit, lane = rest.split(" ", 1)
    cursor = b"0"
    while True:
        page = await store.holders(lane, cursor)
        if page is None:
            return None
        cursor, held = page
        for execution_id, version in held:
            wanted = await store.lane_of(store.prefix(execution_id), execution_id)
            if wanted is None or not wanted.place:
                latest = version if wanted is None else max(version, wanted.version)
                await store.free_place(lane, int(limit), execution_id, latest)
        if cursor == b"0":
            return CHECK_MS
