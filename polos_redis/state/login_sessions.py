"""Login sessions of the pages: one key with a TTL each, in partition 0, for the whole namespace."""

from __future__ import annotations

from polos_redis.state import keys
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import text


class LoginSessions:
    """All open login sessions of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire
        self._prefix = partitions.prefixes[0] + keys.SESSION.encode()

    async def open(self, session_id: str, key_id: str, seconds: int) -> None:
        """Open a session of an API key, for this long."""
        name = self._prefix + session_id.encode()
        await self._wire.call("SET", name, key_id, "EX", seconds, patience=self._partitions.patience)

    async def key_id(self, session_id: str) -> str:
        """Returns the id of an open session's API key; empty if the session was closed or is over."""
        name = self._prefix + session_id.encode()
        return text(await self._wire.call("GET", name, patience=self._partitions.patience))

    async def close(self, session_id: str) -> None:
        """Close a session before its time."""
        await self._wire.call("DEL", self._prefix + session_id.encode(), patience=self._partitions.patience)
