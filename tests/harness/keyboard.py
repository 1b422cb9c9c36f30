"""A terminal in which a person types, around the real `polos` command."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.harness.command import DEADLINE, POLOS, Command

ROWS = 50
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What a person sees and types."""

    process: subprocess.Popen[bytes]

    def __init__(self, controller: int) -> None:
        self.controller = controller
        self.raw = b""

    @property
    def screen(self) -> str:
        return _ESCAPES.sub("", self.raw.decode(errors="replace"))

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.splitlines()]

    @property
    def frame(self) -> list[str]:
        """The lines of a live screen as it was last drawn in full."""
        drawn = self.raw.decode(errors="replace").split("\x1b[H")
        return [line.rstrip() for line in _ESCAPES.sub("", drawn[-2]).splitlines()]

    def resize(self, columns: int, rows: int = ROWS) -> None:
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.controller, text)

    def wait_for(self, text: str, after: int = 0) -> None:
        """Waits for a text, with `after` beyond so many characters of the screen."""
        deadline = time.monotonic() + DEADLINE
        while text not in self.screen[after:]:
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
def terminal(
    polos: Command,
    *args: str,
    columns: int = 100,
    rows: int = ROWS,
    environment: Mapping[str, str] | None = None,
    program: str = POLOS,
) -> Iterator[Terminal]:
    """`polos`, or another program, at a terminal of its own, until the block ends."""
    controller, theirs = pty.openpty()
    person = Terminal(controller)
    person.resize(columns, rows)
    person.process = process = subprocess.Popen(
        [program, *args],
        cwd=polos.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={
            **{name: one for name, one in polos.environment.items() if name not in ("COLUMNS", "LINES")},
            "TERM": "xterm-256color",
            **(environment or {}),
        },
        start_new_session=True,
        preexec_fn=_own_the_terminal,
    )
    os.close(theirs)
    try:
        yield person
    finally:
        process.kill()
        process.wait()
        if person.controller >= 0:
            os.close(person.controller)


async def at_terminal(
    polos: Command, columns: int, *args: str, environment: Mapping[str, str] | None = None, exits: int = 0
) -> list[str]:
    """Runs `polos` at a terminal to its end; returns the lines it has printed."""

    def run() -> list[str]:
        with terminal(polos, *args, columns=columns, environment=environment) as person:
            assert person.end() == exits, person.screen
            return person.lines

    return await asyncio.to_thread(run)


def _own_the_terminal() -> None:
    """Makes a typed Ctrl-C a signal, and one that is not ignored as in a script's background jobs."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
