"""Runs one server and stops it when its owner is gone, however that ended.

Started by `polos_redis.embedded.server` as a program of its own, by path, with the standard library only.
Its standard input is a pipe whose other end only the owner holds: end of file there means that the
owner asks for a stop or has died, SIGKILL included. Being the server's parent it can't hit a
recycled process id. It says the server's process id on standard output and ends with the server.
Its standard error is the server's log.

    keeper.py <lock fd> <directory to remove after a stop, or ""> <server> <arguments...>
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys

STOP_SECONDS = 5.0  # how long SIGTERM may take before SIGKILL


def main(lock_fd: int, remove: str, command: list[str]) -> None:
    """Run the server until it ends, or until the owner does."""
    # The owner ends its server itself, after it has drained: Ctrl-C is not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    # The server alone keeps the lock: it is free the moment the data is.
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=(lock_fd,), umask=0o077
    )
    os.close(lock_fd)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"%d\n" % server.pid)

    asked = False
    while not asked and server.poll() is None:
        ready, _, _ = select.select([0, wake_read], [], [])
        asked = 0 in ready or (wake_read in ready and signal.SIGTERM in os.read(wake_read, 4096))
    if not asked:
        return  # the server ended by itself: its owner may want to look, or start it again

    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if remove:
        shutil.rmtree(remove, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
