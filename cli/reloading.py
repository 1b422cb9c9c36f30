"""The worker processes of `polos dev`: one for the code as it is, and those of earlier code until they have
finished their steps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from watchfiles import PythonFilter, awatch

from polos_redis import tasks
from polos_redis.errors import ConfigurationError, PolosError

from .dev_worker import TERMINAL_SIGNALS

RESTART_SECONDS = 1.0  # before a worker that ended by itself is replaced
PATIENT_SECONDS = 0.5  # of a stop, before it says what it waits for
KILL_SECONDS = 5.0  # beyond the grace period, for a worker whose event loop is blocked
MOST_NAMED = 3  # files that one line names


class NotLoadedError(PolosError):
    """The modules can't be imported, or the worker can't work."""


class WorkerProcess:
    """A worker in a process of its own (`dev_worker.py`).

    `imported` has the ids of its workflows, or raises `NotLoadedError`; `ended` has its exit code.
    """

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> None:
        self._process = process
        self.is_stopping = False
        self.failure: str | None = None
        self.imported: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.imported.add_done_callback(tasks.mark_retrieved)
        self.ended = asyncio.create_task(self._read(reader))

    @classmethod
    async def start(cls, modules: Sequence[str], environment: Mapping[str, str]) -> Self:
        ours, theirs = socket.socketpair()
        # Until the new process handles them; as an exception they would end its start with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "polos_redis.cli.dev_worker", str(theirs.fileno()), *modules),
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = cls(process, reader)
        worker.ended.add_done_callback(lambda _: writer.close())
        return worker

    async def _read(self, reader: asyncio.StreamReader) -> int:
        while row := await reader.readline():
            report = json.loads(row)
            if "loaded" in report:
                self.imported.set_result(report["loaded"])
            else:
                self.failure = report["failed"]
        code = await self._process.wait()
        if not self.imported.done():
            reason = self.failure or f"the import ended the process with exit code {code}"
            self.imported.set_exception(NotLoadedError(reason))
        return code

    def stop(self) -> None:
        """Has the worker finish its steps and end; a second call does not wait for the steps."""
        self.is_stopping = True
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """Ends the process at once."""
        self.is_stopping = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


class ReloadingWorker:
    """The worker that runs the code as it is, and those of earlier code until they have ended."""

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str],
        grace_seconds: float,
        say: Callable[..., None],
    ) -> None:
        self.workflows: list[str] = []  # of the code that was imported last
        self._modules, self._environment = modules, environment
        self._grace_seconds, self._say = grace_seconds, say
        self._current: WorkerProcess | None = None
        self._running: dict[WorkerProcess, asyncio.Task[None]] = {}

    async def load(self) -> bool:
        """Imports the code as it is, in a new process that then takes over; returns whether it did. If the
        import fails, the current worker stays. Cancelling this ends the new process."""
        new = await WorkerProcess.start(self._modules, self._environment)
        self._running[new] = asyncio.create_task(self._follow(new))
        try:
            self.workflows = await asyncio.shield(new.imported)
        except asyncio.CancelledError:
            new.kill()
            raise
        except NotLoadedError as error:
            stays = "; the worker keeps the code that it has" if self._current is not None else ""
            self._say((f"not loaded: {error}{stays}", "red"))
            return False
        before, self._current = self._current, new
        if before is not None:
            before.stop()
        return True

    async def _follow(self, worker: WorkerProcess) -> None:
        """Replaces the current worker if it ends by itself, unless it said that it can't work."""
        await asyncio.wait([worker.ended])
        if worker is self._current and not worker.is_stopping:
            self._current = None
            if worker.failure is not None:
                self._say((f"the worker can't work: {worker.failure}", "red"))
            else:
                code = worker.ended.result()
                self._say((f"the worker ended with exit code {code}; another one is started", "red"))
                await asyncio.sleep(RESTART_SECONDS)
                if self._current is None:
                    await self.load()
        del self._running[worker]

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stops all workers, and does not wait for their steps once `hurry` is set."""
        for following in self._running.values():
            following.cancel()  # or it would replace one that has just ended
        workers = [worker for worker in self._running if not worker.ended.done()]
        for worker in workers:
            worker.stop()
        if await self._left(workers, PATIENT_SECONDS):
            self._say(
                f"waiting up to {self._grace_seconds:g} s for running steps; Ctrl-C again does not wait"
            )
            hurried = asyncio.create_task(hurry.wait())
            all_ended: asyncio.Future[Any] = asyncio.gather(*(worker.ended for worker in workers))
            await asyncio.wait(
                {all_ended, hurried},
                timeout=self._grace_seconds + KILL_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            hurried.cancel()
            for worker in await self._left(workers, 0):
                worker.stop()
            for worker in await self._left(workers, PATIENT_SECONDS):
                worker.kill()
            await all_ended

    async def _left(self, workers: Sequence[WorkerProcess], seconds: float) -> list[WorkerProcess]:
        """Waits until the workers have ended, or for some seconds; returns those that have not ended."""
        if workers:
            await asyncio.wait([worker.ended for worker in workers], timeout=seconds)
        return [worker for worker in workers if not worker.ended.done()]


class _Sources(PythonFilter):
    """Python files, without those of virtual environments."""

    ignore_dirs = (*PythonFilter.ignore_dirs, "site-packages")


async def changes_in(folders: Sequence[Path]) -> AsyncIterator[str]:
    """Yields the names of the Python files that have changed, for each burst of changes.
    Raises `ConfigurationError` if the system can't watch them."""
    try:
        async for changes in awatch(*folders, watch_filter=_Sources()):
            yield _named({path for _, path in changes})
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"can't watch {', '.join(map(str, folders))}: {error}") from error


def _named(paths: set[str]) -> str:
    names = sorted(map(os.path.relpath, paths))
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join(names[:MOST_NAMED] + more)
