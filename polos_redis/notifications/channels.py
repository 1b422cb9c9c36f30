"""Channels: the ways to notify people of an open suspension.

The script that opens a suspension also adds it to the outbox of each of the worker's channels, in the same
atomic change. So no notification is lost, and none delays the workflow. `outbox.py` delivers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from polos_redis.errors import PolosError


@dataclass(frozen=True, slots=True)
class Notification:
    """A suspension that waits for a person.

    `id` stays the same when a notification is sent twice, so receivers can deduplicate by it. `data` is the
    data shown, and `digest` its SHA-256 in hex. `approval_url` is the page's address; None if the worker has
    no public URL. `approver_urls` maps each approver who is a person to a link signed for them.

    The URLs let anyone who has them view or answer the suspension: send them to nobody else.
    """

    id: str
    execution_id: str
    workflow_id: str
    step_key: str
    run: int
    execution_created_at: datetime
    data: Any
    digest: str
    opened_at: datetime
    expires_at: datetime | None
    approvers: tuple[str, ...]
    approval_url: str | None
    approver_urls: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; times are ISO 8601."""
        expires_at = self.expires_at
        return {
            **{name: getattr(self, name) for name in self.__slots__},
            "execution_created_at": self.execution_created_at.isoformat(timespec="microseconds"),
            "opened_at": self.opened_at.isoformat(timespec="milliseconds"),
            "expires_at": None if expires_at is None else expires_at.isoformat(timespec="milliseconds"),
            "approvers": list(self.approvers),
            "approver_urls": dict(self.approver_urls),
        }


@runtime_checkable
class Channel(Protocol):
    """A way to notify people. Workers with a channel of the same `name` (a-z, 0-9, _ and -) share its outbox:
    any of them may send."""

    name: str

    async def send(self, notification: Notification) -> None:
        """Send one notification, or raise; it is sent again later, as long as the suspension is open.

        It is cancelled after 30 seconds. Up to ten calls per partition run concurrently.
        """


class NotSentError(PolosError):
    """The receiver did not accept a notification. The message says why, and contains no secret."""
