"""API keys: packed, in partition 0, for the whole namespace."""

from __future__ import annotations

import msgpack

from polos_redis.state import keys
from polos_redis.state.clock import Clock
from polos_redis.state.partitions import Partitions


class ApiKeys:
    """All API keys of the namespace."""

    def __init__(self, partitions: Partitions, clock: Clock) -> None:
        self._partitions, self._clock = partitions, clock
        self._wire = partitions.wire
        self._name = partitions.prefixes[0] + keys.KEYS.encode()

    async def put(self, key_id: str, packed: bytes) -> None:
        """Store an API key, or replace it."""
        await self._wire.call("HSET", self._name, key_id, packed, patience=self._partitions.patience)

    async def read(self, key_id: str) -> bytes | None:
        """Returns an API key; None if there is none of this id."""
        packed: bytes | None = await self._wire.call(
            "HGET", self._name, key_id, patience=self._partitions.patience
        )
        return packed

    async def may(self, key_id: str, scope: str) -> bool:
        """Whether an API key is valid, neither revoked nor expired, and has a scope; admin includes all."""
        packed = await self.read(key_id)
        if packed is None:
            return False
        stored = msgpack.unpackb(packed, unicode_errors="surrogatepass")
        expires = stored["expires"]
        holds = stored["revoked"] is None and (expires is None or await self._clock.now_ms() < expires)
        return holds and not {scope, "admin"}.isdisjoint(stored["scopes"])

    async def read_all(self) -> list[bytes]:
        """Returns all API keys, read a page at a time."""
        found: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, flat = await self._wire.call(
                "HSCAN", self._name, cursor, "COUNT", 500, patience=self._partitions.patience
            )
            found |= dict(zip(flat[::2], flat[1::2], strict=True))
            if cursor == b"0":
                return list(found.values())
