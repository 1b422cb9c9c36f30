"""The append-only log of a server, and what a crash may cut off its end."""

from __future__ import annotations

import io
import os
from pathlib import Path


def log_file(folder: Path) -> Path:
    """The file that the server of this data directory appends to."""
    return max(folder.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[2]))


def cut(file: Path, size: int) -> None:
    """Leave the first bytes of a file."""
    os.truncate(file, size)


def commands(log: bytes) -> list[list[bytes]]:
    """The commands of a part of a log."""
    stream, found = io.BytesIO(log), []
    while line := stream.readline():
        if line.startswith(b"*"):  # else a time stamp
            found.append([stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))])
    return found
