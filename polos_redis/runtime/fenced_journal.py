"""The fenced journal: what one activation knows of its execution's journal, and all it writes.

Every write names the fence (queue entry and owner nonce) and how many changes of the journal the activation
knows of; the script refuses it unless the entry is live, the owner is this one and the store has not gone
back behind that count. So a worker presumed dead, an entry delivered twice and a store that lost its last
seconds change nothing.

A write also relies on the connection (its epoch). When that has changed, the journal is read again and
compared before the write is sent: a lost record ends the activation and hands its entry back, a decision made
meanwhile is delivered, and a write whose reply was lost is recognised or repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from polos_redis import settings, tasks
from polos_redis.errors import (
    ConnectionLostError,
    PolosError,
    RedisRefusedError,
    RedisUnavailableError,
    ReleaseTooOldError,
)
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.host import Host
from polos_redis.runtime.outcome import Outcome
from polos_redis.state import journal
from polos_redis.state.executions import FINISHED, Loaded
from polos_redis.state.fencing import LOST, Fence, NotedStep
from polos_redis.values.text import text
from polos_redis.wire.replies import UNPINGED, TransientReplyError

logger = logging.getLogger("polos.execution")

T = TypeVar("T")

REFUSED_SECONDS = 1.0  # between attempts to reconnect to a server that refuses us
TRANSIENT_SECONDS = 0.25  # between attempts at a write that a connected server can't serve now


class Holder(Protocol):
    """The activation that holds the journal. `dropped` is called when the execution is lost or a write is
    refused, `reread` when the journal was read again and may have decisions; neither is called after
    `close`."""

    def dropped(self, why: str, *, pause: bool = False) -> None: ...
    def reread(self, loaded: Loaded) -> None: ...


class FencedJournal:
    """The journal of one activation behind its fence.

    `records` is the journal as far as known, `size` about how many bytes it has, `known` how many changes
    that includes, and `answers` how many
    accepted answers that were not there when the execution was queued: an activation can't leave without
    having seen all of them. `expected` counts its records, and those it gets by calls that have started:
    above `notable`, that number is worth a look. All of it is as of `lapses` of the worker's lease: after
    another one it may be out of date.
    """

    __slots__ = (
        "_code",
        "_holder",
        "_host",
        "_store",
        "_unconfirmed",
        "_verifying",
        "answers",
        "epoch",
        "expected",
        "fence",
        "known",
        "lapses",
        "notable",
        "records",
        "size",
    )

    def __init__(
        self, host: Host[Any], fence: Fence, code: CodeTasks, holder: Holder, *, lapses: int
    ) -> None:
        self._host = host
        self._store = host.store
        self.fence = fence
        self._code = code
        self._holder: Holder | None = holder
        self.records: dict[bytes, bytes] = {}
        self.known = 0
        self.size = 0
        self.answers = 0
        self.expected = 0
        self.notable = settings.long_journal(host.max_journal_records)
        self.epoch = host.store.wire.epoch
        self.lapses = lapses
        self._unconfirmed = False
        self._verifying: asyncio.Future[None] | None = None

    @property
    def current(self) -> bool:
        """Whether the connection is still the one that `records` was read on."""
        return self.epoch == self._store.wire.epoch

    @property
    def held(self) -> bool:
        """Whether the lease is fresh, and has not lapsed since `records` was read."""
        return self._host.lease_is_held(self.fence.prefix, self.lapses)

    @property
    def closed(self) -> bool:
        return self._holder is None

    def close(self) -> None:
        """Stop calling the holder: the activation has ended."""
        self._holder = None  # without this reference cycle the activation is freed at once

    # --- reading ------------------------------------------------------------------------

    def take(self, loaded: Loaded, epoch: int, lapses: int) -> None:
        """Start from a loaded journal; loading it made this activation the owner."""
        self.records = loaded.journal
        self.size = sum(map(len, self.records.values()))
        self.expected = len(self.records) - (journal.COUNT in self.records)
        self.known = int(loaded.journal.get(journal.COUNT, b"0"))
        self.answers = max(self.answers, loaded.answers)
        self.epoch, self.lapses = epoch, lapses

    def take_inlined(self, records: dict[bytes, bytes]) -> None:
        """Start from the journal inlined in the queue entry. As this activation has loaded nothing, it is not
        the owner yet: it is not notified of decisions, and its first write shows whether there were any."""
        self.records = records
        self.expected = len(records) - 1  # but the count
        self.known = int(records[journal.COUNT])
        self._unconfirmed = True

    def heard_answer(self, number: int) -> None:
        """Note that the notice of an accepted answer has come; `number` counts them since the execution was
        queued. After a gap, a notice is lost: the next look makes up for it."""
        if number == self.answers + 1:
            self.answers = number

    def unreached(self, used: Container[str], passed_over: Container[str]) -> list[bytes]:
        """Returns the names of journaled steps that are in neither collection of step keys; not those that
        were given up, or belong to branches that have lost a race, nor patches."""
        return [
            name
            for name, record in self.records.items()
            if name and not journal.is_result(name) and not journal.is_patch(name)
            if (key := text(name)) not in used and key not in passed_over
            if not journal.is_given_up(record) and not journal.has_lost(record, self.records, used)
        ]

    def is_behind(self, used: Container[str], passed_over: Container[str]) -> bool:
        """Returns whether a record of a step key in neither collection is one that code on the recorded path
        would still reach."""
        left = {name for name in self.records if name and not journal.is_result(name)}
        left = {name for name in left if (key := text(name)) not in used and key not in passed_over}
        return bool(left and left - journal.need_not_be_reached(self.records, used))

    async def verify(self) -> None:
        """Read the journal again and compare it with what this activation knows.

        Needed after every reconnect: the store may have gone back in time, or the notice of a decision may be
        lost; and after every lapse of the lease, when another worker may have taken the execution over. A
        difference ends the activation; decisions are passed on to `reread`. A call joins a comparison in
        progress, which may have started before the reconnect or lapse that the caller saw: check `current` or
        `held` afterwards.
        """
        if self._verifying is not None:
            await asyncio.shield(self._verifying)
        else:
            self._verifying = asyncio.get_running_loop().create_future()
            try:
                await self._verify()
            finally:
                self._verifying.set_result(None)
                self._verifying = None
        if self.closed:
            await self._code.leave()

    async def read_more(self, names: Sequence[bytes]) -> None:
        """Read records that were written during this activation, as it was notified. If the store has lost
        them since, the activation ends."""
        executions, execution_id = self._store.executions, self.fence.id.decode()
        found = await self.ask(lambda: executions.read_records(execution_id, names))
        self.records |= {n: record for n, record in zip(names, found, strict=True) if record is not None}
        if None in found:
            await self.ask(self.verify)
            if not self.records.keys() >= set(names):
                self._end("journal went back", pause=True)
                await self._code.leave()

    async def _verify(self) -> None:
        while True:
            epoch, lapses = self._store.wire.epoch, self._host.lapses(self.fence.prefix)
            before = self.records.copy()
            loaded = await self._store.executions.load(self.fence)
            if epoch == self._store.wire.epoch:
                break
        if self._holder is None:
            return
        if loaded is None:
            self._end("lost")
            return
        known = int(loaded.journal.get(journal.COUNT, b"0"))
        if known < self.known or not _continues(before, loaded.journal):
            self._end("journal went back")
            return
        self.epoch, self.lapses = epoch, lapses
        self.known = known
        self.answers = max(self.answers, loaded.answers)
        # a record from a notice that came before this reply is newer than the reply
        newer = {name: record for name, record in self.records.items() if record is not before.get(name)}
        self.records = loaded.journal | newer
        self._holder.reread(loaded)

    # --- writing ------------------------------------------------------------------------

    async def commit(self, name: bytes, record: bytes, send: Callable[[int], asyncio.Future[Any]]) -> int:
        """Send a write of one record until it is known to have happened; leaves when the execution is lost.

        `send` gets the number of known changes. Without a `record`, the reply is [changes, record]: a wait
        that is opened again is found open. Returns the number of changes.
        """
        while True:
            try:
                while self.epoch != self._store.wire.epoch:
                    await self.verify()
                    found = self.records.get(name)
                    if record and found is not None and found.startswith(record):
                        return self.known
                reply = await send(self.known)
            except ConnectionLostError as error:
                await self.reconnect(error)
                continue
            except PolosError as error:
                self._end(f"write refused: {error}", pause=True)
                await self._code.leave()
            changes: int = reply if type(reply) is int else reply[0]
            if changes < 0:
                self._end(refusal(changes))
                await self._code.leave()
            if self._unconfirmed:
                self._confirm(changes, self.known + (name != b""))
            if changes > self.known:
                self.known = changes
            if record:
                self.records[name] = record + journal.UNTIMED
                self.size += len(record)
            elif type(reply) is not int:
                self.records[name] = reply[1]
            return changes

    async def leave(self, send: Callable[[int, int], asyncio.Future[Any]]) -> Any:
        """Send a write that ends the activation, until its reply is known; returns it. `send` gets the
        number of known changes and of answers seen. A reply that is a number above 0 says that an answer was
        accepted that this activation had not seen: by then the journal has been read again, and the write may
        be sent again. Raises the server's refusal."""
        reply = await self.reply_to(lambda known: send(known, self.answers))
        if type(reply) is int and reply > 0:
            await self.verify()
        return reply

    async def reply_to(self, send: Callable[[int], asyncio.Future[Any]]) -> Any:
        """Send a write that journals nothing until its reply is known; returns it. Raises the server's
        refusal."""
        while True:
            try:
                while self.epoch != self._store.wire.epoch:
                    await self.verify()
                return await send(self.known)
            except ConnectionLostError as error:
                await self.reconnect(error)

    async def ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call that goes past the journal, is safe to repeat and waits for Redis without end; returns
        its result.

        That Redis does not serve it is never the failure of the workflow's code. An outage is waited out; a
        refusal ends the activation, and the execution is tried again later. Only where Redis is out of memory
        the caller gets the error: the call adds to it.
        """
        while True:
            try:
                return await call()
            except (ConnectionLostError, RedisUnavailableError):
                await self.reconnect()
            except ReleaseTooOldError as error:  # at a new connection: the worker is about to stop
                self._end(f"a call was refused: {error}", pause=True)
                await self._code.leave()
            except RedisRefusedError as error:
                if getattr(error, "code", "") == "OOM":
                    raise
                if self._store.wire.connected:
                    self._end(f"a call was refused: {error}", pause=True)
                    await self._code.leave()
                await self.reconnect()  # it was refused, as while a password is being changed

    def note_starts(self, first: bool, steps: Sequence[NotedStep]) -> None:
        """Emit starts by a write of its own, as `LifecycleEvents.overdue` returns them, without waiting for
        it: at most once."""
        future = self._store.fenced.note_starts(self.fence, self.known, first, steps)
        future.add_done_callback(self._noted, context=tasks.OUTSIDE)

    def note_progress(self, reports: Sequence[tuple[bytes, int, bytes]]) -> asyncio.Future[int]:
        """Write what steps have reported, as `Report.row` returns it, without waiting for it."""
        future = self._store.fenced.note_progress(self.fence, self.known, reports)
        future.add_done_callback(self._noted, context=tasks.OUTSIDE)
        return future

    def _noted(self, future: asyncio.Future[int]) -> None:
        if future.exception() is not None:
            return
        if future.result() >= 0:
            if self._unconfirmed:
                self._confirm(future.result(), self.known)
        else:
            self._end(refusal(future.result()))

    def _confirm(self, changes: int, expected: int) -> None:
        """After the first write: read the journal again if more has changed than by that write."""
        self._unconfirmed = False
        if changes != expected:
            self._host.spawn(self.verify())

    def finish(
        self, outcome: Outcome, done: Callable[[Outcome, str, bool], None], again: Callable[[], None]
    ) -> None:
        """End the execution. Calls `done` once it has ended, with its status and whether this write is known
        to have ended it, or `again` when it has not and the journal was read again; neither if the activation
        is dropped. Starts a task only then."""
        if self.epoch != self._store.wire.epoch:
            self._host.spawn(self._look_for_end(outcome, done, again))
            return

        def replied(future: asyncio.Future[int]) -> None:
            error = future.exception()
            if isinstance(error, ConnectionLostError):
                self._host.spawn(self._look_for_end(outcome, done, again))
            elif error is not None:
                self._end(f"finish refused: {error}", pause=True)
            elif future.result() > 0:
                self._host.spawn(self._look_again(again))
            elif future.result() < 0:
                self._end(refusal(future.result()))
            else:
                done(outcome, outcome.status, True)

        one = outcome
        future = self._store.fenced.finish(
            self.fence, self.known, self.answers, one.status, one.value, one.event, one.fields(), one.events
        )
        future.add_done_callback(replied, context=tasks.OUTSIDE)

    async def _look_for_end(
        self, outcome: Outcome, done: Callable[[Outcome, str, bool], None], again: Callable[[], None]
    ) -> None:
        """After a lost connection: see whether the execution has ended."""
        try:
            await self.reconnect()
            ended = await self._store.executions.watch(self.fence.id.decode(), "")
            if ended is not None and ended.status in FINISHED:
                done(
                    outcome, ended.status, False
                )  # by the write whose reply was lost, or by someone entitled to
                return
        except PolosError as error:
            self._end(f"finish refused: {error}", pause=True)
            return
        await self._look_again(again)

    async def _look_again(self, again: Callable[[], None]) -> None:
        """Read the journal again: an answer may have been accepted that this activation had not seen."""
        try:
            await self.verify()
        except PolosError as error:
            self._end(f"finish refused: {error}", pause=True)
            return
        again()

    # --- trouble ------------------------------------------------------------------------

    async def reconnect(self, lost: ConnectionLostError | None = None) -> None:
        """After a lost connection: wait for a new one, which has another epoch. Where the server has only
        put the call off, wait a moment.

        A refusal (as while a password is being changed) is waited out: it does not concern the step whose
        result is to be written, so the workflow's code must not see it as that step's failure.
        """
        if isinstance(lost, TransientReplyError) and lost.code in UNPINGED:
            await asyncio.sleep(TRANSIENT_SECONDS)
        while not self.closed:
            try:
                await self._store.wire.ready(self.fence.prefix)
                break
            except PolosError as error:
                logger.error("can't reconnect", extra={**self._code.facts, "error": str(error)})
                await asyncio.sleep(REFUSED_SECONDS)
        if self.closed:
            await self._code.leave()

    def _end(self, why: str, *, pause: bool = False) -> None:
        if self._holder is not None:
            self._holder.dropped(why, pause=pause)


def refusal(code: int) -> str:
    """Returns why the fence refused a write, from the script's reply."""
    return "lost" if code == LOST else "journal went back"


def _continues(before: dict[bytes, bytes], now: dict[bytes, bytes]) -> bool:
    """Returns whether a journal can have become another one: nothing was lost or undone."""
    for name, record in before.items():
        if name == journal.COUNT:
            continue
        found = now.get(name)
        if found is None or not (found == record or journal.may_become(record, found)):
            return False
    return True
