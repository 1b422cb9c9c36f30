"""The only module that calls Redis to change state: one typed method per script.

Methods an activation writes with (`write`, `backoff`, `suspend`, `park`, `finish`) return the wire's
future: they are fenced by entry, owner and known changes, and what to do when the connection is lost is the
activation's to decide. All others can be repeated safely and are repeated here until `patience` ends.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from polos_redis import keys, scripts
from polos_redis.errors import ConfigurationError
from polos_redis.route import AnyWire

LOST, WENT_BACK, NO_SUCH_WAIT = -1, -2, -3
FINISHED = ("completed", "failed", "cancelled")
STATUSES = ("queued", "waiting", *FINISHED)

INLINE_INPUT = 4096  # bytes; a larger input is read by the worker instead of travelling in its queue entry


@dataclass(frozen=True, slots=True)
class Fence:
    """Who writes: an activation's execution, queue entry and owner nonce, as the scripts want them."""

    prefix: bytes
    id: bytes
    entry: bytes
    owner: bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an activation is given when it begins on an execution that was begun before."""

    input: bytes
    started: bool
    losses: int
    journal: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Ended:
    """How an execution stands: its status and, when finished, the one value that goes with it."""

    status: str
    output: bytes | None = None
    error: bytes | None = None
    cancelled_by: str | None = None


def text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "surrogatepass")


def raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


class Store:
    """The state of one namespace, reached over one wire."""

    def __init__(self, wire: AnyWire, namespace: str, partitions: int, patience: float | None = 30.0) -> None:
        self.wire = wire
        self.namespace = namespace
        self.partitions = partitions
        self.patience = patience
        self.prefixes = [keys.prefix(namespace, p).encode() for p in range(partitions)]

    def prefix(self, execution_id: str) -> bytes:
        """The prefix of the partition an execution lives in."""
        if self.partitions == 1 and isinstance(execution_id, str):
            return self.prefixes[0]
        return self.prefixes[keys.partition_of(keys.root_of(execution_id), self.partitions)]

    def topic_prefix(self, topic: str) -> bytes:
        """The prefix of the partition a topic lives in."""
        execution_id = keys.parse_topic(topic)[1]
        if execution_id is not None:
            return self.prefix(execution_id)
        return self.prefixes[keys.partition_of(topic, self.partitions)]

    async def check_partitions(self) -> None:
        """Fix the namespace's number of partitions, or refuse another one."""
        key = self.prefixes[0] + keys.META.encode()
        fixed = await self.wire.call("HGET", key, "partitions", patience=self.patience)
        if fixed is None:
            await self.wire.call("HSETNX", key, "partitions", self.partitions, patience=self.patience)
            fixed = await self.wire.call("HGET", key, "partitions", patience=self.patience)
        if int(fixed) != self.partitions:
            raise ConfigurationError(
                f"namespace {self.namespace!r} has {int(fixed)} partitions, not {self.partitions}: "
                "set POLOS_PARTITIONS to that (it can't be changed later)"
            )

    # --- an activation's writes ---------------------------------------------------------

    def write(self, by: Fence, known: int, key: bytes, record: bytes, events: Sequence[bytes]) -> Future[int]:
        return self.wire.run(scripts.WRITE, by.prefix, by.id, by.entry, by.owner, known, key, record, *events)

    def backoff(
        self, by: Fence, known: int, key: bytes, record: bytes, delay_ms: int, events: Sequence[bytes]
    ) -> Future[int]:
        return self.wire.run(
            scripts.BACKOFF, by.prefix, by.id, by.entry, by.owner, known, key, record, delay_ms, *events
        )

    def suspend(
        self, by: Fence, known: int, key: bytes, timeout_ms: int, shown: bytes, events: Sequence[bytes]
    ) -> Future[Any]:
        return self.wire.run(
            scripts.SUSPEND, by.prefix, by.id, by.entry, by.owner, known, key, timeout_ms, shown, *events
        )

    def park(self, by: Fence, known: int, waits: Sequence[bytes]) -> Future[Any]:
        return self.wire.run(scripts.PARK, by.prefix, by.id, by.entry, by.owner, known, *waits)

    def finish(
        self,
        by: Fence,
        known: int,
        status: str,
        value: bytes,
        event: bytes,
        unreached: bytes,
        events: Sequence[bytes],
    ) -> Future[int]:
        return self.wire.run(
            scripts.FINISH,
            by.prefix,
            by.id,
            by.entry,
            by.owner,
            known,
            status,
            value,
            event,
            unreached,
            *events,
        )

    # --- a worker's calls ---------------------------------------------------------------

    async def load(self, by: Fence) -> Loaded | None:
        """Become the owner of a delivered execution; None when its entry is no longer the live one."""
        reply = await self.wire.call_script(scripts.LOAD, by.prefix, by.id, by.entry, by.owner, patience=None)
        if reply is None:
            return None
        flat = reply[3]
        return Loaded(
            reply[0], reply[1] is not None, int(reply[2] or 0), dict(zip(flat[::2], flat[1::2], strict=True))
        )

    async def requeue(
        self,
        prefix: bytes,
        queue: str,
        consumer: str,
        entries: Sequence[bytes],
        *,
        lost: bool,
        max_deliveries: int,
    ) -> tuple[int, int, int]:
        """Give a consumer's entries back to the queue; returns how many were requeued, failed, dropped."""
        why = "lost" if lost else "back"
        requeued, failed, dropped = await self.wire.call_script(
            scripts.REQUEUE, prefix, queue, consumer, why, max_deliveries, *entries, patience=self.patience
        )
        return requeued, failed, dropped

    async def put_back(self, by: Fence, queue: str, delay_ms: int) -> None:
        """Return an execution of an unknown workflow to the queue after a delay; nothing is counted."""
        await self.wire.call_script(
            scripts.PUTBACK, by.prefix, queue, by.id, by.entry, delay_ms, patience=self.patience
        )

    async def fire(self, prefix: bytes, worker: str, hold_ms: int, limit: int) -> tuple[int, int, int] | None:
        """Decide what is due: (fired, forgotten, ms to the next or -1); None when another holds the pump."""
        reply = await self.wire.call_script(scripts.FIRE, prefix, worker, hold_ms, limit, patience=None)
        return None if reply[0] == -1 else (reply[0], reply[1], reply[2])

    async def make_group(self, prefix: bytes, queue: str) -> None:
        """Make a queue's stream and group, unless they are there."""
        await self.wire.call_script(scripts.GROUP, prefix, queue, patience=None)

    async def renew(self, prefix: bytes, worker: str, serves: bytes) -> int:
        """Raise a worker's lease counter and announce what it serves; returns the counter."""
        counter: int = await self.wire.call_script(scripts.RENEW, prefix, worker, serves, patience=None)
        return counter

    async def prune(self, prefix: bytes, queue: str, consumer: str, lease: bytes) -> bool:
        """Remove a dead worker's empty consumer and its lease row."""
        return bool(await self.wire.call_script(scripts.PRUNE, prefix, queue, consumer, lease, patience=None))

    # --- a client's calls ---------------------------------------------------------------

    async def invoke(
        self, execution_id: str, workflow_id: str, queue: str, input: bytes, retention_ms: int
    ) -> bool:
        """Create an execution; False when one with this id exists."""
        return bool(
            await self.wire.call_script(
                scripts.INVOKE,
                self.prefix(execution_id),
                execution_id,
                raw(workflow_id),
                queue,
                input,
                retention_ms,
                INLINE_INPUT,
                patience=self.patience,
            )
        )

    async def answer(
        self,
        execution_id: str,
        step_key: str,
        answer: bytes,
        digest: bytes,
        by: str,
        channel: str,
        early: bool,
    ) -> list[Any]:
        """Decide a suspension; the tagged reply of answer.lua."""
        reply: list[Any] = await self.wire.call_script(
            scripts.ANSWER,
            self.prefix(execution_id),
            raw(execution_id),
            raw(step_key),
            answer,
            digest,
            raw(by),
            channel,
            int(early),
            patience=self.patience,
        )
        return reply

    async def cancel(self, execution_id: str, run: int, by: str) -> list[Any]:
        """End an execution as cancelled; the tagged reply of cancel.lua."""
        reply: list[Any] = await self.wire.call_script(
            scripts.CANCEL, self.prefix(execution_id), raw(execution_id), run, raw(by), patience=self.patience
        )
        return reply

    async def watch(self, execution_id: str, channel: str) -> Ended | None:
        """Register for the end of an execution (or find it finished); None when there is none."""
        reply = await self.wire.call_script(
            scripts.WATCH, self.prefix(execution_id), raw(execution_id), channel, patience=self.patience
        )
        if reply is None:
            return None
        status, output, error, by = (*reply, None, None, None)[:4]
        return Ended(text(status), output, error, text(by) or None)

    async def publish(
        self, topic: str, execution_id: str, retention_ms: int, event_type: str, data: bytes
    ) -> bytes:
        """Add an event to a topic; returns its stream id."""
        entry: bytes = await self.wire.call_script(
            scripts.PUBLISH,
            self.topic_prefix(topic),
            raw(topic),
            execution_id,
            retention_ms,
            raw(event_type),
            data,
            patience=self.patience,
        )
        return entry

    # --- reading ------------------------------------------------------------------------

    async def read_execution(self, execution_id: str) -> dict[str, bytes]:
        """The execution's hash; empty when there is none."""
        key = self.prefix(execution_id) + keys.EXEC.encode() + raw(execution_id)
        flat = await self.wire.call("HGETALL", key, patience=self.patience)
        return {text(k): v for k, v in zip(flat[::2], flat[1::2], strict=True)}

    async def read_fields(self, execution_id: str, *fields: str) -> list[bytes | None]:
        """Some fields of the execution's hash."""
        key = self.prefix(execution_id) + keys.EXEC.encode() + raw(execution_id)
        found: list[bytes | None] = await self.wire.call("HMGET", key, *fields, patience=self.patience)
        return found

    async def read_journal(self, execution_id: str) -> dict[bytes, bytes]:
        """The execution's journal: step key -> record, and "" -> the count of changes."""
        key = self.prefix(execution_id) + keys.JOURNAL.encode() + raw(execution_id)
        flat = await self.wire.call("HGETALL", key, patience=self.patience)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def list_executions(
        self, statuses: Sequence[str], workflow: str, before: str, limit: int
    ) -> list[list[Any]]:
        """Executions, newest first: [id, workflow, status, created us, started ms, finished ms]."""
        found: list[list[Any]] = []
        for prefix in self.prefixes:
            found += await self.wire.call_script(
                scripts.LIST, prefix, before, limit, raw(workflow), *statuses, patience=self.patience
            )
        found.sort(key=lambda row: -int(row[3]))
        return found[:limit]

    async def list_suspensions(self, after: str, limit: int) -> list[list[Any]]:
        """Open suspensions, oldest first: [execution id, step key, workflow, opened us, record]."""
        found: list[list[Any]] = []
        for prefix in self.prefixes:
            found += await self.wire.call_script(scripts.INBOX, prefix, after, limit, patience=self.patience)
        found.sort(key=lambda row: int(row[3]))
        return found[:limit]

    async def served(self) -> set[str]:
        """The workflow ids that workers with a lease announce."""
        ids: set[str] = set()
        for prefix in self.prefixes:
            for packed in await self.wire.call(
                "HVALS", prefix + keys.SERVES.encode(), patience=self.patience
            ):
                ids.update(msgpack.unpackb(packed)["workflows"])
        return ids
