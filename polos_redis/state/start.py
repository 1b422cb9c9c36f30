"""The start options of an execution, as scripts/lib/creation.lua reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from polos_redis.state import keys
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw

_pack = msgpack.Packer(use_bin_type=False).pack  # no bin type: the scripts' cmsgpack can't read it


@dataclass(frozen=True, slots=True)
class Start:
    """Where and when an execution starts; times in ms.

    `semaphore` is the one to acquire a slot from: a queue with a limit, or a concurrency key of such a queue.
    Its limit is the one workers have published, else `limit`. `origin` is the packed `Origin`. `digest`, of
    the request, is set with an idempotency key.
    """

    queue: str = keys.DEFAULT_QUEUE
    semaphore: str | None = None
    limit: int | None = None
    timeout: int | None = None
    delay: int | None = None
    at: int | None = None
    origin: bytes | None = None
    digest: bytes | None = None

    def pack(self, partitions: Partitions, execution_id: str, **more: Any) -> bytes:
        """Returns the script's argument, `more` included; empty if every option has its default."""
        options: dict[str, Any] = dict(more)
        if self.queue != keys.DEFAULT_QUEUE:
            options["queue"] = self.queue
        if self.semaphore is not None:
            near = partitions.semaphore_prefix(self.semaphore) == partitions.prefix(execution_id)
            options |= {"semaphore": raw(self.semaphore), "near": near}
        for name in ("limit", "timeout", "delay", "at", "origin", "digest"):
            value = getattr(self, name)
            if value is not None:
                options[name] = value
        packed: bytes = _pack(options) if options else b""
        return packed


DEFAULTS = Start()


@dataclass(frozen=True, slots=True)
class Child:
    """A child to start: its id, its workflow, its encoded input, and its start options."""

    id: str
    workflow_id: str
    input: bytes
    start: Start
