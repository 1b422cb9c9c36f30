"""The network of one machine: it forwards to a server, is late to replicas, and ends with the machine."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future

READ_SIZE = 1 << 16


class Network:
    """A proxy in front of a server. What the server sends to its replicas arrives `lag` seconds later.

    A crash drops all connections, and with them what was still on its way to a replica. The proxy runs in a
    thread, so that a busy event loop does not delay it.
    """

    def __init__(self, port: int, lag: float) -> None:
        self._target, self._lag = port, lag
        self._lines: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened: Future[int] = Future()
        self._crashed = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()
        self.port = self._opened.result()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def crash(self) -> None:
        """Drop everything at once, and accept no more connections."""
        if not self._crashed.is_set():
            self._loop.call_soon_threadsafe(self._drop)
            self._crashed.wait()

    def close(self) -> None:
        """Crash, and end the thread."""
        self.crash()
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._ended = asyncio.Event()
        self._opened.set_result(int(self._server.sockets[0].getsockname()[1]))
        await self._ended.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _drop(self) -> None:
        self._server.close()
        for line in self._lines:
            line.transport.abort()
        for task in self._tasks:
            task.cancel()
        self._ended.set()
        self._crashed.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._lines.add(writer)
        back: asyncio.StreamWriter | None = None
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._lines.add(back)
            line = _Line(self._lag)
            async with asyncio.TaskGroup() as group:
                group.create_task(line.requests(reader, back))
                group.create_task(line.replies(there, writer))
                group.create_task(line.deliver(writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for one in (writer, back):
                if one is not None:
                    self._lines.discard(one)
                    one.transport.abort()


class _Line:
    """One connection. It is a replica's from its PSYNC on."""

    def __init__(self, lag: float) -> None:
        self._lag = lag
        self._late = False
        self._queue: deque[tuple[float, bytes]] = deque()  # when it arrives, and what
        self._filled = asyncio.Event()

    async def requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(READ_SIZE):
            self._late = self._late or b"PSYNC" in data
            sink.write(data)
            await sink.drain()
        raise ConnectionError("closed")

    async def replies(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(READ_SIZE):
            if self._late:
                self._queue.append((asyncio.get_running_loop().time() + self._lag, data))
                self._filled.set()
            else:
                sink.write(data)
                await sink.drain()
        raise ConnectionError("closed")

    async def deliver(self, sink: asyncio.StreamWriter) -> None:
        while True:
            await self._filled.wait()
            while self._queue:
                due, data = self._queue.popleft()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                sink.write(data)
                await sink.drain()
            self._filled.clear()
