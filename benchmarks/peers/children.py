"""The child processes of the command: installers, and a peer's worker and client.

Each has a session of its own, so that Ctrl-C reaches the command alone, which then ends them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.stage import BenchmarkError

ROOT = Path(__file__).parents[2]
ANSWER_SECONDS = 120.0  # in addition to several times what a request asks for
OUTPUT_LIMIT = 1 << 24  # of a line


def last_line(log: Path) -> str:
    """The last line of a log that has text."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it has said nothing"


async def run(command: Sequence[str | Path], log: Path) -> None:
    """Run a program until it ends. Raises `BenchmarkError` with the end of its output if it fails."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        status = await process.wait()
    finally:
        await _end(process)
    if status:
        raise BenchmarkError(f"`{Path(command[0]).name}` has failed: {last_line(log)}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a process and its children. Does nothing if it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


class PeerProcess:
    """A peer's worker or client."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._role, self._process, self._log = role, process, log

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Have the client measure something. Raises `BenchmarkError` if it ends or does not answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self.line(request["seconds"]))
        return answer

    async def line(self, seconds: float = 0.0) -> bytes:
        """Its next line."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(4 * seconds + ANSWER_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchmarkError(f"its {self._role} has not answered: {last_line(self._log)}") from None
        if not line:
            status = await self._process.wait()
            raise BenchmarkError(f"its {self._role} has ended with status {status}: {last_line(self._log)}")
        return line


@asynccontextmanager
async def peer_process(
    role: str, python: Path, module: str, address: str, loop: str, log: Path
) -> AsyncIterator[PeerProcess]:
    """Runs a peer's worker or client inside the block, which begins when it is ready."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-m", f"benchmarks.peers.{module}", role, address, loop),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            limit=OUTPUT_LIMIT,
            cwd=ROOT,
        )
    try:
        child = PeerProcess(role, process, log)
        await child.line()
        yield child
    finally:
        await _end(process)
