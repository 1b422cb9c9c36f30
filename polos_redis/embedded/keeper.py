"""Program that runs one server and stops it when its owner stops it or exits, even if killed.

`polos_redis.embedded.server` runs this file by path, so it uses only the standard library. Standard input is
a pipe whose other end only the owner has: end of file means that the owner wants the server stopped or has
died. The keeper is the server's parent, so it never signals a recycled process id. It prints the server's
process id on standard output and exits when the server does. Its standard error is the server's log.

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

STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL


def main(lock_fd: int, remove: str, command: list[str]) -> None:
    """Run the server until it exits, or until the owner stops it or exits."""
    # Ignore Ctrl-C: the owner stops the server itself, after draining.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    # Only the server holds the lock, so the lock is released as soon as the data is.
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=(lock_fd,), umask=0o077
    )
    os.close(lock_fd)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"%d\n" % server.pid)

    stopping = False
    while not stopping and server.poll() is None:
        ready, _, _ = select.select([0, wake_read], [], [])
        stopping = 0 in ready or (wake_read in ready and signal.SIGTERM in os.read(wake_read, 4096))
    if not stopping:
        return  # the server exited by itself: keep its data, the owner may inspect it or restart

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
