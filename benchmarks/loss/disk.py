"""The disk after a crash of the machine: it has what the server had fsynced, and nothing behind that.

`kill -9` loses nothing that a server has written to its log, because the kernel keeps it. To find out what
the disk would have, markers are written every 20 ms while the load runs, each on a connection of its own that
then asks with WAITAOF whether it is fsynced. After the kill, the log is cut behind the last write that is
proven to be on the disk: the last confirmed marker, or, with `appendfsync always`, the last call that Redis
has answered, because then it fsyncs before it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.stage import BenchmarkError
from polos_redis.errors import PolosError
from polos_redis.wire.wire import Wire

WRITERS = 50  # of markers, one a second each
PATIENCE = 60.0  # seconds for an fsync
KEY = "loss-marker"


class Markers:
    """Markers in a server's log, and the last one of them that the server has confirmed as fsynced."""

    def __init__(self) -> None:
        self.confirmed = 0
        self.proven = asyncio.Event()
        self._written = 0

    async def _write(self, wire: Wire, delay: float) -> None:
        """Write a marker each second until the connection is lost."""
        try:
            await asyncio.sleep(delay)
            while True:
                self._written += 1
                number = self._written
                second = asyncio.create_task(asyncio.sleep(1))
                wire.send("SET", KEY, marker(number))
                local, _ = await wire.send("WAITAOF", 1, 0, 0)
                if local:
                    self.confirmed = max(self.confirmed, number)
                    self.proven.set()
                await second
        except PolosError:
            pass


@asynccontextmanager
async def markers(url: str) -> AsyncIterator[Markers]:
    """Writes markers inside the block, which begins once one is confirmed. Raises `BenchmarkError` if none
    is."""
    found = Markers()
    wires = [Wire(url, name="loss", timeout=PATIENCE) for _ in range(WRITERS)]
    for wire in wires:
        await wire.connect()
    tasks = [asyncio.create_task(found._write(wire, number / WRITERS)) for number, wire in enumerate(wires)]
    try:
        try:
            async with asyncio.timeout(PATIENCE):
                await found.proven.wait()
        except TimeoutError:
            raise BenchmarkError(f"the server has confirmed no fsync within {PATIENCE:g} s") from None
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for wire in wires:
            wire.abort()


def marker(number: int) -> str:
    """The value of a marker."""
    return f"<marker {number}>"


def cut(data_dir: Path, proofs: Collection[bytes]) -> int:
    """Cut a server's log behind the last write or transaction that contains one of these proofs; returns how
    many bytes it lost. Raises `BenchmarkError` if there is no such write."""
    logs = sorted(data_dir.glob("appendonlydir/*.incr.aof"))
    if len(logs) != 1:
        raise BenchmarkError(f"expected one log in {data_dir}, found {len(logs)}")
    content = logs[0].read_bytes()
    end = 0
    wanted = frozenset(proofs)
    for write_end, words in _writes(content):
        if not wanted.isdisjoint(words):
            end = write_end
    if not end:
        raise BenchmarkError("the log contains nothing that is proven to be fsynced")
    with logs[0].open("r+b") as file:
        file.truncate(end)
    return len(content) - end


def _writes(content: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """The writes of a log: where each ends, and its words. A transaction is one write; what is incomplete at
    the end is left out."""
    position, words, inside = 0, list[bytes](), False
    while position < len(content):
        command = []
        try:
            line_end = content.index(b"\r\n", position)
            count = int(content[position + 1 : line_end])
            position = line_end + 2
            for _ in range(count):
                line_end = content.index(b"\r\n", position)
                size = int(content[position + 1 : line_end])
                start = line_end + 2
                position = start + size + 2
                command.append(content[start : start + size])
        except ValueError:
            return
        if position > len(content):
            return
        name = command[0].upper()
        inside = name == b"MULTI" or (inside and name != b"EXEC")
        words += command
        if not inside:
            yield position, words
            words = []
