"""The outbox: sends what has to be sent of suspensions, until it is sent or they are open no longer.

`outbox:<channel>` of a partition has `<execution id> <step key>` of each suspension that the channel has not
sent yet, with the time when that is to be tried. Any worker that has the channel takes what is due. It is
then due again after `HOLD_MS`: what was taken by a worker that dies is sent by another one. So a notification
may be sent twice; while its suspension is open it is never dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from datetime import datetime
from hashlib import blake2b
from typing import Any

from polos_redis import tasks
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

logger = logging.getLogger("polos.worker")

AT_ONCE = 10  # notifications of one channel and partition
LOOK_SECONDS = 1.0
SEND_SECONDS = 30.0  # for one
HOLD_MS = 45_000  # more than that
FIRST_MS, LONGEST_MS = 1_000, 3_600_000  # until it is tried again
STOP_SECONDS = 2.0  # at the end, for what is just being sent


class Outbox:
    """What one channel has to send of one partition, on one worker."""

    def __init__(
        self, connection: Connection, store: Store, prefix: bytes, channel: Channel, links: Links | None
    ) -> None:
        self.connection = connection
        self.store = store
        self.prefix = prefix
        self.channel = channel
        self.links = links
        self._sending: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            free = AT_ONCE - len(self._sending)
            if not free:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                claimed = await self.store.outbox.claim(self.prefix, self.channel.name, free, HOLD_MS)
            except PolosError as error:
                told = {"channel": self.channel.name, "error": str(error)}
                logger.error("the outbox can't be read", extra=told)
                claimed = []
            for one in claimed:
                task = tasks.spawn(self._send(one), "polos-notification")
                self._sending.add(task)
                task.add_done_callback(self._sent)
            if len(claimed) < free:
                await asyncio.sleep(random.uniform(0.5, 1.0) * LOOK_SECONDS)

    async def stop(self) -> None:
        """Wait a little for what is being sent, then give it up: another worker sends it."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._room.set()
        if not task.cancelled() and task.exception() is not None:
            logger.error("an outbox failed", exc_info=task.exception())

    async def _send(self, claimed: ClaimedNotification) -> None:
        """Send one, and note what became of it. What Redis can't be asked about stays as it was taken."""
        told: dict[str, Any] = {
            "channel": self.channel.name,
            "execution": claimed.execution_id,
            "step": claimed.step_key,
        }
        again: int | None = None
        try:
            found = await self._open_suspension(claimed)
        except RedisUnavailableError as error:
            logger.warning("a notification has to wait", extra={**told, "error": str(error)})
            return
        if found is None:
            logger.info("a notification is given up: nothing waits for an answer any more", extra=told)
        else:
            notification = _notification(found, self.links)
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self.channel.send(notification)
                logger.info("a notification was sent", extra=told)
            except Exception as error:
                again = _pause(notification, claimed)
                # What other errors say is not ours to repeat: it may name a secret.
                why = str(error) if isinstance(error, PolosError) else type(error).__name__
                logger.warning("a notification was not sent", extra={**told, "error": why, "again_ms": again})
        await self.store.outbox.sent(self.prefix, self.channel.name, claimed, again)

    async def _open_suspension(self, claimed: ClaimedNotification) -> dict[str, Any] | None:
        """The suspension as it stands; None when it is not open any more."""
        try:
            found = await queries.get_suspension(self.connection, claimed.execution_id, claimed.step_key)
        except (ExecutionNotFoundError, ResumeError):
            return None
        is_open = found["status"] == "open" and found["execution_id"] == claimed.execution_id
        return found if is_open else None


def _pause(notification: Notification, claimed: ClaimedNotification) -> int:
    """How long to wait with the next try, ms: as long as it has been open, by the server's clock."""
    opened_ms = int(notification.opened_at.timestamp() * 1000)
    return min(max(claimed.due - HOLD_MS - opened_ms, FIRST_MS), LONGEST_MS)


def _notification(found: dict[str, Any], links: Links | None) -> Notification:
    """What is told of a suspension, as `get_suspension` has it."""
    execution_id, step_key, run = found["execution_id"], found["step_key"], found["run"]
    url: str | None = None
    personal: dict[str, str] = {}
    if links is not None and links.public_url is not None:
        url = links.url(execution_id, step_key, run)
        for name in found["approvers"] if links.secrets else ():
            if not name.startswith(GROUP):
                with contextlib.suppress(ConfigurationError):  # a name that no link can have
                    personal[name] = links.url(execution_id, step_key, run, name=name)
    name = f"{execution_id}\0{step_key}\0{run}".encode("utf-8", "surrogatepass")
    return Notification(
        id=f"suspension_{blake2b(name, digest_size=16).hexdigest()}",
        execution_id=execution_id,
        workflow_id=found["workflow_id"],
        step_key=step_key,
        run=run,
        data=found["data"],
        digest=found["digest"],
        opened_at=datetime.fromisoformat(found["opened_at"]),
        expires_at=None if found["expires_at"] is None else datetime.fromisoformat(found["expires_at"]),
        approvers=tuple(found["approvers"]),
        approval_url=url,
        approver_urls=personal,
    )
