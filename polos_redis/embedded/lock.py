"""Lock of a data directory: only one server at a time may use it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from polos_redis.errors import ConfigurationError

_WAIT_SECONDS = 10.0  # how long a server whose owner died may take to release the lock


def lock_directory(data_dir: Path, used_here: Callable[[], bool]) -> IO[str]:
    """Locks a data directory and returns the open lock file.

    The server inherits the file, so the lock is held exactly as long as the server lives. `used_here` says
    whether a server of this process uses the directory. Raises `ConfigurationError` if the directory is in
    use, and OSError if it can't be written.
    """
    import fcntl  # missing on Windows, where this module can be imported but no server can start

    lock = (data_dir / "server.lock").open("a+")
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            if time.monotonic() < deadline and owner.isdigit() and _is_abandoned(int(owner), used_here):
                time.sleep(0.02)
                continue
            lock.close()
            raise ConfigurationError(
                f"the data directory {data_dir} is in use by process {owner or '?'}: stop that process or "
                "choose another directory"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock


def wait_for_abandoned(data_dir: Path) -> None:
    """Waits until a server whose owner died has released its data directory: until then it may answer, though
    it is about to exit. Does nothing if no server uses the directory, or one whose owner lives."""
    import fcntl

    try:
        lock = (data_dir / "server.lock").open()
    except FileNotFoundError:
        return
    deadline = time.monotonic() + _WAIT_SECONDS
    with lock:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip()
                if not owner.isdigit() or not _is_abandoned(int(owner), lambda: True):
                    return
                time.sleep(0.02)
            else:
                return


def _is_abandoned(owner: int, used_here: Callable[[], bool]) -> bool:
    """Whether the process that holds the lock is about to exit, because its owner died or killed it."""
    if owner == os.getpid():
        return not used_here()
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
