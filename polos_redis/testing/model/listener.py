"""A listening socket for a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class LoopbackListener:
    """`async with LoopbackListener(handle) as listener: ... listener.port`; the end closes every connection,
    even one that arrives during the shutdown."""

    def __init__(self, handle: Handle, port: int = 0) -> None:
        self._handle = handle
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._shut = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", self._port)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut = True
        # Stop accepting, then close: a closing server forgets a connection that it is just accepting.
        for sock in self._server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        await self._turns()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await self._turns()  # an aborted transport closes in the next turn

    async def _turns(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: one that is cancelled before it starts could close nothing.
        self._writers.append(writer)
        if not self._shut:
            self._tasks.append(asyncio.create_task(self._handle(reader, writer)))
