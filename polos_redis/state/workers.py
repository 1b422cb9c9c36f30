"""Workers: their leases, the workflows they serve, and the removal of dead workers."""

from __future__ import annotations

from typing import Any

import msgpack

from polos_redis.state import keys, scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw


class Workers:
    """All workers of the namespace. A worker has a lease in every partition."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def renew(self, prefix: bytes, worker: str, serves: bytes) -> int:
        """Renew a worker's lease and announce what it serves; returns the lease counter."""
        counter: int = await self._wire.call_script(
            scripts.RENEW_LEASE, prefix, worker, serves, patience=None
        )
        return counter

    async def lease_seconds(self, prefix: bytes, worker: str) -> float:
        """How long the lease of a worker is by its own settings; 0 if it has none."""
        packed = await self._wire.call("HGET", prefix + keys.SERVES.encode(), worker, patience=None)
        return 0.0 if packed is None else float(msgpack.unpackb(packed)["lease_seconds"])

    async def facts(self, prefix: bytes, worker: str) -> dict[str, Any]:
        """Returns what a worker has said about itself with its last renewal; empty if it has no lease."""
        packed = await self._wire.call(
            "HGET", prefix + keys.SERVES.encode(), worker, patience=self._partitions.patience
        )
        found: dict[str, Any] = {} if packed is None else msgpack.unpackb(packed).get("facts", {})
        return found

    async def prune(self, prefix: bytes, queue: str, consumer: str, lease: bytes) -> bool:
        """Remove a dead worker's empty consumer and its lease; False if the consumer holds entries or the
        lease counter is no longer `lease`."""
        return bool(
            await self._wire.call_script(
                scripts.PRUNE_CONSUMER, prefix, raw(queue), consumer, lease, patience=None
            )
        )

    async def announced(self) -> list[dict[str, Any]]:
        """Returns what each worker with a lease announces: `workflows` (ids), `versions` (of those that have
        one), `queues` and `lease_seconds`."""
        found: dict[bytes, dict[str, Any]] = {}
        for prefix in self._partitions.prefixes:
            found |= await self._announced(prefix)
        return list(found.values())

    async def served(self) -> dict[str, set[str]]:
        """Returns the ids of the workflows that workers with a lease serve, and the queues that they read."""
        served: dict[str, set[str]] = {}
        for announced in await self.announced():
            for workflow_id in announced["workflows"]:
                served.setdefault(workflow_id, set()).update(announced["queues"])
        return served

    async def serve(self, prefix: bytes, workflow_id: str, version: str | None = None) -> bool:
        """Whether any worker with a lease in this partition serves a workflow, or this version of it."""
        return any(
            workflow_id in one["workflows"] and version in (None, one["versions"].get(workflow_id))
            for one in (await self._announced(prefix)).values()
        )

    async def _announced(self, prefix: bytes) -> dict[bytes, dict[str, Any]]:
        flat = await self._wire.call(
            "HGETALL", prefix + keys.SERVES.encode(), patience=self._partitions.patience
        )
        return {worker: msgpack.unpackb(one) for worker, one in zip(flat[::2], flat[1::2], strict=True)}
