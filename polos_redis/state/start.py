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

    `lane` is the queue, or the concurrency key of one, whose limit applies, None for no limit. `limit` counts
    unless workers have published another one. `about` is the packed `About`; `digest`, that of the input, is
    given with an idempotency key.
    """

    queue: str = keys.DEFAULT_QUEUE
    lane: str | None = None
    limit: int | None = None
    timeout: int | None = None
    delay: int | None = None
    at: int | None = None
    about: bytes | None = None
    digest: bytes | None = None

    def pack(self, partitions: Partitions, execution_id: str, **more: Any) -> bytes:
        """The script's argument, `more` included; empty when every option has its default."""
        options: dict[str, Any] = dict(more)
        if self.queue != keys.DEFAULT_QUEUE:
            options["queue"] = self.queue
        if self.lane is not None:
            near = partitions.lane_prefix(self.lane) == partitions.prefix(execution_id)
            options |= {"lane": raw(self.lane), "near": near}
        for name in ("limit", "timeout", "delay", "at", "about", "digest"):
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
