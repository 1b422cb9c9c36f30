"""The only module that calls Redis to change state: one typed method per script.

Methods an activation writes with (from `write` to `again` below) return the wire's future: they are fenced
by entry, owner and known changes, and what to do when the connection is lost is the
activation's to decide. All others can be repeated safely and are repeated here until `patience` ends.
"""

from __future__ import annotations

import os
from asyncio import Future
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from polos_redis.decisions.people import canonical
from polos_redis.errors import ConfigurationError
from polos_redis.state import keys, scripts
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.transport import Arg, Script

LOST, WENT_BACK, NO_SUCH_WAIT = -1, -2, -3
FINISHED = ("completed", "failed", "cancelled")
STATUSES = ("queued", "waiting", *FINISHED)
REPEATED_MS = 60_000  # beside its patience: a call that was given up may be on its way so long

_pack = msgpack.Packer(use_bin_type=False).pack  # no bin type: the scripts' cmsgpack can't read it


@dataclass(frozen=True, slots=True)
class Fence:
    """Who writes: an activation's execution, queue entry and owner nonce, as the scripts want them."""

    prefix: bytes
    id: bytes
    entry: bytes
    owner: bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an activation is given when it begins on an execution that was begun before."""

    input: bytes
    started: bool
    losses: int
    origin: bytes | None
    journal: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Start:
    """How an execution is begun, apart from its workflow and input; times in ms.

    `semaphore`: the queue with a limit, or the concurrency key of one, to acquire a slot from; its limit is
    the one that workers have published, else `limit`. `origin`: what its code sees of where it comes from (codec);
    `digest`: of its input, where it is begun once for a key.
    """

    queue: str = keys.DEFAULT_QUEUE
    semaphore: str | None = None
    limit: int | None = None
    timeout: int | None = None
    delay: int | None = None
    at: int | None = None
    origin: bytes | None = None
    digest: bytes | None = None


DEFAULTS = Start()


@dataclass(frozen=True, slots=True)
class Child:
    """A child to begin."""

    id: str
    workflow_id: str
    input: bytes
    start: Start


@dataclass(frozen=True, slots=True)
class SuspensionRequest:
    """What a suspension asks: what is shown (codec) and its digest, until when (0: for ever), for how long
    its audit is kept; its terms; the answer that holds when nobody gives one in time (codec, empty for none);
    what its events tell, if that is more than what is shown; the channels by which people are notified; the
    execution's run."""

    shown: bytes
    digest: bytes
    timeout_ms: int
    audit_ms: int
    policy: bytes = b""
    default: bytes = b""
    event_data: bytes = b""
    channels: Sequence[str] = ()
    run: int = 1


