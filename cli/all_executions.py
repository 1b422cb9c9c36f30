"""Follows the newest executions of a namespace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from polos_redis.client import PolosClient
from polos_redis.errors import ExecutionNotFoundError, PolosError
from polos_redis.events import Event, follow
from polos_redis.state.executions import FINISHED
from polos_redis.state.keys import root_of

from .output import note

MOST = 100  # executions that are followed at once
LOOK_SECONDS = 0.5
SEEN = 10_000  # ids that are remembered


class AllExecutions:
    """Passes on the events of all executions from now on: of the `MOST` newest, with their descendants.

    Looks for new ones twice a second. A followed execution has a stream of its events in Redis, so their
    number is bounded: a new one replaces the oldest, and a note says once that not all are shown.
    """

    def __init__(self, client: PolosClient, show: Callable[[Event], None]) -> None:
        self._client = client
        self._show = show
        self._followed: dict[str, asyncio.Task[None]] = {}  # by root, oldest first
        self._seen: dict[str, None] = {}  # roots
        self._told = False

    async def follow(self) -> None:
        """Run until cancelled. Raises `RedisUnavailableError` as the client does."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._look(group, new=False)
                note("following all executions (Ctrl-C ends it)")
                while True:
                    await asyncio.sleep(LOOK_SECONDS)
                    await self._look(group, new=True)
        except* (PolosError, OSError) as errors:  # OSError: nobody reads what is shown any more
            raise errors.exceptions[0] from None

    async def _look(self, group: asyncio.TaskGroup, *, new: bool) -> None:
        """Follow executions that are not followed yet. Unless they are `new`, only from now on."""
        page = await self._client.list_executions(limit=MOST)
        listed = {row["id"] for row in page}
        unseen = [row for row in page if root_of(row["id"]) not in self._seen]
        if new and len(unseen) == MOST:
            self._say_some_are_left_out()
        for row in reversed(page):
            root = root_of(row["id"])
            if root in self._followed:
                continue
            began_meanwhile = new and root not in self._seen and root in listed
            if began_meanwhile:
                await self._start(group, root, None)
            elif row["status"] not in FINISHED and len(self._followed) < MOST:
                await self._start(group, root, "$")
            self._remember(root)
        if not new and page.next_cursor is not None and any(row["status"] not in FINISHED for row in page):
            self._say_some_are_left_out()

    async def _start(self, group: asyncio.TaskGroup, root: str, after: str | None) -> None:
        try:
            stream = await follow(self._client, root, execution_id=root, last_event_id=after, plain=True)
        except ExecutionNotFoundError:  # deleted meanwhile
            return
        if stream is None:  # it has finished meanwhile
            return
        if len(self._followed) >= MOST:
            self._say_some_are_left_out()
            self._followed.pop(next(iter(self._followed))).cancel()
        self._followed[root] = group.create_task(self._show_all(root, stream))

    async def _show_all(self, root: str, stream: AsyncIterator[Event]) -> None:
        try:
            async for event in stream:
                self._show(event)
        finally:
            if self._followed.get(root) is asyncio.current_task():
                del self._followed[root]

    def _remember(self, root: str) -> None:
        self._seen[root] = None
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]

    def _say_some_are_left_out(self) -> None:
        if not self._told:
            self._told = True
            note(f"not all executions are shown: the {MOST} newest are followed")
