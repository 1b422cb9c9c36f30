"""The connection of a process to one namespace: the base of `PolosClient`.

Code that only needs the stored state (answers, handles, events, API keys, schedules, metrics) takes a
`Connection`, so it does not depend on the client.
"""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Self

from polos_redis import settings
from polos_redis.connection.session import Session
from polos_redis.state import keys
from polos_redis.state.executions import Ended
from polos_redis.state.store import Store
from polos_redis.wire.urls import parse


class Connection:
    """A namespace on one Redis, with the options of `PolosClient`.

    It connects on first use and need not be closed. It is not tied to an event loop: a second `asyncio.run`
    and a forked child make new connections. Tasks of one loop may share it.
    """

    def __init__(
        self,
        url: str | None = None,
        namespace: str | None = None,
        *,
        partitions: int | None = None,
        retention_seconds: float | None = None,
        max_value_bytes: int | None = None,
        patience_seconds: float | None = None,
    ) -> None:
        self.url: str = settings.resolve("url", url)
        parse(self.url)  # raises for an invalid URL here, not at the first call
        self.namespace = keys.check_namespace(settings.resolve("namespace", namespace))
        self.partitions: int = settings.resolve("partitions", partitions)
        self.retention_ms = int(settings.resolve("retention_seconds", retention_seconds) * 1000)
        self.max_value_bytes: int = settings.resolve("max_value_bytes", max_value_bytes)
        self.patience: float = settings.resolve("patience_seconds", patience_seconds)
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}

    async def session(self) -> Session:
        """Returns the connections of the running loop, made on first use."""
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.pid != os.getpid():
            for other in [other for other in self._sessions if other.is_closed()]:
                self._sessions.pop(other).abort()
            session = Session(self.url, self.namespace, self.partitions, self.patience)
            self._sessions[loop] = session
        if not session.checked:
            await session.check()
        return session

    async def store(self) -> Store:
        """Returns the store of the running loop."""
        return (await self.session()).store

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
