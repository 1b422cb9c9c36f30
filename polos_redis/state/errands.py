"""Errands: work that a script leaves to a worker because it spans partitions or needs more than Lua."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw


@dataclass(frozen=True, slots=True)
class Errand:
    """An errand that is due; `due` is its stored time."""

    name: str
    due: bytes


class Errands:
    """All errands of the namespace. An errand stored again since it was read is left alone."""

    def __init__(self, partitions: Partitions) -> None:
        self._wire = partitions.wire

    async def done(self, prefix: bytes, errand: Errand) -> None:
        """Remove an errand."""
        await self._wire.call_script(scripts.ERRAND, prefix, raw(errand.name), errand.due, "", patience=None)

    async def put_off(self, prefix: bytes, errand: Errand, ms: int) -> None:
        """Make an errand due again in `ms`."""
        await self._wire.call_script(scripts.ERRAND, prefix, raw(errand.name), errand.due, ms, patience=None)
