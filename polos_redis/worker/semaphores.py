"""Semaphores across partitions: slots for executions that live in another partition than the semaphore.

Within one partition, scripts acquire and release slots. Between two, errands do, with the functions here.
Each message carries the version of the execution's request, so a late one can't undo a newer one.
"""

from __future__ import annotations

from polos_redis.state.store import Store

RECHECK_MS = 30_000  # between checks that two partitions agree


async def sync(store: Store, prefix: bytes, execution_id: str) -> int | None:
    """Acquire or release the slot of an execution of this partition, as its request says. Returns the ms
    until the next check, None if none is needed."""
    request = await store.semaphores.slot_request(prefix, execution_id)
    if request is None:
        return None
    semaphore, limit, version = request.semaphore, request.limit, request.version
    if not request.wants_slot:
        await store.semaphores.release_slot(semaphore, limit, execution_id, version)
    elif await store.semaphores.request_slot(semaphore, limit, execution_id, version, RECHECK_MS):
        await _grant(store, execution_id, version, semaphore, limit)
    else:  # it is among the waiters, unless the semaphore's partition loses them
        return RECHECK_MS
    return None


async def grant(store: Store, rest: str) -> None:
    """Grant a slot to an execution of another partition."""
    execution_id, version, limit, semaphore = rest.split(" ", 3)
    await _grant(store, execution_id, int(version), semaphore, int(limit))


async def _grant(store: Store, execution_id: str, version: int, semaphore: str, limit: int) -> None:
    if not await store.semaphores.grant_slot(execution_id, version):
        await store.semaphores.release_slot(semaphore, limit, execution_id, version)


async def check_holders(store: Store, rest: str) -> int | None:
    """Release the slots of executions that no longer want them, as after one of the two partitions has lost
    its latest changes. Returns the ms until the next check, None if the semaphore is unused."""
    limit, semaphore = rest.split(" ", 1)
    cursor = b"0"
    while True:
        page = await store.semaphores.slot_holders(semaphore, cursor)
        if page is None:
            return None
        cursor, held = page
        for execution_id, version in held:
            request = await store.semaphores.slot_request(store.partitions.prefix(execution_id), execution_id)
            if request is None or not request.wants_slot:
                latest = version if request is None else max(version, request.version)
                await store.semaphores.release_slot(semaphore, int(limit), execution_id, latest)
        if cursor == b"0":
            return RECHECK_MS
