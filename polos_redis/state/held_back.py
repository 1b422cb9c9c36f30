"""The field `held_back`: why a queued execution goes back to its queue again and again (put_back.lua)."""

from __future__ import annotations

import msgpack

from polos_redis.values.text import text
from polos_redis.values.versioned import items_of


def parse_held_back(packed: bytes) -> tuple[int, int, str]:
    """Returns how often an execution was put back, the changes of its journal by then, and the reason. Raises
    `UnreadableValueError`."""
    times, progress, reason, *_ = items_of(
        "the reason an execution is held back", msgpack.unpackb(packed, raw=True)
    )
    return int(times), int(progress), text(reason)
