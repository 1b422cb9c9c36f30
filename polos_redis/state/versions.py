"""Versions: the open executions of each version of a workflow's code."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from polos_redis.state import keys
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import text


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """The executions that a version has started and that have not ended: how many, and the id and time of
    creation (us) of the oldest one."""

    open: int
    oldest: str
    oldest_us: int


class Versions:
    """All versions of the namespace that have open executions."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions

    async def open(self) -> dict[tuple[str, str], OpenVersion]:
        """Returns the open executions by workflow id and version."""
        found: dict[tuple[str, str], OpenVersion] = {}
        wire, patience = self._partitions.wire, self._partitions.patience
        for prefix in self._partitions.prefixes:
            names = await wire.call("SMEMBERS", prefix + keys.VERSIONS.encode(), patience=patience)
            for name in names:
                key = prefix + keys.INDEX.encode() + b"version:" + name
                rows, first = await asyncio.gather(
                    wire.call("ZCARD", key, patience=patience),
                    wire.call("ZRANGE", key, 0, 0, "WITHSCORES", patience=patience),
                )
                if not first:  # the last one has just ended
                    continue
                workflow_id, _, version = text(name).rpartition("\0")
                here = OpenVersion(int(rows), text(first[0]), int(float(first[1])))
                other = found.get((workflow_id, version), here)
                oldest = min(here, other, key=lambda one: one.oldest_us)
                total = here.open + (0 if other is here else other.open)
                found[workflow_id, version] = OpenVersion(total, oldest.oldest, oldest.oldest_us)
        return found
