"""The layout of a namespace: its number of partitions, and which of its servers has which of them.

It is fixed when the namespace is first used. Each server records its share in its `meta` hash: its position
among the servers, the number of partitions, and the range of them that it has. Another number of partitions,
another order of the servers, or one more or less is then an error instead of a call to the wrong server.

When all servers of a namespace have their records, each is marked `complete`. So a server without a record
is known to be new, or to have lost its data, as soon as another one is complete.

A record also has the format of what is stored, and the lowest format that a reader must know. A release that
stores what earlier ones would misread raises the latter. They then refuse to connect; those that are
connected read it again now and then (`check_reader`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from polos_redis.errors import ConfigurationError, RedisUnavailableError, ReleaseTooOldError
from polos_redis.state import keys
from polos_redis.values.text import text
from polos_redis.wire.cluster import ClusterWire
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.discovery import ASK_SECONDS, server_at
from polos_redis.wire.servers import ranges
from polos_redis.wire.urls import split
from polos_redis.wire.wire import Wire

SERVER, PARTITIONS, RANGE, COMPLETE = "server", "partitions", "range", "complete"  # fields
FORMAT, MINIMUM_READER = "format", "minimum_reader"  # fields
KNOWN_FORMAT = 1  # the newest format that this release reads and writes
CLOCK, SKIPS = "clock", "skips"  # a field of a test's namespace, and its value: see clock.py
WORLD = "world-"  # a test's namespace begins with it

Call = Callable[..., Awaitable[Any]]  # sends a command to one server
Record = Mapping[str, str]
AnyServer = Wire | ClusterWire  # a cluster counts as one server


class Layout:
    """The layout of one namespace on the servers of a URL. A cluster counts as one server."""

    def __init__(
        self, url: str, namespace: str, partitions: int, credentials: CredentialProvider | None = None
    ) -> None:
        self._urls = split(url)
        self._namespace = namespace
        self._credentials = credentials
        self._key = keys.prefix(namespace, 0) + keys.META  # on each server, whatever partitions it has
        count = len(self._urls)
        self._records: list[Record] = [
            {
                SERVER: f"{position} of {count}",
                PARTITIONS: str(partitions),
                RANGE: f"{share[0]} to {share[-1]}",
            }
            for position, share in enumerate(ranges(partitions, count), 1)
        ]

    async def check(self, call: Call, address: str) -> bool:
        """Record the layout on the namespace's only server, or compare it with the record there. Returns
        whether time can be skipped in the namespace. Raises `ConfigurationError` if the layouts differ, or if
        this release can't read what is stored."""
        found = await self._read(call)
        if found.keys() >= self._records[0].keys():
            self._compare(0, found, address)
        else:
            await self._record(0, call, address)
        return found.get(CLOCK) == SKIPS

    async def compare(self, position: int, server: AnyServer, patience: float | None) -> Record:
        """Returns a server's record, empty if it has none, and records nothing. Raises `ConfigurationError`
        if it is not that of its position."""
        found = await self._read(partial(server.call, patience=patience))
        self._compare(position, found, server.address)
        return found

    async def verify(self, position: int, server: Wire) -> None:
        """Compare a server's record with its position among several. Raises `ConfigurationError` if they
        differ, or if another server has a record and this one has none.

        While none is complete, records the layout on all servers. That raises `RedisUnavailableError` if one
        of them can't be reached.
        """
        found = await self._read(server.call)
        self._compare(position, found, server.address)
        if COMPLETE not in found:
            await self._set_up()

    async def _set_up(self) -> None:
        """Record the layout on all servers, over temporary connections."""
        wires = [
            server_at(
                url,
                name="",
                timeout=ASK_SECONDS,
                connect_timeout=ASK_SECONDS,
                credentials=self._credentials,
            )
            for url in self._urls
        ]
        calls = [partial(wire.call, patience=ASK_SECONDS) for wire in wires]
        try:
            await asyncio.gather(*(wire.connect() for wire in wires))
            found = await asyncio.gather(*map(self._read, calls))
            for position, wire in enumerate(wires):
                self._compare(position, found[position], wire.address)
            self._refuse_new_servers(found, wires)
            # The order of URLs: of two processes with different lists, one is refused before it has written.
            for position in sorted(range(len(wires)), key=self._urls.__getitem__):
                await self._record(position, calls[position], wires[position].address)
            for call in calls:
                await call("HSET", self._key, COMPLETE, 1)
        except RedisUnavailableError as error:
            raise RedisUnavailableError(
                f"the first use of namespace {self._namespace!r} needs all of its servers: {error}"
            ) from error
        finally:
            await asyncio.gather(*(wire.close() for wire in wires))

    async def _read(self, call: Call) -> Record:
        names = (SERVER, PARTITIONS, RANGE, COMPLETE, CLOCK, MINIMUM_READER)
        values = await call("HMGET", self._key, *names)
        return {name: text(value) for name, value in zip(names, values, strict=True) if value is not None}

    async def _record(self, position: int, call: Call, address: str) -> None:
        """Record a server's share. Of two processes that disagree, one is refused at the first field."""
        formats = {FORMAT: KNOWN_FORMAT, MINIMUM_READER: KNOWN_FORMAT}
        for name, value in {**formats, **self._records[position]}.items():
            await call("HSETNX", self._key, name, value)
            self._compare(position, await self._read(call), address)

    def _compare(self, position: int, found: Record, address: str) -> None:
        """Raises `ConfigurationError` if a server's record is not that of its position, or
        `ReleaseTooOldError`."""
        check_reader(found.get(MINIMUM_READER, ""), self._namespace, address)
        record = self._records[position]
        differs = [name for name in record if found.get(name, record[name]) != record[name]]
        if differs and SERVER not in differs and PARTITIONS in differs:
            raise ConfigurationError(
                f"namespace {self._namespace!r} on Redis at {address} has {found[PARTITIONS]} partitions, "
                f"not {record[PARTITIONS]}: set POLOS_PARTITIONS to that number, which can't be changed"
            )
        if differs:
            raise ConfigurationError(
                f"Redis at {address} is server {found.get(SERVER, '?')} of namespace {self._namespace!r}, "
                f"with partitions {found.get(RANGE, '?')} of {found.get(PARTITIONS, '?')}, and the Redis URL "
                f"makes it server {record[SERVER]}, with partitions {record[RANGE]} of {record[PARTITIONS]}: "
                "name the same servers in the same order as before, which can't be changed"
            )

    def _refuse_new_servers(self, found: list[Record], wires: list[Wire]) -> None:
        """Raises `ConfigurationError` if a server has no record, though the namespace was set up."""
        complete = [position for position, record in enumerate(found) if COMPLETE in record]
        for position, record in enumerate(found):
            if complete and SERVER not in record:
                other = complete[0]
                raise ConfigurationError(
                    f"Redis at {wires[position].address} holds nothing of namespace {self._namespace!r}, of "
                    f"which Redis at {wires[other].address} is server {found[other][SERVER]}: it is another "
                    f"server or has lost its data; name server {self._records[position][SERVER]} in its "
                    "place, or restore the data"
                )


def can_read(minimum: str) -> bool:
    """Whether this release knows the format that a namespace's minimum reader must know; an empty text is
    that of a namespace that has not been used."""
    return int(minimum or KNOWN_FORMAT) <= KNOWN_FORMAT


def check_reader(minimum: str, namespace: str, address: str) -> None:
    """Raises `ReleaseTooOldError` unless this release can read a namespace."""
    if not can_read(minimum):
        raise ReleaseTooOldError(
            f"namespace {namespace!r} on Redis at {address} needs a release that reads format {minimum}, and "
            f"this one reads up to format {KNOWN_FORMAT}: deploy the release that is in use there"
        )
