"""Queues: the streams that workers read, with one entry per runnable execution."""

from __future__ import annotations

from collections.abc import Sequence

from polos_redis.state import scripts
from polos_redis.state.failed_execution import FailedExecution
from polos_redis.state.fencing import Fence
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw


class Queues:
    """All queues of the namespace: a stream and a consumer group each, in every partition."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def make_group(self, prefix: bytes, queue: str) -> None:
        """Create a queue's stream and group unless they exist."""
        await self._wire.call_script(scripts.CREATE_GROUP, prefix, queue, patience=None)

    async def requeue(
        self,
        prefix: bytes,
        queue: str,
        consumer: str,
        entries: Sequence[bytes],
        *,
        max_deliveries: int,
        lost: bytes | None = None,
    ) -> tuple[int, list[FailedExecution], int] | None:
        """Return a consumer's entries to the queue; returns how many were requeued, the executions that have
        failed, and how many were dropped.

        If its worker is presumed dead, `lost` is the lease counter that was seen unchanged, b"" for none:
        such entries count towards `max_deliveries`. Returns None, having changed nothing, if it was renewed
        since: the worker lives, and may have checked that they are still its own.
        """
        reply = await self._wire.call_script(
            scripts.REQUEUE_ENTRIES,
            prefix,
            queue,
            consumer,
            "back" if lost is None else lost,
            max_deliveries,
            *entries,
            patience=self._partitions.patience,
        )
        return None if reply is None else (reply[0], FailedExecution.parse(reply[3]), reply[2])

    async def put_back(self, by: Fence, queue: str, delay_ms: int, reason: str = "") -> None:
        """Return an execution to the queue after a delay, without counting the delivery. A reason is stored,
        and the delay then doubles each time, up to 32-fold, until the journal makes progress."""
        why = (raw(reason),) if reason else ()
        await self._wire.call_script(
            scripts.PUT_BACK,
            by.prefix,
            queue,
            by.id,
            by.entry,
            delay_ms,
            *why,
            patience=self._partitions.patience,
        )
