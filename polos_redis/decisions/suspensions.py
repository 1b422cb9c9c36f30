"""Reads suspensions: by the execution's own id, or anywhere below a root execution."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from polos_redis.errors import AmbiguousSuspensionError, UnreadableValueError
from polos_redis.state import journal, keys
from polos_redis.state.journal import SuspensionRecord
from polos_redis.state.store import Store
from polos_redis.values.text import raw

PER_CALL = 20  # suspensions read at a time


@dataclass(frozen=True, slots=True)
class StoredSuspension:
    """A suspension as it was read: its record and its execution's packed origin. An answer is checked
    against both."""

    execution_id: str
    step_key: str
    record: SuspensionRecord
    origin: bytes | None


async def read_suspensions(
    store: Store, names: Sequence[tuple[str, str]]
) -> AsyncIterator[tuple[str, str, SuspensionRecord]]:
    """Yields the suspensions of these execution ids and step keys that exist and can be read; holds only a
    few at a time."""
    for first in range(0, len(names), PER_CALL):
        some = names[first : first + PER_CALL]
        stored = await asyncio.gather(*(store.executions.read_records(one, [raw(key)]) for one, key in some))
        for name, (packed,) in zip(some, stored, strict=True):
            with contextlib.suppress(UnreadableValueError):  # `get_execution` of that execution reports it
                record = None if packed is None else journal.parse(packed)
                if isinstance(record, SuspensionRecord):
                    yield (*name, record)


async def find_below(store: Store, root_id: str, step_key: str) -> str | None:
    """Returns the id of the descendant to answer by its root's id: the one whose suspension of this key is
    open, else the one decided last.

    Raises `AmbiguousSuspensionError` if one is open and others came before it: the call may repeat an answer
    that was meant for one of those.
    """
    if keys.root_of(root_id) != root_id:
        return None
    pages = store.suspensions.below(root_id)
    names = {(one, key): None async for page in pages for one, key in page if key == step_key}
    found = [
        (one, record.status, record.decided_ms)
        async for one, _, record in read_suspensions(store, list(names))
    ]
    waiting = [one for one, status, _ in found if status == "open"]
    if waiting and len(found) > 1:
        raise AmbiguousSuspensionError(root_id, [f"{step_key} of {one}" for one in sorted(waiting)])
    if waiting:
        return waiting[0]
    return max(found, key=lambda row: row[2])[0] if found else None
