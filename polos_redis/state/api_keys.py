"""API keys: packed, in partition 0, for the whole namespace."""

from __future__ import annotations

from polos_redis.state import keys
from polos_redis.state.partitions import Partitions


class ApiKeys:
    """All API keys of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
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
