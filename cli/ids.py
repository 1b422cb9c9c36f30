"""Execution ids as people type them: by a beginning that only one of them has."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from polos_redis.state import keys
from polos_redis.values.text import text

from .usage import UsageError

if TYPE_CHECKING:
    from polos_redis.client import PolosClient

SHORTEST = 4  # digits of a beginning
MOST_SHOWN = 5  # ids in the message about an ambiguous one
PAGE = 1000
_BEGINNING = re.compile(rf"([0-9a-f]{{{SHORTEST},{keys.ID_LENGTH}}})(\.[0-9a-f]*)?")


def is_beginning(given: str) -> bool:
    """Whether text may be the beginning of an id, and is no whole one."""
    form = _BEGINNING.fullmatch(given)
    if form is None:
        return False
    root, child = form.groups()
    return len(root) < keys.ID_LENGTH or (child is not None and len(child) <= keys.CHILD_LENGTH)


def is_too_short(given: str) -> bool:
    """Whether text may be the beginning of an id, but is too short to look for."""
    return len(given) < SHORTEST and not given.strip("0123456789abcdef")


async def full_id(client: PolosClient, given: str) -> str:
    """Returns the id of the one execution whose id begins with `given`, a beginning; `given` itself if none
    does.

    With a dot it is that of a descendant, and both parts may be abbreviated; without one only roots count. It
    is compared with the ids of all executions. Raises `UsageError` if several executions match.
    """
    found = sorted({one async for one in matching_ids(client, given)})  # a scan may return one twice
    if len(found) > 1:
        ids = ", ".join(found[:MOST_SHOWN]) + (", ..." if len(found) > MOST_SHOWN else "")
        raise UsageError(f"several executions have ids that begin with {given!r}: {ids}. Type more of it")
    return found[0] if found else given


async def matching_ids(client: PolosClient, given: str) -> AsyncIterator[str]:
    """Yields the ids of existing executions that begin with `given`, a few more than are shown."""
    root, dot, child = given.partition(".")
    pattern = root + "?" * (keys.ID_LENGTH - len(root)) + (f".{child}*" if dot else "")
    store = await client.store()
    number = 0
    for prefix in store.prefixes:
        for workflow in await store.partitions.workflows(prefix, store.partitions.patience):
            key, cursor = prefix + f"{keys.INDEX}all:".encode() + workflow, b"0"
            while True:
                cursor, flat = await store.wire.call(
                    "ZSCAN", key, cursor, "MATCH", pattern, "COUNT", PAGE, patience=store.partitions.patience
                )
                for execution_id in map(text, flat[::2]):
                    (status,) = await store.executions.read_fields(execution_id, "status")
                    if status is not None:  # its retention is not over
                        yield execution_id
                        number += 1
                        if number > MOST_SHOWN:
                            return
                if cursor == b"0":
                    break
