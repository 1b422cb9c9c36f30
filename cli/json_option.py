"""Reads JSON text to an option: literally, from a file (@FILE) or from standard input (-)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from polos_redis.errors import ValueTooLargeError
from polos_redis.values import json_text

from .usage import UsageError


def read_json(option: str, text: str) -> Any:
    """Returns the value of an option. Raises `UsageError` with the place and the reason if it is
    not JSON."""
    source = option
    try:
        if text == "-":
            source, text = f"{option} (standard input)", sys.stdin.buffer.read().decode("utf-8-sig")
        elif text.startswith("@"):
            source = f"{option} ({text[1:]})"
            text = Path(text[1:]).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{source} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text: byte {error.start} can't be read") from None
    if not text.strip():
        raise UsageError(f"{source} is empty; JSON is expected")
    try:
        return json_text.read_json(text)
    except json_text.InvalidJsonError as error:
        raise UsageError(f"{source} can't be read as JSON: {error}") from None
    except ValueTooLargeError as error:
        raise UsageError(f"{source}: {error}") from None
