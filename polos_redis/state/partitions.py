"""Partitions: the hash slots a namespace is spread over, and the wire that reaches them.

An execution lives in the partition of its root's id, with all its descendants and its topics. A free topic, a
semaphore and a schedule live in the partition of their name or id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import Any, Protocol

import msgpack

from polos_redis.state import keys
from polos_redis.state.layout import CLOCK, MINIMUM_READER, SKIPS, WORLD, Layout, check_reader
from polos_redis.values.text import raw, text
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.servers import ServersWire
from polos_redis.wire.transport import Arg, Script


class Acknowledging(Protocol):
    """Sends the scripts whose outcome a caller acts on: a wire, or one that has their writes confirmed."""

    async def call_script(
        self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0
    ) -> Any: ...


class Partitions:
    """The partitions of one namespace. Calls are repeated while Redis is away, for `patience` seconds; None
    means without end."""

    def __init__(
        self,
        wire: AnyWire,
        namespace: str,
        number: int,
        patience: float | None = 30.0,
        acknowledging: Acknowledging | None = None,
    ) -> None:
        self.wire = wire
        self.acknowledging: Acknowledging = acknowledging or wire
        self.namespace = namespace
        self.number = number
        self.patience = patience
        self.prefixes = [keys.prefix(namespace, p).encode() for p in range(number)]

    def prefix(self, execution_id: str) -> bytes:
        """Returns the prefix of the partition an execution lives in."""
        if self.number == 1 and isinstance(execution_id, str):
            return self.prefixes[0]
        return self.prefixes[keys.partition_of(keys.root_of(execution_id), self.number)]

    def topic_prefix(self, topic: str) -> bytes:
        """Returns the prefix of the partition a topic lives in."""
        execution_id = keys.parse_topic(topic)[1]
        if execution_id is not None:
            return self.prefix(execution_id)
        return self.prefixes[keys.partition_of(topic, self.number)]

    def semaphore_prefix(self, semaphore: str) -> bytes:
        """Returns the prefix of the partition a semaphore lives in."""
        return self.prefixes[keys.partition_of(semaphore, self.number)]

    def rate_prefix(self, caller: str) -> bytes:
        """Returns the prefix of the partition a caller's requests are counted in."""
        return self.prefixes[keys.partition_of(caller, self.number)]

    async def workflows(self, prefix: bytes, patience: float | None) -> list[bytes]:
        """Returns the names under which a partition lists executions, a bounded number: workflow ids, and b""
        if it has executions of further ones."""
        found: list[bytes] = await self.wire.call(
            "ZRANGE", prefix + keys.WORKFLOWS.encode(), 0, -1, patience=patience
        )
        return sorted(found)

    async def queues(self, prefix: bytes, patience: float | None) -> list[bytes]:
        """Returns the queues that have a stream in a partition."""
        found: list[bytes] = await self.wire.call(
            "SMEMBERS", prefix + keys.QUEUES.encode(), patience=patience
        )
        return sorted(found)

    async def check(self) -> bool:
        """Fix the namespace's layout on first use. Returns whether it is a test's, whose time can be skipped.
        Raises `ConfigurationError` if the layout differs from the fixed one. Of several servers, each is
        checked when it is connected instead."""
        call = partial(self.wire.call, patience=self.patience)
        if isinstance(self.wire, ServersWire):
            if not self.namespace.startswith(WORLD):  # no client needs the first server only to ask
                return False
            found = await call("HGET", self.prefixes[0] + keys.META.encode(), CLOCK)
            return bool(found == SKIPS.encode())
        layout = Layout("", self.namespace, self.number)
        return await layout.check(call, self.wire.address)

    async def check_reader(self) -> None:
        """Raises `ReleaseTooOldError` if the namespace has been upgraded so that this release can't read it.
        The server of partition 0 says so."""
        minimum = await self.wire.call(
            "HGET", self.prefixes[0] + keys.META.encode(), MINIMUM_READER, patience=self.patience
        )
        check_reader(text(minimum), self.namespace, self.wire.address)

    def ask_reader(self) -> asyncio.Future[bytes | None]:
        """Ask what `check_reader` asks, without waiting for it or repeating it; returns the wire's future."""
        return self.wire.send("HGET", self.prefixes[0] + keys.META.encode(), MINIMUM_READER)


def pack_roots(workflows: Collection[str]) -> bytes:
    """Returns the script's argument for the workflows whose trees a listing is restricted to."""
    packed: bytes = msgpack.packb([raw(one) for one in sorted(workflows)], use_bin_type=False)
    return packed if workflows else b""
