"""Connections of one process to several plain servers: one multiplexed wire per server.

The order of the servers' URLs assigns the partitions: each server has a contiguous range of them. So a call
goes to the server of its key's partition, and that server alone decides how long the call has to wait.
"""

from __future__ import annotations

import asyncio
import itertools
from asyncio import Future
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from polos_redis.errors import ConfigurationError
from polos_redis.wire.cluster import prefix_of
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.discovery import server_at
from polos_redis.wire.transport import Arg, Script
from polos_redis.wire.wire import Wire

Verify = Callable[[int, Wire], Awaitable[None]]


def ranges(partitions: int, servers: int) -> list[range]:
    """The partitions of each server: contiguous, in the servers' order, and at most one more on some than on
    others. Raises `ConfigurationError` if there are fewer partitions than servers."""
    if partitions < servers:
        raise ConfigurationError(
            f"the Redis URL names {servers} servers for {partitions} partition{'s' * (partitions > 1)}: set "
            f"POLOS_PARTITIONS to {servers} or more; it can't be changed later"
        )
    bounds = [partitions * position // servers for position in range(servers + 1)]
    return [range(first, end) for first, end in itertools.pairwise(bounds)]


class ServersWire:
    """`Wire` for several servers: the same calls, each sent to the server that has its key's partition.

    `verify` gets the position of a server and a new connection to it, before that is used. It raises if the
    server is not the one that belongs there. `epoch` rises with each connection that is made. A ServersWire
    belongs to the event loop on which it is first used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        partitions: int,
        *,
        name: str,
        scripts: Sequence[Script],
        timeout: float = 5.0,
        credentials: CredentialProvider | None = None,
        verify: Verify | None = None,
    ) -> None:
        self.epoch = 0
        self.credentials = credentials
        self._verify = verify
        self._servers = [
            server_at(
                url,
                name=name,
                scripts=scripts,
                timeout=timeout,
                credentials=credentials,
                on_connect=partial(self._connected, position),
            )
            for position, url in enumerate(urls)
        ]
        shares = ranges(partitions, len(urls))
        self._of_partition = [
            server for server, share in zip(self._servers, shares, strict=True) for _ in share
        ]
        self._of_prefix: dict[bytes, Wire] = {}  # of the partitions in use

    @property
    def address(self) -> str:
        """The addresses of all servers."""
        return ", ".join(server.address for server in self._servers)

    @property
    def connected(self) -> bool:
        """Whether any server can be called."""
        return any(server.connected for server in self._servers)

    async def _connected(self, position: int, server: Wire) -> None:
        if self._verify is not None:
            await self._verify(position, server)
        self.epoch += 1

    def _server(self, prefix: bytes | None) -> Wire:
        """The server of a partition; without a prefix any server, preferably a connected one."""
        if prefix is None:
            return min(self._servers, key=lambda server: not server.connected)
        server = self._of_prefix.get(prefix)
        if server is None:
            partition = int(prefix[prefix.rindex(b":", 0, -2) + 1 : -2])
            server = self._of_prefix[prefix] = self._of_partition[partition]
        return server

    # --- calls ---

    def send(self, *args: Arg) -> Future[Any]:
        """Like `Wire.send`; a command without a key goes to any server."""
        return self._server(prefix_of(args)).send(*args)

    def run(self, script: Script, key: bytes, *args: Arg) -> Future[Any]:
        """Like `Wire.run`."""
        return self._server(key).run(script, key, *args)

    async def call(self, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call`; a command without a key goes to any server."""
        return await self._server(prefix_of(args)).call(*args, patience=patience)

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call_script`."""
        return await self._server(key).call_script(script, key, *args, patience=patience)

    async def repeat(self, key: bytes, send: Callable[[Wire], Future[Any]], patience: float | None) -> Any:
        """Like `Wire.repeat`."""
        return await self.node(key).repeat(key, send, patience)

    async def ready(self, key: bytes) -> None:
        """Wait until the server that has a key can be called."""
        await self.node(key).ready(key)

    # --- servers, for callers that need more than calls ---

    def groups(self, prefixes: Sequence[bytes]) -> list[list[bytes]]:
        """Groups of partitions that one blocking read can cover: those of each server."""
        found: dict[Wire, list[bytes]] = {}
        for prefix in prefixes:
            found.setdefault(self._server(prefix), []).append(prefix)
        return list(found.values())

    def beside(self, key: bytes, **options: Any) -> Wire:
        """A separate connection, with these options, to the server that has a key."""
        return self.node(key).beside(key, **options)

    def node(self, key: bytes) -> Wire:
        """The connection to the server that has a key."""
        return self._server(prefix_of((key,)))

    async def nodes(self) -> list[Wire]:
        """The connections to all servers."""
        return list(self._servers)

    # --- closing ---

    async def close(self) -> None:
        """Like `Wire.close`."""
        await asyncio.gather(*(server.close() for server in self._servers))

    def abort(self) -> None:
        """Like `Wire.abort`."""
        for server in self._servers:
            server.abort()
