"""The scripts driven at random, by clients and workers in every kind of trouble, against a small model.

Replies get lost, calls come twice or late, leases lapse while their workers go on, and the whole store goes
back to what it was. After every step the state is the model's and the invariants hold.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from polos_redis import keys
from polos_redis.embedded import EmbeddedServer
from tests.desk import FAR, RETENTION, Desk, Snapshot, step
from tests.model import Activation, Execution

DEEP = os.environ.get("POLOS_TEST_DEEP") == "1"
CONSUMERS = ("w1", "w2", "w3")
STEPS, WAITS, RETRIES = ("a", "b"), ("ask", "ask too"), ("call",)
MOST = 3  # losses in a row that fail an execution
MANY = 4  # executions at a time

places = st.integers(0, 99)
consumers = st.sampled_from(CONSUMERS)
Call = tuple[str, tuple[Any, ...]]


class Machine(RuleBasedStateMachine):
    """`desk` is set by the test."""

    desk: Desk
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        Machine.runs += 1
        self.desk.restore({})
        self.executions: dict[str, Execution] = {}
        self.made = 0
        self.activations: list[Activation] = []
        self.pending: dict[bytes, str] = {}  # entry -> consumer
        self.stored: dict[str, dict[bytes, bytes]] = {}  # the journals after the latest step
        self.called: list[Call] = []  # what has been executed, and may come again
        self.saved: tuple[Snapshot, Any] | None = None

    # --- calling ------------------------------------------------------------------------

    def call(self, script: str, *args: Any) -> Any:
        """Call a script; whatever is called may come a second time."""
        reply = self.desk.run(script, *args)
        self.called.append((script, args))
        return reply

    def pick(self, place: int, finished: bool | None = False) -> Execution | None:
        found = [one for one in self.executions.values() if finished is None or one.finished is finished]
        return found[place % len(found)] if found else None

    def writer(self, place: int) -> Activation | None:
        """An activation that would write now: one that is sure of what it knows."""
        found = [one for one in self.activations if one.sure]
        return found[place % len(found)] if found else None

    def believed_waits(self, place: int) -> list[bytes]:
        """The waits that an activation believes to be open."""
        by = self.writer(place)
        return (
            [key for key, packed in by.told.items() if _status(packed) in ("open", "backoff")] if by else []
        )

    def undelivered(self) -> list[bytes]:
        entries = [one.entry for one in self.executions.values() if one.entry]
        return [entry for entry in entries if entry not in self.pending]

    def due(self) -> bool:
        return any(
            one.open or one.backing_off or (one.status == "queued" and one.entry is None)
            for one in self.executions.values()
        )

    def write(self, by: Activation, lost: bool, script: str, *args: Any) -> Any:
        """A fenced write; None when it was refused (which ends the activation) or its reply was lost."""
        one = self.executions.get(by.id)
        refused = one.fence(by) if one is not None else -1
        if refused:
            with self.desk.unchanged():
                assert self.desk.run(script, *by.fence, *args) == refused
            if lost:
                by.sure = False
            else:
                self.activations.remove(by)  # its entry is still pending: handed back by a rule below
            return None
        assert one is not None
        reply = self.call(script, *by.fence, *args)
        assert not isinstance(reply, int) or reply >= 0, reply
        one.owner = by.owner
        return reply

    def learn(self, by: Activation, lost: bool) -> None:
        """The reply reaches the activation, or does not: then it looks before it goes on."""
        one = self.executions[by.id]
        if lost:
            by.sure = False
        else:
            by.known = one.count
            by.told = self.desk.state.journals.get(by.id.encode(), {})

    @initialize()
    def begin(self) -> None:
        for consumer in CONSUMERS:
            self.invoke()
            self.deliver(consumer, False)

    # --- clients ------------------------------------------------------------------------

    @rule()
    def invoke(self) -> None:
        if len([one for one in self.executions.values() if not one.finished]) >= MANY:
            return
        self.made += 1
        name = f"{self.made:032x}"
        assert self.call("invoke", name, "wf", "default", b"in", RETENTION, 4096) == 1
        self.executions[name] = Execution(name, self.live(name))

    def live(self, name: str) -> bytes:
        return self.desk.execution(name)["entry"]

    @precondition(lambda self: self.executions)
    @rule(place=places, key=st.sampled_from(WAITS), answer=st.sampled_from("yn"), early=st.booleans())
    def answer(self, place: int, key: str, answer: str, early: bool) -> None:
        one = self.pick(place, finished=None)
        if one is None:
            return
        status = one.journal.get(key)
        args = (one.id, key, answer.encode(), answer, "", "client", int(early))
        if status == "open":
            assert self.call("answer", *args)[0] == b"accepted"
            one.decide(key, "answered")
        elif status is None and early and not one.finished and key not in one.early:
            assert self.call("answer", *args)[0] == b"kept"
            one.early.add(key)
        else:
            with self.desk.unchanged():
                tag = self.call("answer", *args)[0]
            expected: dict[str | None, tuple[bytes, ...]] = {
                "answered": (b"same", b"other"),
                "expired": (b"expired",),
                "closed": (b"closed",),
            }
            assert tag in expected.get(status, (b"unknown", b"kept", b"other", b"closed")), (status, tag)

    @precondition(lambda self: self.pick(0))
    @rule(place=places)
    def cancel(self, place: int) -> None:
        one = self.pick(place)
        if one is not None and place % 3 == 0:
            assert self.call("cancel", one.id, 1, "") == [b"cancelled"]
            one.end("cancelled")

    @precondition(lambda self: self.executions)
    @rule(place=places)
    def watch(self, place: int) -> None:
        one = self.pick(place, finished=None)
        if one is not None:
            assert self.desk.run("watch", one.id, "me")[0].decode() == one.status

    # --- workers ------------------------------------------------------------------------

    @precondition(lambda self: self.undelivered())
    @rule(consumer=consumers, lost=st.sampled_from((False, False, False, True)))
    def deliver(self, consumer: str, lost: bool) -> None:
        rows = self.desk.read_entries(consumer)
        waiting = self.undelivered()
        assert bool(rows) == bool(waiting)
        for entry, flat in rows:
            assert entry in waiting
            self.pending[entry] = consumer
            if not lost:
                owner = f"{consumer}:{len(self.activations)}-{self.made}-{len(self.called)}"
                fresh = b"input" in flat  # nothing is journaled yet, or it comes along: no look is needed
                activation = Activation(flat[1].decode(), entry, owner, consumer, fresh)
                if b"journal" in flat:
                    records = msgpack.unpackb(flat[flat.index(b"journal") + 1], raw=True)
                    activation.told = dict(zip(records[::2], records[1::2], strict=True))
                    activation.known = int(activation.told[b""])
                self.activations.append(activation)

    @precondition(lambda self: any(not by.sure for by in self.activations))
    @rule(place=places, lost=st.booleans())
    def look(self, place: int, lost: bool) -> None:
        """An activation loads the journal, and is over if that is not what it has been told."""
        found = [one for one in self.activations if not one.sure]
        if not found:
            return
        by = found[place % len(found)]
        one = self.executions.get(by.id)
        if one is None or one.fence(by) == -1:
            with self.desk.unchanged():
                assert self.desk.run("load", by.id, by.entry, by.owner) is None
            self.activations.remove(by)
            return
        flat = self.call("load", by.id, by.entry, by.owner)[3]
        one.owner = by.owner
        if lost:
            return
        journal = dict(zip(flat[::2], flat[1::2], strict=True))
        if one.count < by.known or any(
            _differs(told, journal.get(key)) for key, told in by.told.items() if key
        ):
            self.activations.remove(by)
            return
        by.sure, by.known, by.told = True, one.count, journal

    @precondition(lambda self: self.writer(0))
    @rule(place=places, key=st.sampled_from(STEPS + RETRIES), value=st.binary(max_size=3), lost=st.booleans())
    def journal(self, place: int, key: str, value: bytes, lost: bool) -> None:
        by = self.writer(place)
        if by is None or _status(by.told.get(key.encode())) in ("ok", "failed", "backoff"):
            return
        attempt = _attempt(by.told.get(key.encode())) + 1
        status = "ok" if key in STEPS or attempt > 2 else "retry"
        reply = self.write(by, lost, "write", key, step(value, status, attempt), "step_finish", b"\x80")
        if reply is not None:
            one = self.executions[by.id]
            assert _status(self.stored.get(by.id, {}).get(key.encode())) not in ("ok", "failed")
            one.put(key, status)
            assert reply == one.count
            self.learn(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(place=places, lost=st.booleans())
    def back_off(self, place: int, lost: bool) -> None:
        by = self.writer(place)
        if by is None or _status(by.told.get(b"call")) in ("ok", "failed", "backoff"):
            return
        record = step(b"", "backoff", _attempt(by.told.get(b"call")) + 1)
        if self.write(by, lost, "backoff", "call", record, FAR, "step_finish", b"\x80") is not None:
            self.executions[by.id].put("call", "backoff")
            self.learn(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(place=places, key=st.sampled_from(WAITS), timeout=st.sampled_from((0, FAR)), lost=st.booleans())
    def suspend(self, place: int, key: str, timeout: int, lost: bool) -> None:
        by = self.writer(place)
        if by is None:
            return
        events = len(self.desk.events(f"{key}/{by.id}"))
        reply = self.write(by, lost, "suspend", key, timeout, b"\x80")
        if reply is None:
            return
        one = self.executions[by.id]
        if key in one.journal:
            assert reply[1] == self.stored[by.id][key.encode()]
            assert len(self.desk.events(f"{key}/{by.id}")) == events
        else:
            one.put(key, "open")
            if key in one.early:
                one.early.remove(key)
                one.decide(key, "answered")
        self.learn(by, lost)

    @precondition(lambda self: self.believed_waits(0))
    @rule(place=places, lost=st.booleans())
    def park(self, place: int, lost: bool) -> None:
        """At the waits that this activation believes to be open."""
        by = self.writer(place)
        waits = (
            [key for key, packed in by.told.items() if _status(packed) in ("open", "backoff")] if by else []
        )
        if by is None or not waits:
            return
        one = self.executions.get(by.id)
        decided = [key for key in waits if one and one.journal.get(key.decode()) not in ("open", "backoff")]
        reply = self.write(by, lost, "park", *waits)
        if reply is None:
            return
        assert one is not None
        if decided:
            assert reply[0] == one.count and reply[1::2] == decided
            self.learn(by, lost)
        else:
            assert reply == 0
            self.pending.pop(by.entry)
            one.status, one.entry, one.owner, one.losses = "waiting", None, None, 0
            if lost:
                by.sure = False
            else:
                self.activations.remove(by)

    @precondition(lambda self: self.writer(0))
    @rule(place=places, status=st.sampled_from(("completed", "failed")), lost=st.booleans())
    def finish(self, place: int, status: str, lost: bool) -> None:
        by = self.writer(place)
        if by is None or place % 2:
            return
        if self.write(by, lost, "finish", status, b"out", b"\x80", "") is not None:
            self.executions[by.id].end(status)
            if lost:
                by.sure = False
            else:
                self.activations.remove(by)

    # --- trouble ------------------------------------------------------------------------

    @precondition(lambda self: self.writer(0))
    @rule(place=places)
    def reconnect(self, place: int) -> None:
        """A connection breaks: an activation that lives looks again before it writes."""
        if self.activations:
            self.activations[place % len(self.activations)].sure = False

    @precondition(lambda self: self.pending)
    @rule(consumer=consumers, heir=consumers, lost=st.booleans())
    def requeue(self, consumer: str, heir: str, lost: bool) -> None:
        """A worker's lease has lapsed (it may go on all the same), or it hands back what it does not run."""
        self.give_back(consumer, lost)
        self.the_state_is_the_models()
        if lost and self.undelivered():
            self.deliver(heir, False)

    def give_back(self, consumer: str, lost: bool) -> None:
        running = {by.entry for by in self.activations if by.consumer == consumer}
        entries = [entry for entry, holder in self.pending.items() if holder == consumer]
        if not lost:
            entries = [entry for entry in entries if entry not in running]
        held = [one for one in self.executions.values() if one.entry in entries]
        reply = self.call("requeue", "default", consumer, "lost" if lost else "back", MOST, *entries)
        failed = 0
        for one in held:
            if lost:
                one.losses = one.losses + 1 if one.losses and one.progress >= one.count else 1
                one.progress = one.count
            if lost and one.losses >= MOST:
                one.end("failed")
                failed += 1
            else:
                one.owner, one.entry = None, b""
        assert reply == [len(held) - failed, failed, len(entries) - len(held)]
        for entry in entries:
            del self.pending[entry]

    @precondition(lambda self: bool(set(self.pending) - {by.entry for by in self.activations}))
    @rule(place=places)
    def put_back(self, place: int) -> None:
        """An entry whose workflow its worker does not know; nobody ran it."""
        running = {by.entry for by in self.activations}
        found = [entry for entry in self.pending if entry not in running]
        one = next(
            (one for one in self.executions.values() if found and one.entry == found[place % len(found)]),
            None,
        )
        if one is not None and one.entry:
            assert self.call("putback", "default", one.id, one.entry, FAR) == 1
            del self.pending[one.entry]
            one.entry, one.owner = None, None

    @precondition(lambda self: self.due())
    @rule(place=places)
    def time_passes(self, place: int) -> None:
        """One timer is due, whichever: the execution's deadline itself is not changed."""
        timers = sorted(self.desk.state.timers)
        if not timers:
            return
        member = timers[place % len(timers)]
        self.desk.make_due(member)
        fired, _, _ = self.desk.fire()
        assert fired == 1
        name, _, key = member[1:].decode().partition(" ")
        one = self.executions[name]
        if member[:1] == b"p":
            one.entry = b""
        elif member[:1] == b"s":
            assert key in one.open
            one.decide(key, "expired")
        else:
            assert key in one.backing_off
            one.decide(key, "retry")

    @precondition(lambda self: self.pick(0, finished=True))
    @rule(place=places)
    def forget(self, place: int) -> None:
        """A finished execution's retention is over."""
        one = self.pick(place, finished=True)
        if one is not None:
            self.desk.do("ZADD", keys.EXPIRY, 1, one.id)
            assert self.desk.fire()[1] == 1
            del self.executions[one.id]
            self.called = [(script, args) for script, args in self.called if one.id not in args]

    @precondition(lambda self: self.called)
    @rule(place=places)
    def duplicate(self, place: int) -> None:
        """A call that was made before comes once more, late: it changes nothing."""
        script, args = self.called[-1 - place % min(len(self.called), 20)]
        with self.desk.unchanged():
            self.desk.run(script, *args)

    @rule()
    def save(self) -> None:
        mine = (self.executions, self.made, self.pending, self.stored, self.called)
        self.saved = (self.desk.snapshot(), copy.deepcopy(mine))

    @precondition(lambda self: self.undelivered())
    @rule(first=consumers, second=consumers, lost=st.booleans())
    def deliver_twice(self, first: str, second: str, lost: bool) -> None:
        """The store forgets that an entry was delivered, and delivers it again."""
        self.save()
        self.deliver(first, False)
        self.journal(len(self.activations) - 1, "a", b"", lost)
        self.go_back(0)
        self.deliver(second, False)

    @precondition(lambda self: self.undelivered())
    @rule(consumer=consumers, place=places)
    def deliver_unknown(self, consumer: str, place: int) -> None:
        """A worker that does not know the workflow puts it back."""
        self.deliver(consumer, True)
        self.put_back(place)

    @precondition(lambda self: self.saved)
    @rule(in_flight=places)
    def go_back(self, in_flight: int) -> None:
        """The store is what it was; whoever lives has lost the connection, and looks again.

        A write that was on its way may still arrive.
        """
        assert self.saved is not None
        self.desk.restore(self.saved[0])
        made = self.made
        mine = copy.deepcopy(self.saved[1])
        self.executions, _, self.pending, self.stored, self.called = mine
        self.made = made
        if in_flight % 2:
            self.journal(in_flight, "b", b"", True)
        for by in self.activations:
            by.sure = False

    # --- what holds after every step ----------------------------------------------------

    @invariant()
    def the_state_is_the_models(self) -> None:
        state = self.desk.state
        assert set(state.executions) == {name.encode() for name in self.executions}
        for name, one in self.executions.items():
            fields = self.desk_fields(state.executions[name.encode()])
            assert fields["status"] == one.status.encode(), name
            entry = fields.get("entry")
            assert (entry is None) == (one.entry is None), name
            assert one.entry in (entry, b""), name
            one.entry = entry
            assert fields.get("owner", b"").decode() == (one.owner or ""), name
            journal = state.journals.get(name.encode(), {})
            found = {key.decode(): _status(packed) for key, packed in journal.items() if key}
            assert found == one.journal, name
            assert int(journal.get(b"", b"0")) == one.count, name
            self.keeps(name, journal)
            assert {key.decode() for key in state.early.get(name.encode(), {})} == one.early
        self.pending = {
            entry: consumer
            for entry, consumer in self.pending.items()
            if entry in {one.entry for one in self.executions.values()}
        }
        queue = state.queues.get(b"default")
        if queue is not None:
            assert {entry: holder.decode() for entry, holder in queue.pending.items()} == self.pending

    @staticmethod
    def desk_fields(fields: dict[bytes, bytes]) -> dict[str, bytes]:
        return {key.decode(): value for key, value in fields.items()}

    def keeps(self, name: str, journal: dict[bytes, bytes]) -> None:
        """What has been decided once is never another value later."""
        for key, before in self.stored.get(name, {}).items():
            if key and _status(before) in ("ok", "failed", "answered", "expired", "closed"):
                assert journal.get(key) == before, f"{key!r} of {name} was overwritten"
        self.stored[name] = journal

    @invariant()
    def the_invariants_hold(self) -> None:
        self.desk.check()


def _status(packed: bytes | None) -> str:
    return "" if packed is None or packed.isdigit() else msgpack.unpackb(packed, raw=True)[2].decode()


def _attempt(packed: bytes | None) -> int:
    return 0 if packed is None else int(msgpack.unpackb(packed, raw=True)[3])


def _differs(told: bytes, now: bytes | None) -> bool:
    """Whether an activation was told something that is not so, nor could have come of it."""
    may_become: dict[str, tuple[str, ...]] = {"open": ("answered", "expired"), "backoff": ("retry",)}
    return now != told and _status(now) not in may_become.get(_status(told), ())


def _settings() -> settings:
    many, long = (2000, 80) if DEEP else (150, 50)
    return settings(
        max_examples=many,
        stateful_step_count=long,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(7200 if DEEP else 120)
@pytest.mark.failure(3, 5, 16, 23, 34, 35, 36, 37, 39)
def test_no_sequence_of_calls_and_trouble_breaks_the_state(server: EmbeddedServer, namespace: str) -> None:
    with Desk(server.url, namespace) as desk:
        Machine.desk = desk
        run_state_machine_as_test(Machine, settings=_settings())
