"""Queues: the streams that workers read, with one entry per runnable execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgpack

from polos_redis.state import keys, scripts
from polos_redis.state.failed_execution import FailedExecution
from polos_redis.state.fencing import Fence
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw, text

_STAYS = 2  # reply of reserve.lua

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
            raw(queue),
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

    async def reserve(self, by: Fence, queue: str, to: str, version: str | None = None) -> bool:
        """Move an execution to a reserved stream, and with a version start it with that; returns False if it
        has started before and stays where it is."""
        stored = () if version is None else (version,)
        moved = await self._wire.call_script(
            scripts.RESERVE,
            by.prefix,
            raw(queue),
            by.id,
            by.entry,
            raw(to),
            *stored,
            patience=self._partitions.patience,
        )
        return bool(moved != _STAYS)

    async def reserved(self, prefix: bytes) -> set[str]:
        """Returns the reserved streams of a partition, and those that unserved executions wait for."""
        names = await self._wire.call("SMEMBERS", prefix + keys.RESERVED.encode(), patience=None)
        return set(map(text, names))

    async def has_unserved(self, prefix: bytes, stream: str) -> bool:
        """Returns whether executions wait for a worker to read a reserved stream."""
        key = prefix + f"{keys.INDEX}unserved:".encode() + raw(stream)
        return bool(await self._wire.call("ZCARD", key, patience=None))

    async def serve(self, prefix: bytes, stream: str, worker: str, limit: int) -> int:
        """Prepare a reserved stream to be read by a worker, and make up to `limit` of the executions runnable
        that wait for that; returns how many are left."""
        left: int = await self._wire.call_script(
            scripts.SERVE, prefix, raw(stream), worker, limit, patience=None
        )
        return left

    async def leave(self, prefix: bytes, stream: str, worker: str) -> bool:
        """Remove a worker that no longer reads a reserved stream from its consumers; returns False while it
        holds entries of it."""
        return bool(
            await self._wire.call_script(scripts.LEAVE_STREAM, prefix, raw(stream), worker, patience=None)
        )

    async def close(self, prefix: bytes, stream: str, limit: int) -> bool:
        """Remove a reserved stream that no worker reads, after its executions, up to `limit` of them: they
        wait for a worker. Returns whether there are more."""
        return bool(
            await self._wire.call_script(scripts.CLOSE_STREAM, prefix, raw(stream), limit, patience=None)
        )

    async def put_back(self, by: Fence, queue: str, delay_ms: int, reason: str = "") -> None:
        """Return an execution to the queue after a delay, without counting the delivery. A reason is stored,
        and the delay then doubles each time, up to 32-fold, until the journal makes progress."""
        why = (raw(reason),) if reason else ()
        await self._wire.call_script(
            scripts.PUT_BACK,
            by.prefix,
            raw(queue),
            by.id,
            by.entry,
            delay_ms,
            *why,
            patience=self._partitions.patience,
        )
