"""A TCP proxy in front of a Redis server that fails on request: stalls, resets, loses a reply."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from polos_redis.testing.model.listener import LoopbackListener

NIL = b"*-1\r\n"  # the reply to a blocked read that timed out


class Proxy:
    """`async with Proxy(server.url) as proxy: ... proxy.url`; forwards faithfully unless told to fail."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = unquote(parts.path) if parts.scheme == "unix" else (parts.hostname, parts.port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._lines: set[_Line] = set()
        self._listener = LoopbackListener(self._accept)
        self._marker: bytes | None = None
        self._lost = asyncio.Event()
        self.armed = asyncio.Event()  # set once the request whose reply will be lost has gone through

    async def __aenter__(self) -> Self:
        await self._listener.__aenter__()
        self.url = f"redis://127.0.0.1:{self._listener.port}/0"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.__aexit__(kind, error, trace)

    @property
    def lines(self) -> int:
        """The number of connections through the proxy."""
        return len(self._lines)

    def stall(self) -> None:
        """Stop forwarding in both directions and keep every connection open, new ones included."""
        self._flowing.clear()

    def flow(self) -> None:
        """Resume, starting with what was held back."""
        self._flowing.set()

    def freeze(self) -> None:
        """Silence the current connections permanently, without closing them; new ones work."""
        for line in self._lines:
            line.frozen = True

    def half_close(self) -> None:
        """End the stream of replies on every connection; requests still reach the server."""
        for line in list(self._lines):
            line.half_close()

    @property
    def silent_lines(self) -> int:
        """The number of connections that were frozen or half closed and that nobody has closed yet."""
        return sum(line.frozen for line in self._lines)

    def reset(self) -> None:
        """Reset every connection, dropping what was held back."""
        for line in list(self._lines):
            line.reset()

    def lose_reply(self, marker: bytes) -> asyncio.Event:
        """Deliver the next request that contains `marker`, but lose its reply by breaking the connection.

        Returns an event that is set once that has happened. Empty replies to blocked reads do not count.
        """
        self._marker, self._lost = marker, asyncio.Event()
        self.armed.clear()
        return self._lost

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        self._lines.add(line)
        back: asyncio.StreamWriter | None = None
        try:
            if isinstance(self._target, str):
                there, back = await asyncio.open_unix_connection(self._target)
            else:
                there, back = await asyncio.open_connection(*self._target)
            requests = asyncio.create_task(self._requests(line, reader, back))
            replies = asyncio.create_task(self._replies(line, there, writer))
            try:
                await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
            finally:
                requests.cancel()
                replies.cancel()
                await asyncio.gather(requests, replies, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._lines.discard(line)
            for one in (writer, back):
                if one is not None:  # at once: a cancelled wait for the close would leave it open
                    one.transport.abort()

    async def _requests(self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._flowing.wait()
            if line.frozen:
                continue
            if self._marker is not None and self._marker in data:
                self._marker = None
                line.loses = True
                self.armed.set()
            sink.write(data)
            await sink.drain()

    async def _replies(self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._flowing.wait()
            if line.frozen:
                continue
            if line.loses and data != NIL:
                line.reset()
                self._lost.set()
                return
            sink.write(data)
            await sink.drain()


class _Line:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self._client = client
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.loses = False
        self.frozen = False

    def half_close(self) -> None:
        self.frozen = True
        if self._client.can_write_eof() and not self._client.is_closing():
            with suppress(OSError):  # the client has just closed it
                self._client.write_eof()

    def reset(self) -> None:
        sock: socket.socket = self._client.get_extra_info("socket")
        if not self._client.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        self._client.transport.abort()
        self.task.cancel()
