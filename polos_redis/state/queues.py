"""Queues: the streams that workers read, with one entry per runnable execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgpack

from polos_redis.state import scripts
from polos_redis.state.failed_execution import FailedExecution
from polos_redis.state.fencing import Fence
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw, text

NOTHING_KNOWN: Mapping[str, bool] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of a consumer's entries: how many were requeued, the executions that failed or were paused,
    how many entries were dropped. `unknown`: the workflows of those left, see `Queues.requeue`."""

    requeued: int
    failed: list[FailedExecution]
    paused: list[FailedExecution]
    dropped: int
    unknown: set[str]


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
        pausing: Mapping[str, bool] = NOTHING_KNOWN,
    ) -> Requeued | None:
        """Return a consumer's entries to the queue; returns what became of them.

        If its worker is presumed dead, `lost` is the lease counter that was seen unchanged, b"" for none:
        such entries count towards `max_deliveries`. Returns None, having changed nothing, if it was renewed
        since: the worker lives, and may have checked that they are still its own.

        Those of an execution that is lost too often are left while it is not known from `pausing` whether its
        workflow has it fail or pause: the result names these workflows.
        """
        reply = await self._wire.call_script(
            scripts.REQUEUE_ENTRIES,
            prefix,
            queue,
            consumer,
            "back" if lost is None else lost,
            max_deliveries,
            msgpack.packb({raw(one): pauses for one, pauses in pausing.items()}, use_bin_type=False),
            *entries,
            patience=self._partitions.patience,
        )
        if reply is None:
            return None
        requeued, _, dropped, failed, paused, unknown = reply
        return Requeued(
            requeued,
            [FailedExecution(*map(text, one)) for one in failed],
            [FailedExecution(*map(text, one)) for one in paused],
            dropped,
            {text(one) for one in unknown},
        )

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