OPTIONAL_FIELDS = ("policy", "default", "event_data", "channels")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a suspension: its value (codec) and digest, who gives it and how; the opening of the
    suspension it was checked against ("" for none); whether it approves."""

    value: bytes
    digest: bytes
    by: str
    groups: Sequence[str]
    channel: str
    seen: str = ""
    approves: bool = False


class RaceMembership(NamedTuple):
    """The races of a wait: the step key of the one that it decides, empty for none, and all that it takes
    part in: a msgpack list of [race, branch, step keys begun in that branch ...], empty for none."""

    race: bytes = b""
    races: bytes = b""

    @classmethod
    def of(cls, race: bytes, races: Sequence[Sequence[bytes]]) -> RaceMembership:
        """Packed as join in settle.lua reads it."""
        return cls(race, _pack(races) if races else b"")


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """What an execution wants of its lane: whether it wants a place (or has one), as of which version."""

    semaphore: str
    limit: int
    version: int
    wants_slot: bool


@dataclass(frozen=True, slots=True)
class ClaimedNotification:
    """A notification that a worker has taken to send it; `due`: ms when it is to be sent by another one."""

    execution_id: str
    step_key: str
    due: int


@dataclass(frozen=True, slots=True)
class Errand:
    """Something a worker has to do that no single script can; `due` as the store has it."""

    name: str
    due: bytes


@dataclass(frozen=True, slots=True)
class Fired:
    """What a look at the timers did: ms to the next timer, None for none; and the errands that are due."""

    fired: int
    forgotten: int
    next_ms: int | None
    errands: list[Errand]


@dataclass(frozen=True, slots=True)
class Ended:
    """How an execution stands: its status and, when finished, the one value that goes with it."""

    status: str
    output: bytes | None = None
    error: bytes | None = None
    cancelled_by: str | None = None


def text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "surrogatepass")


def raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


class Store:
    """The state of one namespace, reached over one wire."""

    def __init__(self, wire: AnyWire, namespace: str, partitions: int, patience: float | None = 30.0) -> None:
        self.wire = wire
        self.namespace = namespace
        self.partitions = partitions
        self.patience = patience
        self.prefixes = [keys.prefix(namespace, p).encode() for p in range(partitions)]

    def prefix(self, execution_id: str) -> bytes:
        """The prefix of the partition an execution lives in."""
        if self.partitions == 1 and isinstance(execution_id, str):
            return self.prefixes[0]
        return self.prefixes[keys.partition_of(keys.root_of(execution_id), self.partitions)]

    def topic_prefix(self, topic: str) -> bytes:
        """The prefix of the partition a topic lives in."""
        execution_id = keys.parse_topic(topic)[1]
        if execution_id is not None:
            return self.prefix(execution_id)
        return self.prefixes[keys.partition_of(topic, self.partitions)]

    async def check_partitions(self) -> None:
        """Fix the namespace's number of partitions, or refuse another one."""
        key = self.prefixes[0] + keys.META.encode()
        fixed = await self.wire.call("HGET", key, "partitions", patience=self.patience)
        if fixed is None:
            await self.wire.call("HSETNX", key, "partitions", self.partitions, patience=self.patience)
            fixed = await self.wire.call("HGET", key, "partitions", patience=self.patience)
        if int(fixed) != self.partitions:
            raise ConfigurationError(
                f"namespace {self.namespace!r} has {int(fixed)} partitions, not {self.partitions}: "
                "set POLOS_PARTITIONS to that (it can't be changed later)"
            )

    def _options(self, execution_id: str, start: Start, **more: Any) -> bytes:
        """Options as creation.lua reads them; empty when there is none."""
        options: dict[str, Any] = dict(more)
        if start.queue != keys.DEFAULT_QUEUE:
            options["queue"] = start.queue
        if start.semaphore is not None:
            near = self.semaphore_prefix(start.semaphore) == self.prefix(execution_id)
            options |= {"semaphore": raw(start.semaphore), "near": near}
        for name in ("limit", "timeout", "delay", "at", "origin", "digest"):
            value = getattr(start, name)
            if value is not None:
                options[name] = value
        packed: bytes = _pack(options) if options else b""
        return packed

    def semaphore_prefix(self, semaphore: str) -> bytes:
        """The prefix of a lane's home partition."""
        return self.prefixes[keys.partition_of(semaphore, self.partitions)]

    # --- an activation's writes ---------------------------------------------------------

    def _fenced(self, script: Script, by: Fence, known: int, *rest: Arg) -> Future[Any]:
        return self.wire.run(script, by.prefix, by.id, by.entry, by.owner, known, *rest)

    def write(self, by: Fence, known: int, key: bytes, record: bytes, events: Sequence[bytes]) -> Future[int]:
        return self._fenced(scripts.WRITE, by, known, key, record, *events)

    def backoff(
        self,
        by: Fence,
        known: int,
        key: bytes,
        record: bytes,
        delay_ms: int,
        races: bytes,
        events: Sequence[bytes],
    ) -> Future[int]:
        """Journal a failed attempt and wait for its retry; `races` as in `RaceMembership`."""
        return self._fenced(scripts.BACKOFF, by, known, key, record, delay_ms, races, *events)

    def suspend(
        self,
        by: Fence,
        known: int,
        key: bytes,
        request: SuspensionRequest,
        race_membership: RaceMembership,
        events: Sequence[bytes],
    ) -> Future[Any]:
        """Open a wait for a person."""
        more: dict[str, Any] = {name: value for name in OPTIONAL_FIELDS if (value := getattr(request, name))}
        if request.run > 1:
            more["run"] = request.run
        return self._fenced(
            scripts.SUSPEND,
            by,
            known,
            key,
            request.timeout_ms,
            request.shown,
            *race_membership,
            request.digest,
            request.audit_ms,
            _pack(more) if more else b"",
            *events,
        )

    def wait(
        self,
        by: Fence,
        known: int,
        key: bytes,
        for_ms: int | None,
        until_ms: int | None,
        topic: str,
        subscriber: str,
        race_membership: RaceMembership,
        events: Sequence[bytes],
    ) -> Future[Any]:
        """Open a wait for a time, or for an event of a topic as its subscriber."""
        return self._fenced(
            scripts.WAIT,
            by,
            known,
            key,
            "" if for_ms is None else for_ms,
            "" if until_ms is None else until_ms,
            raw(topic),
            raw(subscriber),
            *race_membership,
            *events,
        )

    def spawn(
        self,
        by: Fence,
        known: int,
        key: bytes,
        status: str,
        total: int,
        first: int,
        retention_ms: int,
        children: Sequence[Child],
        race_membership: RaceMembership,
        events: Sequence[bytes],
    ) -> Future[Any]:
        """Begin some children of a step, `first` the index of the first of them."""
        parts: list[Any] = []
        for child in children:
            options = self._options(child.id, child.start, parent=by.id, key=key)
            parts += (child.id, raw(child.workflow_id), child.input, options)
        return self._fenced(
            scripts.SPAWN,
            by,
            known,
            key,
            status,
            total,
            first,
            retention_ms,
            *race_membership,
            len(events),
            *events,
            *parts,
        )

    def choose(
        self, by: Fence, known: int, key: bytes, branch: bytes, started: Sequence[bytes]
    ) -> Future[Any]:
        """Journal the winner of a race and close the waits of the other branches."""
        return self._fenced(scripts.CHOOSE, by, known, key, branch, *started)

    def park(
        self, by: Fence, known: int, state: bytes, given_up: Sequence[bytes], waits: Sequence[bytes]
    ) -> Future[Any]:
        return self._fenced(scripts.PARK, by, known, state, len(given_up), *given_up, *waits)

    def finish(
        self,
        by: Fence,
        known: int,
        status: str,
        value: bytes,
        event: bytes,
        fields: Sequence[bytes],
        events: Sequence[bytes],
    ) -> Future[int]:
        return self._fenced(
            scripts.FINISH, by, known, status, value, event, _pack(fields) if fields else b"", *events
        )

    def auto_retry(
        self, by: Fence, known: int, error: bytes, times: int, delay_ms: int, events: Sequence[bytes]
    ) -> Future[int]:
        """Let a failed execution go on as a new run, unless it has been tried again `times` times: then 0."""
        return self._fenced(scripts.AUTO_RETRY, by, known, error, times, delay_ms, *events)

    # --- a worker's calls ---------------------------------------------------------------

    async def load(self, by: Fence) -> Loaded | None:
        """Become the owner of a delivered execution; None when its entry is no longer the live one."""
        reply = await self.wire.call_script(scripts.LOAD, by.prefix, by.id, by.entry, by.owner, patience=None)
        if reply is None:
            return None
        given, started, losses, origin, flat = reply
        return Loaded(
            given,
            started is not None,
            int(losses or 0),
            origin,
            dict(zip(flat[::2], flat[1::2], strict=True)),
        )

    async def requeue(
        self,
        prefix: bytes,
        queue: str,
        consumer: str,
        entries: Sequence[bytes],
        *,
        lost: bool,
        max_deliveries: int,
    ) -> tuple[int, int, int]:
        """Give a consumer's entries back to the queue; returns how many were requeued, failed, dropped."""
        why = "lost" if lost else "back"
        requeued, failed, dropped = await self.wire.call_script(
            scripts.REQUEUE, prefix, queue, consumer, why, max_deliveries, *entries, patience=self.patience
        )
        return requeued, failed, dropped

    async def put_back(self, by: Fence, queue: str, delay_ms: int) -> None:
        """Return an execution of an unknown workflow to the queue after a delay; nothing is counted."""
        await self.wire.call_script(
            scripts.PUTBACK, by.prefix, queue, by.id, by.entry, delay_ms, patience=self.patience
        )

    async def fire(self, prefix: bytes, worker: str, hold_ms: int, limit: int) -> Fired | None:
        """Decide what is due; None when another worker holds the pump."""
        reply = await self.wire.call_script(scripts.FIRE, prefix, worker, hold_ms, limit, patience=None)
        if reply[0] == -1:
            return None
        fired, forgotten, next_ms, flat = reply
        errands = [Errand(text(name), due) for name, due in zip(flat[::2], flat[1::2], strict=True)]
        return Fired(fired, forgotten, None if next_ms < 0 else next_ms, errands)

    async def errand_done(self, prefix: bytes, errand: Errand) -> None:
        """An errand was run; one that was renewed meanwhile stays."""
        await self.wire.call_script(scripts.ERRAND, prefix, raw(errand.name), errand.due, "", patience=None)

    async def put_off(self, prefix: bytes, errand: Errand, ms: int) -> None:
        """An errand has to be run again, in so many ms."""
        await self.wire.call_script(scripts.ERRAND, prefix, raw(errand.name), errand.due, ms, patience=None)

    async def claim_notifications(
        self, prefix: bytes, channel: str, limit: int, hold_ms: int
    ) -> list[ClaimedNotification]:
        """Take notifications that a channel has to send now, for so long."""
        due, *members = await self.wire.call_script(
            scripts.CLAIM_NOTIFICATIONS, prefix, channel, limit, hold_ms, patience=None
        )
        names = [text(member).partition(" ") for member in members]
        return [ClaimedNotification(execution_id, step_key, due) for execution_id, _, step_key in names]

    async def notification_sent(
        self, prefix: bytes, channel: str, claimed: ClaimedNotification, retry_ms: int | None
    ) -> None:
        """A notification was sent, or is to be in so many ms; one that was noted anew meanwhile stays."""
        member, again = (
            raw(f"{claimed.execution_id} {claimed.step_key}"),
            "" if retry_ms is None else retry_ms,
        )
        await self.wire.call_script(
            scripts.NOTIFICATION_SENT, prefix, channel, member, claimed.due, again, patience=None
        )

    async def slot_request(self, prefix: bytes, execution_id: str) -> SlotRequest | None:
        """What an execution wants of its lane; None when it is in none, or is gone."""
        reply = await self.wire.call_script(scripts.SLOT_REQUEST, prefix, execution_id, patience=None)
        return None if reply is None else SlotRequest(text(reply[0]), reply[1], reply[2], bool(reply[3]))

    async def request_slot(
        self, semaphore: str, limit: int, execution_id: str, version: int, look_ms: int
    ) -> bool:
        """Ask for a place in a lane; whether it is held now. `look_ms`: until its holders are looked at."""
        return await self._change_slot(semaphore, limit, execution_id, version, 1, look_ms)

    async def release_slot(self, semaphore: str, limit: int, execution_id: str, version: int) -> None:
        """Give up a place in a lane, or the turn in line."""
        await self._change_slot(semaphore, limit, execution_id, version, 0, 0)

    async def _change_slot(
        self, semaphore: str, limit: int, execution_id: str, version: int, asks: int, look_ms: int
    ) -> bool:
        prefix = self.semaphore_prefix(semaphore)
        return bool(
            await self.wire.call_script(
                scripts.REQUEST_SLOT,
                prefix,
                raw(semaphore),
                limit,
                execution_id,
                version,
                asks,
                look_ms,
                patience=None,
            )
        )

    async def slot_holders(self, semaphore: str, cursor: bytes) -> tuple[bytes, list[tuple[str, int]]] | None:
        """A page of who has a place in a lane and lives in another partition, with versions; None when the
        lane is empty."""
        reply = await self.wire.call_script(
            scripts.SLOT_HOLDERS, self.semaphore_prefix(semaphore), raw(semaphore), cursor, patience=None
        )
        if reply is None:
            return None
        cursor, flat = reply
        found = [(text(one), int(version)) for one, version in zip(flat[::2], flat[1::2], strict=True)]
        return cursor, found

    async def grant_slot(self, execution_id: str, version: int) -> bool:
        """An execution has got a place for this version: it becomes runnable, if that is what it still
        wants."""
        prefix = self.prefix(execution_id)
        return bool(
            await self.wire.call_script(scripts.GRANT_SLOT, prefix, execution_id, version, patience=None)
        )

    async def subscribe(self, topic: str, member: str) -> bytes:
        """Note that a member wants the events of a topic from now on; returns its place (a stream id)."""
        position: bytes = await self.wire.call_script(
            scripts.SUBSCRIBE, self.topic_prefix(topic), raw(topic), raw(member), patience=self.patience
        )
        return position

    async def advance(self, topic: str, member: str, at: bytes, to: bytes) -> bool:
        """Move a subscriber on from a place (`to` empty: end the subscription); False when it has moved
        before."""
        return bool(
            await self.wire.call_script(
                scripts.ADVANCE, self.topic_prefix(topic), raw(topic), raw(member), at, to, patience=None
            )
        )

    async def deliver(self, subscriber: str, event: str, kind: bytes, data: bytes) -> int:
        """Decide a wait by an event of a topic: 1; 0 when it does not wait, -1 when it is about to open."""
        prefix = self.prefix(subscriber.split(" ", 2)[1])
        decided: int = await self.wire.call_script(
            scripts.DELIVER, prefix, raw(subscriber), event, kind, data, patience=None
        )
        return decided

    async def unsubscribe(self, topic: str, member: str) -> None:
        """End a subscription, wherever it is."""
        key = self.topic_prefix(topic) + keys.SUBS.encode() + raw(topic)
        await self.wire.call("HDEL", key, raw(member), patience=self.patience)

    async def subscribers(self, topic: str) -> dict[str, bytes]:
        """Who wants the events of a topic, and the place (the last event given) of each."""
        key = self.topic_prefix(topic) + keys.SUBS.encode() + raw(topic)
        found: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            cursor, flat = await self.wire.call("HSCAN", key, cursor, "COUNT", 500, patience=None)
            found |= {text(member): position for member, position in zip(flat[::2], flat[1::2], strict=True)}
            if cursor == b"0":
                return found

    async def event(self, topic: str, event: str) -> list[bytes] | None:
        """One event of a topic, [type, data, ..]; None when it is no longer there."""
        key = self.topic_prefix(topic) + keys.TOPIC.encode() + raw(topic)
        found = await self.wire.call("XRANGE", key, event, event, patience=None)
        return found[0][1] if found else None

    async def events_after(self, topic: str, position: bytes, count: int) -> list[tuple[bytes, list[bytes]]]:
        """Events of a topic after a place: stream id, and [type, data, ..]."""
        key = self.topic_prefix(topic) + keys.TOPIC.encode() + raw(topic)
        found = await self.wire.call("XRANGE", key, b"(" + position, "+", "COUNT", count, patience=None)
        return [(entry, flat) for entry, flat in found]

    async def trigger(
        self,
        topic: str,
        workflow_id: str,
        at: bytes,
        to: bytes,
        not_before: int,
        execution_id: str,
        input: bytes,
        retention_ms: int,
        start: Start,
    ) -> int:
        """Begin an execution with the events between two places of a subscription: 0 when it is begun, the ms
        until it may be, -1 when the subscription is not at the first place any more."""
        waits: int = await self.wire.call_script(
            scripts.TRIGGER,
            self.topic_prefix(topic),
            raw(topic),
            raw(workflow_id),
            at,
            to,
            not_before,
            execution_id,
            input,
            retention_ms,
            self._options(execution_id, start),
            patience=None,
        )
        return waits

    async def scheduled(self, schedule_id: str) -> tuple[int, bytes]:
        """The server's time in ms, and a schedule as it stands: empty when there is none."""
        now, packed = await self.wire.call_script(
            scripts.READ_SCHEDULE, self.prefix(schedule_id), schedule_id, patience=self.patience
        )
        return now, packed or b""

    async def schedule(
        self, schedule_id: str, seen: bytes, packed: bytes, due_ms: int | None, *starts: Any
    ) -> bool:
        """Change a schedule that is as it was seen (`packed` empty: remove it), with its next tick, and begin
        an execution (`starts`: id, workflow, input, retention in ms, `Start`); False when it has changed."""
        parts: list[Any] = [""] * 5
        if starts:
            execution_id, workflow_id, packed_input, retention_ms, start = starts
            options = self._options(execution_id, start)
            parts = [execution_id, raw(workflow_id), packed_input, retention_ms, options]
        due = "" if due_ms is None else due_ms
        return bool(
            await self.wire.call_script(
                scripts.SCHEDULE,
                self.prefix(schedule_id),
                schedule_id,
                seen,
                packed,
                due,
                *parts,
                patience=self.patience,
            )
        )

    async def schedules(self) -> dict[str, bytes]:
        """All schedules, a page at a time."""
        found: dict[str, bytes] = {}
        for prefix in self.prefixes:
            cursor = b"0"
            while True:
                cursor, flat = await self.wire.call(
                    "HSCAN", prefix + keys.SCHEDULES.encode(), cursor, "COUNT", 500, patience=self.patience
                )
                found |= {text(name): packed for name, packed in zip(flat[::2], flat[1::2], strict=True)}
                if cursor == b"0":
                    break
        return found

    async def put_api_key(self, key_id: str, packed: bytes) -> None:
        """Store an API key, or change it."""
        name = self.prefixes[0] + keys.KEYS.encode()
        await self.wire.call("HSET", name, key_id, packed, patience=self.patience)

    async def api_key(self, key_id: str) -> bytes | None:
        """An API key as it is stored."""
        name = self.prefixes[0] + keys.KEYS.encode()
        packed: bytes | None = await self.wire.call("HGET", name, key_id, patience=self.patience)
        return packed

    async def api_keys(self) -> list[bytes]:
        """All API keys as they are stored."""
        name = self.prefixes[0] + keys.KEYS.encode()
        packed: list[bytes] = await self.wire.call("HVALS", name, patience=self.patience)
        return packed

    async def make_group(self, prefix: bytes, queue: str) -> None:
        """Make a queue's stream and group, unless they are there."""
        await self.wire.call_script(scripts.GROUP, prefix, queue, patience=None)

    async def define(self, prefix: bytes, kind: str, name: str, value: bytes) -> None:
        """Make known the definition of a "workflow", or the "limit" of a queue; an empty value removes it."""
        await self.wire.call_script(scripts.DEFINE, prefix, kind, raw(name), value, patience=None)

    async def renew(self, prefix: bytes, worker: str, serves: bytes) -> int:
        """Raise a worker's lease counter and announce what it serves; returns the counter."""
        counter: int = await self.wire.call_script(scripts.RENEW, prefix, worker, serves, patience=None)
        return counter

    async def prune(self, prefix: bytes, queue: str, consumer: str, lease: bytes) -> bool:
        """Remove a dead worker's empty consumer and its lease row."""
        return bool(await self.wire.call_script(scripts.PRUNE, prefix, queue, consumer, lease, patience=None))

    # --- a client's calls ---------------------------------------------------------------

    async def invoke(
        self, execution_id: str, workflow_id: str, input: bytes, retention_ms: int, start: Start = DEFAULTS
    ) -> int:
        """Create an execution: 1; 0 when one with this id exists, -1 when that one has another input."""
        options = b"" if start is DEFAULTS else self._options(execution_id, start)
        created: int = await self.wire.call_script(
            scripts.INVOKE,
            self.prefix(execution_id),
            execution_id,
            raw(workflow_id),
            input,
            retention_ms,
            options,
            patience=self.patience,
        )
        return created

    async def answer(self, execution_id: str, step_key: str, answer: Answer, *, early: bool) -> list[Any]:
        """Decide a suspension; the tagged reply of answer.lua."""
        reply: list[Any] = await self.wire.call_script(
            scripts.ANSWER,
            self.prefix(execution_id),
            raw(execution_id),
            raw(step_key),
            answer.value,
            answer.digest,
            raw(answer.by),
            answer.channel,
            int(early),
            answer.seen,
            int(answer.approves),
            _pack([raw(group) for group in answer.groups]) if answer.groups else b"",
            raw(canonical(answer.by)),
            patience=self.patience,
        )
        return reply

    async def early_answer(self, execution_id: str, step_key: str) -> Answer | None:
        """An answer that came before its suspension; None when there is none."""
        key = self.prefix(execution_id) + keys.EARLY.encode() + raw(execution_id)
        packed = await self.wire.call("HGET", key, raw(step_key), patience=None)
        if packed is None:
            return None
        value, digest, by, channel, _, groups = msgpack.unpackb(packed, raw=True)
        names = [text(group) for group in msgpack.unpackb(groups, raw=True)] if groups else []
        return Answer(value, digest, text(by), names, text(channel))

    async def drop_early_answer(self, execution_id: str, step_key: str) -> None:
        """An early answer was taken or refused."""
        key = self.prefix(execution_id) + keys.EARLY.encode() + raw(execution_id)
        await self.wire.call("HDEL", key, raw(step_key), patience=None)

    async def delete(self, execution_id: str) -> list[Any]:
        """Forget an execution that has ended; the tagged reply of delete.lua."""
        reply: list[Any] = await self.wire.call_script(
            scripts.DELETE, self.prefix(execution_id), raw(execution_id), patience=self.patience
        )
        return reply

    async def ended_below(self, root_id: str) -> AsyncIterator[list[str]]:
        """The descendants of a root that have ended and are still kept, some at a time."""
        key = self.prefix(root_id) + keys.EXPIRY.encode()
        pattern, cursor = raw(root_id) + b".*", b"0"
        while True:
            cursor, flat = await self.wire.call(
                "ZSCAN", key, cursor, "MATCH", pattern, "COUNT", 1000, patience=self.patience
            )
            yield [text(member) for member in flat[::2]]
            if cursor == b"0":
                return

    async def audit(self, root_id: str) -> list[bytes]:
        """What became of the suspensions of a root and its descendants, oldest first, packed."""
        key = self.prefix(root_id) + keys.AUDIT.encode() + raw(root_id)
        found: list[bytes] = await self.wire.call("LRANGE", key, 0, -1, patience=self.patience)
        return found

    async def cancel(self, execution_id: str, run: int, by: str) -> list[Any]:
        """End an execution as cancelled; the tagged reply of cancel.lua."""
        reply: list[Any] = await self.wire.call_script(
            scripts.CANCEL, self.prefix(execution_id), raw(execution_id), run, raw(by), patience=self.patience
        )
        return reply

    async def retry(self, execution_id: str, run: int) -> list[Any]:
        """Let a failed execution go on as a new run; the tagged reply of retry.lua."""
        reply: list[Any] = await self.wire.call_script(
            scripts.RETRY, self.prefix(execution_id), raw(execution_id), run, patience=self.patience
        )
        return reply

    async def watch(self, execution_id: str, channel: str) -> Ended | None:
        """Register for the end of an execution (or find it finished); None when there is none."""
        reply = await self.wire.call_script(
            scripts.WATCH, self.prefix(execution_id), raw(execution_id), channel, patience=self.patience
        )
        if reply is None:
            return None
        status, output, error, by = (*reply, None, None, None)[:4]
        return Ended(text(status), output, error, text(by) or None)

    async def publish(
        self, topic: str, execution_id: str, retention_ms: int, event_type: str, data: bytes, once: str = ""
    ) -> bytes:
        """Add an event to a topic; returns its stream id. Once, also when its reply is lost and the call is
        repeated; under a name, however often this is called within the retention."""
        entry: bytes = await self.wire.call_script(
            scripts.PUBLISH,
            self.topic_prefix(topic),
            raw(topic),
            execution_id,
            retention_ms,
            raw(event_type),
            data,
            once or os.urandom(16).hex(),
            "" if once or self.patience is None else int(self.patience * 2000) + REPEATED_MS,
            patience=self.patience,
        )
        return entry

    # --- reading ------------------------------------------------------------------------

    async def read_execution(self, execution_id: str) -> dict[str, bytes]:
        """The execution's hash; empty when there is none."""
        key = self.prefix(execution_id) + keys.EXEC.encode() + raw(execution_id)
        flat = await self.wire.call("HGETALL", key, patience=self.patience)
        return {text(k): v for k, v in zip(flat[::2], flat[1::2], strict=True)}

    async def read_fields(self, execution_id: str, *fields: str) -> list[bytes | None]:
        """Some fields of the execution's hash."""
        key = self.prefix(execution_id) + keys.EXEC.encode() + raw(execution_id)
        found: list[bytes | None] = await self.wire.call("HMGET", key, *fields, patience=self.patience)
        return found

    async def read_journal(self, execution_id: str) -> dict[bytes, bytes]:
        """The execution's journal: step key -> record, and "" -> the count of changes."""
        key = self.prefix(execution_id) + keys.JOURNAL.encode() + raw(execution_id)
        flat = await self.wire.call("HGETALL", key, patience=self.patience)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def read_records(self, execution_id: str, names: Sequence[bytes]) -> list[bytes | None]:
        """Some records of the execution's journal."""
        key = self.prefix(execution_id) + keys.JOURNAL.encode() + raw(execution_id)
        found: list[bytes | None] = await self.wire.call("HMGET", key, *names, patience=self.patience)
        return found

    async def suspensions_below(self, root_id: str) -> list[tuple[str, str]]:
        """Suspensions (open or decided) of a root execution's descendants: execution id and step key."""
        key = self.prefix(root_id) + keys.BELOW.encode() + raw(root_id)
        members = await self.wire.call("SMEMBERS", key, patience=self.patience)
        found = []
        for member in members:
            execution_id, _, step_key = text(member).partition(" ")
            found.append((execution_id, step_key))
        return found

    async def open_suspensions_below(self, root_id: str) -> list[tuple[str, str]]:
        """Open suspensions of a root execution's descendants: execution id and step key."""
        names = await self.suspensions_below(root_id)
        if not names:
            return []
        members = [raw(f"{execution_id} {step_key}") for execution_id, step_key in names]
        key = self.prefix(root_id) + keys.SUSPENSIONS.encode()
        scores = await self.wire.call("ZMSCORE", key, *members, patience=self.patience)
        return [name for name, score in zip(names, scores, strict=True) if score is not None]

    async def list_executions(
        self, statuses: Sequence[str], workflow: str, before: str, limit: int
    ) -> list[list[Any]]:
        """Executions, newest first: [id, workflow, status, created us, started ms, finished ms]."""
        found: list[list[Any]] = []
        for prefix in self.prefixes:
            found += await self.wire.call_script(
                scripts.LIST, prefix, before, limit, raw(workflow), *statuses, patience=self.patience
            )
        found.sort(key=lambda row: -int(row[3]))
        return found[:limit]

    async def list_suspensions(self, after: str, limit: int) -> list[list[Any]]:
        """Open suspensions, oldest first: [execution id, step key, workflow, opened us, record]."""
        found: list[list[Any]] = []
        for prefix in self.prefixes:
            found += await self.wire.call_script(scripts.INBOX, prefix, after, limit, patience=self.patience)
        found.sort(key=lambda row: int(row[3]))
        return found[:limit]

    async def served(self) -> set[str]:
        """The workflow ids that workers with a lease announce."""
        ids: set[str] = set()
        for prefix in self.prefixes:
            for packed in await self.wire.call(
                "HVALS", prefix + keys.SERVES.encode(), patience=self.patience
            ):
                ids.update(msgpack.unpackb(packed)["workflows"])
        return ids
