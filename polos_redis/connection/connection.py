"""The connection of a process to one namespace: the base of `PolosClient`.

Code that only needs the stored state (answers, handles, events, API keys, schedules, metrics) takes a
`Connection`, so it does not depend on the client.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from polos_redis import settings
from polos_redis.connection.session import Session
from polos_redis.errors import ConfigurationError
from polos_redis.state import keys
from polos_redis.state.executions import Ended
from polos_redis.state.store import Store
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.durable import Durability
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.servers import ranges
from polos_redis.wire.urls import parse_all, split


class Connection:
    """A namespace on one Redis, or on several plain servers, with the options of `PolosClient`.

    `url` names a server, the master of a sentinel service or a cluster. Several servers, given as a list of
    URLs or with commas between them, share the partitions; their number and order are fixed per namespace.

    It connects on first use and need not be closed. It is not tied to an event loop: a second `asyncio.run`
    and a forked child make new connections. Tasks may share it, and so may threads that each run a loop.

    `credential_provider` names user and password of each new connection, for credentials that rotate: an
    object with a method `get_credentials`, such as redis-py's `CredentialProvider`, that returns
    `(user, password)`. Redis closes connections whose user has changed, and the next one asks again.

    `durability` says when a call that starts, answers, cancels, retries or deletes an execution, or publishes
    an event, returns: once Redis has executed it ("server", the default), has fsynced its log ("fsync"), or
    `replicas` replicas have received it ("replicated").
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        namespace: str | None = None,
        *,
        partitions: int | None = None,
        retention_seconds: float | None = None,
        max_value_bytes: int | None = None,
        patience_seconds: float | None = None,
        durability: Durability | None = None,
        replicas: int | None = None,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        self.url: str = settings.resolve("url", url)
        servers = parse_all(self.url)  # raises for an invalid URL here, not at the first call
        self.credentials = _checked(credential_provider, self.url)
        self.namespace = keys.check_namespace(settings.resolve("namespace", namespace))
        self.partitions: int = settings.resolve("partitions", partitions)
        ranges(self.partitions, len(servers))  # raises if there are fewer partitions than servers
        self.retention_ms = int(settings.resolve("retention_seconds", retention_seconds) * 1000)
        self.max_value_bytes: int = settings.resolve("max_value_bytes", max_value_bytes)
        self.patience: float = settings.resolve("patience_seconds", patience_seconds)
        self.durability: Durability = settings.resolve("durability", durability)
        self.replicas: int = settings.resolve("replicas", replicas)
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}

    async def session(self) -> Session:
        """Returns the connections of the running loop, made on first use."""
        session = self._opened()
        if not session.checked:
            await session.check()
        return session

    def _opened(self) -> Session:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.pid != os.getpid():
            for other in list(self._sessions):  # another thread may do the same for its loop
                if other.is_closed() and (left := self._sessions.pop(other, None)) is not None:
                    left.abort()
            session = Session(self.url, self.namespace, self.partitions, self.patience, self.credentials)
            self._sessions[loop] = session
        return session

    async def store(self) -> Store:
        """Returns the store of the running loop."""
        return (await self.session()).store

    async def acknowledging_store(self, durability: Durability | None = None) -> Store:
        """Returns the store for calls whose outcome somebody acts on: it confirms what they write.

        `durability` is that of the call, by default the connection's. Raises `ConfigurationError` if the
        servers can't confirm writes that way.
        """
        session = await self.session()
        if durability is None:
            durability = self.durability
        else:
            durability = settings.resolve("durability", durability)
        if durability == "server":
            return session.store
        return await session.durable_store(durability, self.replicas)

    async def wait_for_end(self, execution_id: str) -> Ended:
        """Wait until an execution has ended; returns its end. Raises `ExecutionNotFoundError`."""
        return await (await self.session()).wait_for_end(execution_id)

    async def aclose(self) -> None:
        """Close the connections of this loop. The connection may be used again afterwards."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class PatientConnection(Connection):
    """The connections of a client, for calls made inside activations: they wait for Redis without end, but
    not for a confirmation of their writes. One that Redis has lost is made again."""

    def __init__(self, client: Connection) -> None:
        vars(self).update(vars(client))  # its sessions too
        self.durability = "server"

    async def session(self) -> Session:
        session = self._opened().without_patience_limit()
        if not session.checked:
            await session.check()
        return session

    def wire(self) -> AnyWire:
        """The wire of the running loop, which need not be connected yet."""
        return self._opened().wire


def _checked(provider: CredentialProvider | None, url: str) -> CredentialProvider | None:
    if provider is None:
        return None
    if not callable(getattr(provider, "get_credentials", None)) and not hasattr(
        provider, "get_credentials_async"
    ):
        raise ConfigurationError(
            "credential_provider= must have a method get_credentials that returns (user, password), "
            f"not {type(provider).__name__}"
        )
    if any("@" in urlsplit(one).netloc for one in split(url)):
        raise ConfigurationError(
            "the Redis URL has a user or password, and there is a credential_provider=: leave out one of them"
        )
    return provider
