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
from .usage import UsageError

RESTART_SECONDS = 1.0  # before a worker that ended by itself is replaced
PATIENT_SECONDS = 0.5  # of a stop, before it says what it waits for
HURRIED_SECONDS = 2.0  # of a stop that does not wait for steps
KILL_SECONDS = 5.0  # beyond the grace period, for a worker whose event loop is blocked
MOST_NAMED = 3  # files that one line names


class NotLoadedError(PolosError):
    """The modules can't be imported. `is_missing`: because there is no such module or file."""

    def __init__(self, reason: str, *, is_missing: bool = False) -> None:
        self.is_missing = is_missing
        super().__init__(reason)


class WorkerProcess:
    """A worker in a process of its own (`dev_worker.py`).

    `imported` has the ids of its workflows, or raises `NotLoadedError`; then it waits for `begin`. `ended`
    has its exit code; `failure` is why it can't work.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process, self._writer = process, writer
        self.is_stopping = False
        self.failure: str | None = None
        self.imported: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.imported.add_done_callback(tasks.mark_retrieved)
        self.ended = asyncio.create_task(self._read(reader))

    @classmethod
    async def start(
        cls, modules: Sequence[str], environment: Mapping[str, str], lifeline: int | None
    ) -> Self:
        """Starts a process. `lifeline` is that of an `EmbeddedServer`, which runs until it has ended."""
        ours, theirs = socket.socketpair()
        # A copy: uvloop forks, and a fork of the server's owner closes its own.
        server = -1 if lifeline is None else os.dup(lifeline)
        program = (sys.executable, "-m", "polos_redis.cli.dev_worker", str(theirs.fileno()), str(server))
        # Until the new process handles them; as an exception they would end its start with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
        try:
            process = await asyncio.create_subprocess_exec(
                *(*program, *modules),
                env=environment,
                pass_fds=[one for one in (theirs.fileno(), server) if one >= 0],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
            theirs.close()
            if server >= 0:
                os.close(server)
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    async def _read(self, reader: asyncio.StreamReader) -> int:
        while row := await reader.readline():
            report = json.loads(row)
            if "loaded" in report:
                self.imported.set_result(report["loaded"])
            elif self.imported.done():
                self.failure = report["failed"]
            else:
                self.imported.set_exception(NotLoadedError(report["failed"], is_missing=report["is_missing"]))
        code = await self._process.wait()
        self._writer.close()
        if not self.imported.done():
            reason = f"the import ended the process with exit code {code}"
            self.imported.set_exception(NotLoadedError(reason))
        return code

    def begin(self) -> None:
        """Has the worker work."""
        self._writer.write(b"\n")

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
        lifeline: int | None,
        say: Callable[..., None],
    ) -> None:
        self.workflows: list[str] = []  # of the code that was loaded last
        self._modules, self._environment, self._lifeline = modules, environment, lifeline
        self._grace_seconds, self._say = grace_seconds, say
        self._loads = 0
        self._loaded = 0  # the number of the load that the current worker is from
        self._importing: dict[int, WorkerProcess] = {}  # by the number of the load
        self._current: WorkerProcess | None = None
        self._running: dict[WorkerProcess, asyncio.Task[None]] = {}

    @property
    def is_importing(self) -> bool:
        return bool(self._importing)

    async def load(self) -> bool:
        """Imports the code as it is, in a new process that then takes over; returns whether it did. If the
        import fails, the current worker stays. Cancelling this ends the new process.

        Calls may overlap. Two processes import at most: the first, so that changes which come faster than an
        import takes don't keep every one from being completed, and the newest. Raises `UsageError` if the
        first call finds no such module.
        """
        self._loads += 1
        number = self._loads
        new = await WorkerProcess.start(self._modules, self._environment, self._lifeline)
        self._running[new] = asyncio.create_task(self._follow(new))
        for one in list(self._importing.values())[1:]:
            one.kill()
        self._importing[number] = new
        try:
            workflows = await asyncio.shield(new.imported)
        except asyncio.CancelledError:
            new.kill()
            raise
        except NotLoadedError as error:
            if error.is_missing and number == 1:
                raise UsageError(str(error)) from None
            if not new.is_stopping:
                stays = "; the worker keeps the code that it has" if self._current is not None else ""
                self._say((f"not loaded: {error}{stays}", "red"))
            return False
        finally:
            del self._importing[number]
        if number < self._loaded:
            new.kill()
            return False
        for earlier in [one for other, one in self._importing.items() if other < number]:
            earlier.kill()
        self.workflows, self._loaded = workflows, number
        before, self._current = self._current, new
        new.begin()
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
            if not worker.is_stopping:  # a second signal would not wait for its steps
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
            for worker in await self._left(workers, HURRIED_SECONDS):
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
