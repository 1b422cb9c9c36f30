"""Definitions: the start options of workflows and the limits of queues, which workers publish."""

from __future__ import annotations

from polos_redis.state import keys, scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw


class Definitions:
    """All definitions of the namespace: of workflows in partition 0, of limits in every partition."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def put_workflow(self, workflow_id: str, packed: bytes) -> None:
        """Publish the definition of a workflow, or remove it if empty."""
        await self._define(self._partitions.prefixes[0], "workflow", workflow_id, packed)

    async def put_limit(self, queue: str, limit: int | None) -> None:
        """Publish the concurrency limit of a queue, or remove it if None."""
        for prefix in self._partitions.prefixes:
            await self._define(prefix, "limit", queue, b"" if limit is None else str(limit).encode())

    async def workflow(self, workflow_id: str) -> bytes | None:
        """Returns the published definition of a workflow."""
        key = self._partitions.prefixes[0] + keys.DEFINITIONS.encode()
        packed: bytes | None = await self._wire.call(
            "HGET", key, raw(workflow_id), patience=self._partitions.patience
        )
        return packed

    async def limit(self, queue: str) -> int | None:
        """Returns the published concurrency limit of a queue."""
        key = self._partitions.prefixes[0] + keys.LIMITS.encode()
        found = await self._wire.call("HGET", key, raw(queue), patience=self._partitions.patience)
        return None if found is None else int(found)

    async def _define(self, prefix: bytes, kind: str, name: str, value: bytes) -> None:
        await self._wire.call_script(scripts.DEFINE, prefix, kind, raw(name), value, patience=None)
