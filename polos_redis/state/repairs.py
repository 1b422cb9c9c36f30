"""Repairs: what half of a script has left in a partition, found a page of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import text

LIVE = ("queued", "waiting", "stuck")
FIRST = b"0"  # the cursor of a table's first page

Table = tuple[str, bytes]  # a kind of rows, and the queue or workflow that they are of


@dataclass(frozen=True, slots=True)
class RepairedPage:
    """A page of rows that has been looked through: the next one's cursor (None after the last), how many rows
    there were, and what was wrong with which executions."""

    cursor: bytes | None
    rows: int
    wrong: list[tuple[str, str]]


class Repairs:
    """All repairs of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def tables(self, prefix: bytes) -> list[Table]:
        """Returns what to look through in a partition: the entries of its queues, the executions that have
        not ended and have no entry, and the open suspensions."""
        queues = await self._partitions.queues(prefix, patience=None)
        workflows = await self._partitions.workflows(prefix, patience=None)
        listed = [(status, name) for status in LIVE for name in workflows]
        return [*(("queue", name) for name in queues), *listed, ("suspensions", b"")]

    async def page(self, prefix: bytes, table: Table, cursor: bytes, rows: int) -> RepairedPage:
        """Repair what is wrong in about `rows` rows."""
        after, looked, flat = await self._wire.call_script(
            scripts.REPAIR, prefix, *table, cursor, rows, patience=None
        )
        found = list(map(text, flat))
        wrong = list(zip(found[::2], found[1::2], strict=True))
        return RepairedPage(None if after == FIRST else after, looked, wrong)
