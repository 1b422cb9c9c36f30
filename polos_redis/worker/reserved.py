"""Reserved streams: those of a queue that only workers of one workflow read, or of one version of it.

Executions of a workflow with `version_policy="pin"` go to the stream of their version as they start. Those of
a workflow that a worker of the queue does not know go to the stream of that workflow. Each worker looks
regularly for streams that it is to read. While none reads a stream, the reaper takes its executions off,
however many: they wait without entries and slots until a worker comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.text import raw

LOOK_SECONDS = 1.0
BATCH = 100  # unserved executions that are made runnable at a time


class ReservedStreams:
    """The reserved streams that a worker reads in some partitions."""

    def __init__(
        self,
        store: Store,
        worker_id: str,
        prefixes: Sequence[bytes],
        queues: Sequence[str],
        workflows: Mapping[bytes, WorkflowDefinition[Any, Any]],
    ) -> None:
        self._store = store
        self._worker_id = worker_id
        self._queues = queues
        self._workflows = workflows
        self._joined: dict[bytes, set[str]] = {prefix: set() for prefix in prefixes}  # has a consumer there
        self._wanted: dict[bytes, set[str]] = {prefix: set() for prefix in prefixes}
        self._next_look = float("-inf")

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        """The partition and name of each stream to read."""
        for prefix, names in self._wanted.items():
            for name in names & self._joined[prefix]:
                yield prefix, name

    def joined(self, prefix: bytes) -> list[str]:
        """Returns the streams of a partition in which this worker is a consumer."""
        return sorted(self._joined.get(prefix, ()))

    def lost(self) -> None:
        """Prepare all streams again: some are gone."""
        for joined in self._joined.values():
            joined.clear()
        self._next_look = float("-inf")

    def are_due(self) -> bool:
        """Whether it is time for a look."""
        return asyncio.get_running_loop().time() >= self._next_look

    async def look(self) -> None:
        """Look which streams to read. Called while no read is outstanding."""
        now = asyncio.get_running_loop().time()
        self._next_look = now + LOOK_SECONDS
        for prefix, joined in self._joined.items():
            there = await self._store.queues.reserved(prefix)
            wanted = self._wanted[prefix] = {name for name in there if self._serves(name)} | self._own()
            for name in sorted(wanted):
                if name not in joined or await self._store.queues.has_unserved(prefix, name):
                    if await self._store.queues.serve(prefix, name, self._worker_id, BATCH):
                        self._next_look = now
                    joined.add(name)
            for name in joined - wanted:
                if name not in there or await self._store.queues.leave(prefix, name, self._worker_id):
                    joined.discard(name)

    def _own(self) -> set[str]:
        """The streams of pinned executions in the queues of their workflows."""
        return {
            keys.reserved_stream(one.queue.name, one.id, one.pinned_version)
            for one in self._workflows.values()
            if one.pinned_version is not None and one.queue.name in self._queues
        }

    def _serves(self, name: str) -> bool:
        """Whether this worker reads the queue of a stream and serves its workflow and its version."""
        queue, version, workflow_id = keys.parse_stream(name)
        workflow = self._workflows.get(raw(workflow_id))
        return queue in self._queues and workflow is not None and version in ("", workflow.version)
