"""What workers did, recorded outside Redis: one line for each, appended atomically to a file."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.harness.fleet import EFFECTS

START, END, RAISED, CANCELLED = "start", "end", "raised", "cancelled"  # one run of a step
SAW = "saw"  # the workflow's code was given a value
OFFERED = "offered"  # a workflow answers another's suspension with a value
NOTIFIED = "notified"  # a channel was given a suspension


@dataclass(frozen=True, slots=True)
class Effect:
    """One line. `at` is in seconds of the machine's monotonic clock; `attempt` pairs the ends of one run of a
    step; `run` is the execution's; `slot` names the semaphore that is held."""

    at: float
    pid: int
    execution_id: str
    what: str
    step: str
    attempt: str = ""
    value: str = ""
    run: int = 1
    slot: str = ""


def record(execution_id: str, what: str, step: str, **more: str | int) -> None:
    """Append one line; a process that is killed leaves it whole or not at all."""
    line = {
        "at": time.monotonic(),
        "pid": os.getpid(),
        "execution_id": execution_id,
        "what": what,
        "step": step,
    }
    file = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{json.dumps(line | more)}\n".encode())
    os.close(file)


def times(execution_id: str, what: str) -> int:
    """Count a call of this function, and return how many there have been."""
    path = Path(os.environ[EFFECTS]).with_name(f"times-{execution_id}-{what}")
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b".")
    os.close(file)
    return path.stat().st_size


class EffectsFile:
    """A reader of the file that remembers how far it has read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.effects: list[Effect] = []

    def read(self) -> list[Effect]:
        """Return the effects since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        fresh = [Effect(**json.loads(line)) for line in whole.splitlines()]
        self.effects += fresh
        return fresh
