"""The format of a namespace, as another release would set it."""

from __future__ import annotations

from typing import Any

from polos_redis.state import keys
from tests.invariants.state import RawConnection, masters


def store(url: str, namespace: str, **fields: Any) -> None:
    """Write fields of the namespace's meta hash on all of its servers."""
    for server in masters(url):
        with RawConnection(server) as connection:
            for name, value in fields.items():
                connection.do("HSET", keys.prefix(namespace, 0) + keys.META, name, value)
