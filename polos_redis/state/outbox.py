"""The outbox: notifications of open suspensions that a channel has yet to send."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw, text


@dataclass(frozen=True, slots=True)
class ClaimedNotification:
    """A notification that a worker has claimed. From `due` (ms) on, another worker may send it."""

    execution_id: str
    step_key: str
    due: int


class Outboxes:
    """All outboxes of the namespace: one per channel and partition."""

    def __init__(self, partitions: Partitions) -> None:
        self._wire = partitions.wire

    async def claim(self, prefix: bytes, channel: str, limit: int, hold_ms: int) -> list[ClaimedNotification]:
        """Claim the notifications that a channel has to send now, for `hold_ms`."""
        due, *members = await self._wire.call_script(
            scripts.CLAIM_NOTIFICATIONS, prefix, channel, limit, hold_ms, patience=None
        )
        names = [text(member).partition(" ") for member in members]
        return [ClaimedNotification(execution_id, step_key, due) for execution_id, _, step_key in names]

    async def sent(
        self, prefix: bytes, channel: str, claimed: ClaimedNotification, retry_ms: int | None
    ) -> None:
        """Remove a claimed notification, or make it due again in `retry_ms`. One that was claimed or added
        again meanwhile is left alone."""
        member = raw(f"{claimed.execution_id} {claimed.step_key}")
        retry = "" if retry_ms is None else retry_ms
        await self._wire.call_script(
            scripts.NOTIFICATION_SENT, prefix, channel, member, claimed.due, retry, patience=None
        )
