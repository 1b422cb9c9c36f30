"""A terminal in which a person types, around the real `polos` command."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.command import DEADLINE, POLOS, Command


class Terminal:
    """What a person sees and types."""

    def __init__(self, controller: int, process: subprocess.Popen[bytes]) -> None:
        self.controller, self.process = controller, process
        self.raw = b""

    @property
    def screen(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.raw.decode(errors="replace"))

    def type(self, text: bytes) -> None:
        os.write(self.controller, text)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while text not in self.screen:
            assert time.monotonic() < deadline, f"{text!r} did not appear:\n{self.screen}"
            assert self._read(), f"it ended without {text!r}:\n{self.screen}"

    def hang_up(self) -> int:
        """Closes the terminal; returns the exit code."""
        os.close(self.controller)
        self.controller = -1
        return self.process.wait(DEADLINE)

    def end(self) -> int:
        """Reads to the end; returns the exit code."""
        while self._read():
            pass
        return self.process.wait(DEADLINE)

    def _read(self) -> bool:
        if not select.select([self.controller], [], [], DEADLINE)[0]:
            return False
        try:
            data = os.read(self.controller, 65536)
        except OSError:  # how Linux reports that the other side has closed
            return False
        self.raw += data
        return bool(data)


@contextmanager
def terminal(polos: Command, *args: str) -> Iterator[Terminal]:
    """`polos` at a terminal of its own, until the block ends."""
    controller, theirs = pty.openpty()
    process = subprocess.Popen(
        [POLOS, *args],
        cwd=polos.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**polos.environment, "TERM": "xterm-256color", "COLUMNS": "100"},
        start_new_session=True,
        preexec_fn=_own_the_terminal,
    )
    os.close(theirs)
    person = Terminal(controller, process)
    try:
        yield person
    finally:
        process.kill()
        process.wait()
        if person.controller >= 0:
            os.close(person.controller)


def _own_the_terminal() -> None:
    """Makes a typed Ctrl-C a signal, and one that is not ignored as in a script's background jobs."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
