"""The worker of `polos dev`, in a process of its own that one version of the code runs in.

    python -m polos_redis.cli.dev_worker <fd> <fd or -1> <module or file>...

The first file descriptor is one end of a socket pair. This process reports on it, in lines of JSON: the ids
of the workflows once the modules are imported, or why they can't be, or why the worker can't work. It begins
to work when a byte comes from the other end; until then it may be killed. SIGTERM stops it as it stops
`polos worker`. The end of the process at the other end stops it at once. The second file descriptor keeps an
embedded server running until this process has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
from typing import Any

from polos_redis.client import PolosClient
from polos_redis.errors import PolosError

from . import event_loop, modules
from .exit_codes import BLOCKED
from .log_format import LogFormat, log_to_stderr
from .modules import NoModuleError
from .output import prepare_streams
from .worker import NoWorkflowError, exit_soon

TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)  # sent by a typed Ctrl-C and a closed terminal
ORPHAN_SECONDS = 5.0  # for handing back executions, once the parent is gone


class Parent:
    """The process at the other end, `polos dev`. `has_said_go`: this one may begin to work."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.has_said_go = threading.Event()
        self.is_gone = False
        threading.Thread(target=self._listen, daemon=True).start()

    def report(self, **facts: Any) -> None:
        """Tell the parent something."""
        with contextlib.suppress(OSError):  # it is gone, so this process ends as well
            self._end.sendall(json.dumps(facts).encode() + b"\n")

    def _listen(self) -> None:
        """Ends this process when the parent is gone, even if it was killed."""
        with contextlib.suppress(OSError):
            if self._end.recv(1):
                self.has_said_go.set()
                self._end.recv(1)
        self.is_gone = True
        exit_soon(1, "exiting: polos dev is gone", ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)


def main(parent: Parent, names: list[str]) -> int:
    """Runs a worker until it is asked to stop; returns the exit code."""
    # They reach this process as well, but it is the parent that stops the worker.
    for number in TERMINAL_SIGNALS:
        signal.signal(number, lambda *_: None)  # programs that steps start don't inherit this
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    prepare_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, write_through=False)  # what steps print, in whole lines
    log_to_stderr(LogFormat(os.environ.get("POLOS_LOG_FORMAT") or "text"))
    try:
        found = _load(names)
    except PolosError as error:
        parent.report(failed=str(error), is_missing=isinstance(error, NoModuleError))
        return 1
    parent.report(loaded=found)
    parent.has_said_go.wait()
    try:
        event_loop.run(_work(parent))
    except PolosError as error:
        parent.report(failed=str(error))
        return 1
    return 0


def _load(names: list[str]) -> list[str]:
    from polos_redis.definitions.registry import registered

    for name in names:
        modules.load(name)
    found = sorted(registered())
    if not found:
        raise NoWorkflowError(names)
    return found


async def _work(parent: Parent) -> None:
    from polos_redis.worker import Worker

    client = PolosClient()
    worker = Worker(
        client,
        handle_signals=False,
        on_blocked=lambda: exit_soon(BLOCKED, "exiting: the event loop is blocked"),
    )

    def stop() -> None:
        worker.stop()
        if parent.is_gone:
            worker.stop()  # does not wait for steps: the next `polos dev` runs them again

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    code = 1
    try:
        async with client:
            await worker.run()
        code = 0
    finally:
        exit_soon(code)


def _keep(inherited: socket.socket | io.FileIO) -> None:
    """Withhold an inherited file from the programs and forks of this process, which may live on after it."""
    os.set_inheritable(inherited.fileno(), False)
    os.register_at_fork(after_in_child=inherited.close)


if __name__ == "__main__":
    end, server = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _keep(end)
    if server >= 0:
        _keep(io.FileIO(server, "wb"))
    sys.exit(main(Parent(end), sys.argv[3:]))
