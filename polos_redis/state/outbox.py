"""The outbox: notifications of open suspensions that a channel has yet to send."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw, text


@dataclass(frozen=True, slots=True)
class Taken:
    """A notification that a worker has claimed; another worker may send it from `due` (ms) on."""

    execution_id: str
    step_key: str
    due: int


class Outbox:
    """The notifications of every channel in every partition."""

    def __init__(self, partitions: Partitions) -> None:
        self._wire = partitions.wire

    async def take(self, prefix: bytes, channel: str, limit: int, hold_ms: int) -> list[Taken]:
        """Claim notifications that a channel has to send now, for `hold_ms`."""
        due, *members = await self._wire.call_script(
            scripts.TAKE, prefix, channel, limit, hold_ms, patience=None
        )
        names = [text(member).partition(" ") for member in members]
        return [Taken(execution_id, step_key, due) for execution_id, _, step_key in names]

    async def sent(self, prefix: bytes, channel: str, taken: Taken, again_ms: int | None) -> None:
        """Remove a claimed notification, or make it due again in `again_ms`. One that was claimed or added
        again meanwhile stays as it is."""
        member, again = raw(f"{taken.execution_id} {taken.step_key}"), "" if again_ms is None else again_ms
        await self._wire.call_script(scripts.SENT, prefix, channel, member, taken.due, again, patience=None)
