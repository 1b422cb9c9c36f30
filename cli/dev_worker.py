"""The worker of `polos dev`, in a process of its own that one version of the code runs in.

    python -m polos_redis.cli.dev_worker <fd> <module or file>...

The file descriptor is one end of a socket pair. This process reports on it, in lines of JSON: the ids of the
workflows once the modules are imported, or why they can't be, or why the worker can't work. SIGTERM stops it
as it stops `polos worker`; the end of the process at the other end does too.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from .output import prepare_streams
from .worker import NoWorkflowError, exit_soon

TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)  # sent by a typed Ctrl-C and a closed terminal


def main(parent: socket.socket, names: list[str]) -> int:
    """Runs a worker until it is asked to stop; returns the exit code."""
    # They reach this process as well, but it is the parent that stops the worker.
    for number in TERMINAL_SIGNALS:
        signal.signal(number, lambda *_: None)  # programs that steps start don't inherit this
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    prepare_streams()
    log_to_stderr(LogFormat(os.environ.get("POLOS_LOG_FORMAT") or "text"))
    try:
        found = _load(names)
    except PolosError as error:
        _report(parent, failed=str(error))
        return 1
    _report(parent, loaded=found)
    try:
        event_loop.run(_work(parent))
    except PolosError as error:
        _report(parent, failed=str(error))
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


async def _work(parent: socket.socket) -> None:
    from polos_redis.worker import Worker

    client = PolosClient()
    worker = Worker(
        client,
        handle_signals=False,
        on_blocked=lambda: exit_soon(BLOCKED, "exiting: the event loop is blocked"),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    code = 1
    try:
        async with client:
            await worker.run()
        code = 0
    finally:
        exit_soon(code)


def _report(parent: socket.socket, **facts: Any) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, so this process ends as well
        parent.sendall(json.dumps(facts).encode() + b"\n")


def _end_with(parent: socket.socket) -> None:
    """Ends this process when the parent is gone, even if it was killed."""
    with contextlib.suppress(OSError):
        parent.recv(1)
    exit_soon(1, "exiting: polos dev is gone")
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]))
