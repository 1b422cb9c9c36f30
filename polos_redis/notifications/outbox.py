"""The outbox: delivers the notifications of open suspensions, and retries until they are delivered.

A partition's `outbox:<channel>` contains `<execution id> <step key>` of each suspension to send, scored by
the time when it is due. Any worker that has the channel claims due entries; a claim makes them due again
after `HOLD_MS`, so another worker sends what a dead one had claimed. A notification may therefore be sent
twice, but it is never dropped while its suspension is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from datetime import datetime
from hashlib import blake2b
from typing import Any

from polos_redis import failures, tasks
from polos_redis.connection.connection import Connection
from polos_redis.decisions.people import GROUP
from polos_redis.errors import (
    ConfigurationError,
    ExecutionNotFoundError,
    PolosError,
    RedisUnavailableError,
    ResumeError,
)
from polos_redis.executions import queries
from polos_redis.links import Links
from polos_redis.notifications.channels import Channel, Notification
from polos_redis.state.outbox import ClaimedNotification
from polos_redis.state.store import Store
from polos_redis.values.times import to_us

logger = logging.getLogger("polos.worker")

CONCURRENCY = 10  # notifications that one channel sends at once, per partition
POLL_SECONDS = 1.0
SEND_SECONDS = 30.0  # timeout of one send
HOLD_MS = 45_000  # duration of a claim; longer than a send can take
MIN_RETRY_MS, MAX_RETRY_MS = 1_000, 3_600_000
STOP_SECONDS = 2.0  # for sends in flight when the worker stops


class Outbox:
    """Sends the notifications of one channel in one partition."""

    def __init__(
        self, connection: Connection, store: Store, prefix: bytes, channel: Channel, links: Links | None
    ) -> None:
        self.connection = connection
        self.store = store
        self.prefix = prefix
        self.channel = channel
        self.links = links
        self._sending: set[asyncio.Task[None]] = set()
        self._has_room = asyncio.Event()

    @property
    def is_sending(self) -> bool:
        """Whether notifications are being sent."""
        return bool(self._sending)

    async def run(self) -> None:
        """Claim and send due notifications, until cancelled."""
        while True:
            room = CONCURRENCY - len(self._sending)
            if not room:
                self._has_room.clear()
                await self._has_room.wait()
                continue
            try:
                claimed = await self.store.outbox.claim(self.prefix, self.channel.name, room, HOLD_MS)
            except PolosError as error:
                facts = {"channel": self.channel.name, "error": str(error)}
                logger.error("the outbox can't be read", extra=facts)
                claimed = []
            for one in claimed:
                task = tasks.spawn(self._send(one), "polos-notification")
                self._sending.add(task)
                task.add_done_callback(self._done)
            if len(claimed) < room:
                await asyncio.sleep(random.uniform(0.5, 1.0) * POLL_SECONDS)

    async def stop(self) -> None:
        """Wait briefly for sends in flight, then cancel them: another worker repeats those."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._has_room.set()
        if not task.cancelled() and task.exception() is not None:
            logger.error("an outbox failed", exc_info=task.exception())

    async def _send(self, claimed: ClaimedNotification) -> None:
        """Send one notification and record the outcome. Without Redis, the claim simply expires."""
        facts: dict[str, Any] = {
            "channel": self.channel.name,
            "execution": claimed.execution_id,
            "step": claimed.step_key,
        }
        retry_ms: int | None = None
        try:
            suspension = await self._open_suspension(claimed)
        except RedisUnavailableError as error:
            logger.warning("a notification is delayed", extra={**facts, "error": str(error)})
            return
        if suspension is None:
            logger.info("a notification was dropped: its suspension is no longer open", extra=facts)
        else:
            notification = _notification(suspension, self.links, await self.store.clock.now())
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self.channel.send(notification)
                logger.info("a notification was sent", extra=facts)
            except BaseException as error:  # a channel is a user's code, and may raise SystemExit
                if failures.is_a(error, asyncio.CancelledError) and tasks.is_cancelled():
                    raise
                retry_ms = _backoff_ms(notification, claimed)
                # The message of a foreign error may contain a secret.
                known = failures.is_a(error, PolosError)
                reason = failures.text_of(error) if known else failures.name_of(error)
                more = {"error": reason, "retry_ms": retry_ms}
                logger.warning("a notification was not sent", extra={**facts, **more})
        await self.store.outbox.sent(self.prefix, self.channel.name, claimed, retry_ms)

    async def _open_suspension(self, claimed: ClaimedNotification) -> dict[str, Any] | None:
        """The claimed suspension; None if it is no longer open."""
        try:
            found = await queries.get_suspension(self.connection, claimed.execution_id, claimed.step_key)
        except (ExecutionNotFoundError, ResumeError):
            return None
        is_open = found["status"] == "open" and found["execution_id"] == claimed.execution_id
        return found if is_open else None


def _backoff_ms(notification: Notification, claimed: ClaimedNotification) -> int:
    """The delay of the next attempt: as long as the suspension has been open, by the server's clock."""
    opened_ms = int(notification.opened_at.timestamp() * 1000)
    return min(max(claimed.due - HOLD_MS - opened_ms, MIN_RETRY_MS), MAX_RETRY_MS)


def _notification(suspension: dict[str, Any], links: Links | None, now: float) -> Notification:
    """The notification of a suspension that `get_suspension` returned; `now` in seconds since 1970."""
    execution_id, step_key, run = suspension["execution_id"], suspension["step_key"], suspension["run"]
    created_at = datetime.fromisoformat(suspension["execution_created_at"])
    url: str | None = None
    personal: dict[str, str] = {}
    if links is not None and links.public_url is not None:
        url = links.url(execution_id, step_key, run, created_at, at=now)
        for name in suspension["approvers"] if links.secrets else ():
            if not name.startswith(GROUP):
                with contextlib.suppress(ConfigurationError):  # an approver whose name no link can carry
                    personal[name] = links.url(execution_id, step_key, run, created_at, name=name, at=now)
    expires_at = suspension["expires_at"]
    name = f"{execution_id}\0{to_us(created_at)}\0{step_key}\0{run}"
    identity = name.encode("utf-8", "surrogatepass")
    return Notification(
        id=f"suspension_{blake2b(identity, digest_size=16).hexdigest()}",
        execution_id=execution_id,
        workflow_id=suspension["workflow_id"],
        step_key=step_key,
        run=run,
        execution_created_at=created_at,
        data=suspension["data"],
        digest=suspension["digest"],
        opened_at=datetime.fromisoformat(suspension["opened_at"]),
        expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
        approvers=tuple(suspension["approvers"]),
        approval_url=url,
        approver_urls=personal,
    )
