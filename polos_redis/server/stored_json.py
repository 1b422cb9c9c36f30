"""JSON responses made of stored values, in slices: however much one contains, other requests get their turn.

The response is sent while it is made, so memory does not depend on the size of the whole either.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

from starlette.responses import StreamingResponse

from polos_redis.redaction import redact_text
from polos_redis.tasks import Slices
from polos_redis.values.plain import readable
from polos_redis.values.preview import LARGE, Stored

CHUNK: Final = 1 << 16  # characters that are sent at once

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class StoredJson(StreamingResponse):
    """A JSON response whose `Stored` values are decoded while it is sent; without tokens and secrets.

    In ASCII, because a step key or a topic may contain code points that UTF-8 can't encode. A large value is
    decoded in a thread, apart from all others.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        headers = {"Cache-Control": "no-store"}
        super().__init__(_chunks(content), headers=headers, media_type="application/json")


async def _chunks(content: Mapping[str, Any]) -> AsyncIterator[bytes]:
    slices = Slices()
    parts: list[str] = []
    size = 0
    for one in _pieces(content):
        if isinstance(one, str):
            part = one
        elif one.data is not None and len(one.data) >= LARGE:
            part = await asyncio.to_thread(_rendered, one)
        else:
            part = _rendered(one)
        parts.append(part)
        size += len(part)
        if size >= CHUNK:
            yield redact_text("".join(parts)).encode("ascii")
            parts, size = [], 0
        await slices.pause()
    yield redact_text("".join(parts)).encode("ascii")


def _rendered(stored: Stored) -> str:
    return _encode(readable(stored.data))


def _pieces(value: Any) -> Iterator[str | Stored]:
    """Yields a value as JSON, in order, and the stored values in it as they are."""
    if isinstance(value, Stored):
        yield value
    elif isinstance(value, Mapping):
        before = "{"
        for name, item in value.items():
            yield f"{before}{_encode(name)}:"
            yield from _pieces(item)
            before = ","
        yield "}" if value else "{}"
    elif isinstance(value, list):
        before = "["
        for item in value:
            yield before
            yield from _pieces(item)
            before = ","
        yield "]" if value else "[]"
    else:
        yield _encode(value)
