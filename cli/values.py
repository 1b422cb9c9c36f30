"""JSON given on the command line: as it is, from a file (@FILE), or from standard input (-)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from polos_redis.errors import PolosError


class UsageError(PolosError):
    """The command was used wrongly: told like every error, in one sentence, with exit code 2."""


def read_json(option: str, given: str) -> Any:
    """The value that an option was given. Raises `UsageError` saying what is wrong, and where."""
    source = option
    try:
        if given == "-":
            source, given = f"{option} (standard input)", sys.stdin.buffer.read().decode("utf-8-sig")
        elif given.startswith("@"):
            source = f"{option} ({given[1:]})"
            given = Path(given[1:]).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{source} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text: byte {error.start} can't be read") from None
    if not given.strip():
        raise UsageError(f"{source} is empty: JSON is expected")
    try:
        return json.loads(given, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{source} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise UsageError(f"{source} is not usable JSON: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{source} is not usable JSON: {error}") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a value that JSON has")
