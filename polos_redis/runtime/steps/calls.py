"""The base of all journaled calls: start one, commit a wait, await its decision, read its record."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from polos_redis import tasks
from polos_redis.errors import PolosError, StepKeyError, UnknownTypeError, UnreadableValueError
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.branches import BRANCH
from polos_redis.runtime.call_sites import CallSite, described
from polos_redis.state import journal
from polos_redis.state.journal import (
    ChildRecord,
    RaceRecord,
    Record,
    StepRecord,
    SuspensionRecord,
    WaitRecord,
)
from polos_redis.values import codec
from polos_redis.values.text import raw
from polos_redis.values.times import to_datetime_us

R = TypeVar("R", StepRecord, SuspensionRecord, WaitRecord, ChildRecord, RaceRecord)
W = TypeVar("W", SuspensionRecord, WaitRecord, ChildRecord)

WARN_SECONDS = 60.0

logger = logging.getLogger("polos.execution")


class Calls:
    """The journaled calls of one activation. Each needs a key of its own within the execution."""

    __slots__ = ("_activation", "_created")

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._created: datetime | None = None

    async def _start_call(self, key: str, call_site: CallSite) -> bytes | None:
        """Start a call once it may start; returns the record journaled under its key. A call without one is
        new: it starts when the code has reached every accepted decision, and what it has given up is
        journaled."""
        activation = self._activation
        if not activation.gate.is_open():
            await activation.gate.passed()
        stored = activation.register(key, call_site)
        if stored is None:
            while activation.unreached or activation.parking.given_up:
                await activation.reach_decisions(call_site)
                await activation.give_up()
        return stored

    async def _created_at(self) -> datetime:
        """When the execution was created, to the microsecond: with its id, what no other execution has. Read
        on first use, since queue entries don't carry it."""
        if self._created is None:
            activation = self._activation
            executions, execution_id = activation.host.store.executions, activation.id
            (created,) = await activation.journal.ask(lambda: executions.read_fields(execution_id, "created"))
            self._created = to_datetime_us(int(created or 0))  # 0: deleted, so nothing will be written
        return self._created

    async def _commit_wait(self, key: str, send: Callable[[int], Any]) -> bytes:
        """Send a write whose reply is {changes, record}; returns the record."""
        activation, name = self._activation, raw(key)
        activation.in_flight += 1
        try:
            await activation.journal.commit(name, b"", send)
        except asyncio.CancelledError:
            if not activation.over:
                activation.parking.given_up.add(key)  # it may be open by now
            raise
        finally:
            activation.landed()
        return activation.journal.records[name]

    async def _decision(self, key: str, stored: bytes, kind: type[W], call_site: CallSite) -> W:
        """Returns the record of a wait once it is decided. A wait that was given up (its race lost, its task
        cancelled) stays pending until the same code gives it up again."""
        activation = self._activation
        record = await self._read(key, stored, kind, call_site)
        if record.status == "open":
            record = await self._read(key, await activation.parking.wait(key), kind, call_site)
            await activation.gate.passed()
        if record.status == "closed":
            await self._stay(
                key, "a wait given up before is not given up again: has its timeout or race gone?"
            )
        activation.waited.append((_kind(record), record.decided_ms - record.opened_ms))
        if activation.code.replay is not None:
            activation.code.replay.passed(record.decided_ms)
        branch = BRANCH.get()
        if branch is not None and branch.direct:
            # a wait decided before it became part of this race does not decide the race
            branch.decided = record.race == branch.race
        return record

    async def _stay(self, key: str, warning: str) -> NoReturn:
        """On replay, wait to be cancelled again by the same code."""
        loop = self._activation.loop
        extra = {"execution": self._activation.id, "step": key}
        timer = loop.call_later(WARN_SECONDS, functools.partial(logger.warning, warning, extra=extra))
        self._activation.staying += 1
        try:
            await loop.create_future()
        finally:
            self._activation.staying -= 1
            timer.cancel()
        raise AssertionError("nobody resolves this future")

    def _refuse_inside_step(self, key: str, call: str) -> None:
        if tasks.in_step():
            raise StepKeyError(
                f"ctx.step.{call}({key!r}) was called inside a step's function: a step can't wait; "
                f"call {call} in the workflow's own code"
            )

    async def _read(self, key: str, stored: bytes, kind: type[R], call_site: CallSite) -> R:
        """Read a record as the kind this call journals; another kind stops the execution."""
        try:
            record: Record = journal.parse(stored)
        except UnreadableValueError as error:
            await self._hold_back(key, error)
        if not isinstance(record, kind):
            raise self._activation.stop_with(
                StepKeyError(
                    f"step key {key!r} at {described(call_site)} is a {journal.word_for(kind)} now, but was "
                    f"journaled as a {journal.word_for(type(record))}: give the new call its own key, or "
                    "bring the old code back"
                )
            )
        return record

    async def _decode(self, key: str, stored: bytes) -> Any:
        """Decode a value in the journal of step `key`."""
        try:
            return codec.decode(stored)
        except UnreadableValueError as error:
            await self._hold_back(key, error)

    async def _decode_foreign(self, key: str, stored: bytes) -> Any:
        """Decode a value that another program stored. What is of a type that is not imported here is the dict
        of its fields; if that can't be (as an item of a set), the whole value is plain JSON."""
        try:
            return codec.decode(stored, or_fields=True)
        except UnknownTypeError:
            return codec.to_plain(stored)
        except UnreadableValueError as error:
            await self._hold_back(key, error)

    async def _hold_back(self, key: str, error: PolosError) -> NoReturn:
        self._activation.gate.hold_back(f"step {key!r}", error)
        await self._activation.gate.stay_back()


def _kind(record: SuspensionRecord | WaitRecord | ChildRecord) -> str:
    """Returns the kind of a wait, as metrics name it."""
    if isinstance(record, WaitRecord):
        return "event" if record.topic else "time"
    return "suspension" if isinstance(record, SuspensionRecord) else "child"
