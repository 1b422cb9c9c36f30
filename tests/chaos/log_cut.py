"""Cutting the end off a stopped server's log, as a crash of the machine does."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

MOST_BYTES = 48_000  # cut off at once
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


def cut_log(data_dir: Path, rng: random.Random, *, inside_transaction: bool) -> bytes:
    """Truncate the newest part of the log, anywhere near its end or between a MULTI and its EXEC; return what
    the server will not have: the bytes cut off, and those of the transaction that they belong to."""
    parts = sorted((data_dir / "appendonlydir").glob("*.incr.aof"), key=_sequence)
    log = parts[-1].read_bytes()
    near_end = max(0, len(log) - MOST_BYTES)
    at = rng.randint(near_end, len(log))
    transactions = [found.start() for found in re.finditer(re.escape(_MULTI), log[near_end:])]
    if inside_transaction and transactions:
        start = near_end + rng.choice(transactions)
        end = log.find(_EXEC, start)
        at = rng.randint(start + len(_MULTI), end if end >= 0 else len(log))
    os.truncate(parts[-1], at)
    started = log.rfind(_MULTI, 0, at)
    is_open = started >= 0 and log.find(_EXEC, started, at) < 0
    return log[started if is_open else at :]


def _sequence(part: Path) -> int:
    return int(part.name.split(".")[-3])
