"""A Hypothesis state machine: clients and workers call the scripts through every kind of trouble.

Replies get lost, calls come twice or late, leases expire while their workers carry on, and the whole store
goes back in time. After every step the state equals the model's and the invariants hold.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from typing import Any

import msgpack
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

from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.state import journal, keys
from polos_redis.state.journal import SuspensionRecord, is_result
from polos_redis.state.stuck import StuckReason
from polos_redis.state.timers import NEVER_MS
from tests.harness.desk import (
    AUDIT_MS,
    FAR,
    PAUSED,
    REASON,
    RETENTION,
    SHOWN_DIGEST,
    Desk,
    Snapshot,
    packed,
    step,
)
from tests.invariants.model import REQUIRED, Activation, Execution, Model, Place, branch_of, race_of
from tests.invariants.relation_invariants import RelationInvariants
from tests.invariants.state import Namespace, Partition, is_open, order, record_of, records
from tests.invariants.state_invariants import PartitionInvariants

DEEP = os.environ.get("POLOS_TEST_DEEP") == "1"
CONSUMERS = ("w1", "w2", "w3")
STEPS, WAITS, RETRIES = ("a", "b"), ("ask", "ask too", "ask both"), ("call",)
DEFAULTS = ("ask too",)  # with a timeout, these have a default answer
TERMS = {"ask both": AnswerPolicy(required=REQUIRED).pack()}
PEOPLE = ("ann", "bob")
ERROR = msgpack.packb([1, "Error", "it failed", ""])  # serves as a result as well
MOST = 3  # consecutive losses that fail an execution

indices = st.integers(0, 99)
consumers = st.sampled_from(CONSUMERS)
versions = st.sampled_from(("", "", "3"))  # of the code that an activation runs
rarely = st.sampled_from((False, False, False, True))
Call = tuple[str, tuple[Any, ...]]


# Fields of an execution that mean something only until it ends.
OF_THE_LIVE = (b"entry", b"owner", b"answers", b"stuck", b"heartbeats", b"running")
# Events that a follower may get once or twice, or, if nobody followed then, not at all.
UNCOUNTED = ("workflow_start", "step_start", "step_progress")


class Machine(RuleBasedStateMachine):
    """Subclasses add rules; the test sets `desk`."""

    desk: Desk
    many = 4  # executions at a time

    def __init__(self) -> None:
        super().__init__()
        self.desk.restore({})
        self.model = Model()
        self.made = 0
        self.activations: list[Activation] = []
        self.pending: dict[Place, str] = {}  # -> consumer
        self.stored: dict[str, dict[bytes, bytes]] = {}  # the journals after the latest step
        self.timers: list[bytes] = []  # the timers after the latest step
        self.called: list[Call] = []  # calls made so far, which may come again
        self.saved: tuple[Snapshot, Any] | None = None

    # --- calling ------------------------------------------------------------------------

    def call(self, script: str, *args: Any) -> Any:
        """Call a script and record the call, so that it may come a second time."""
        reply = self.desk.run(script, *args)
        self.called.append((script, args))
        return reply

    def pick(self, index: int, finished: bool | None = False) -> Execution | None:
        found = [
            one for one in self.model.executions.values() if finished is None or one.finished is finished
        ]
        return found[index % len(found)] if found else None

    def writer(self, index: int) -> Activation | None:
        """An activation that may write now: one that is sure of its state."""
        found = [one for one in self.activations if one.sure]
        return found[index % len(found)] if found else None

    def index_of(self, by: Activation) -> int:
        """The index at which `writer` finds an activation."""
        return [one for one in self.activations if one.sure].index(by)

    def undelivered(self) -> list[Place]:
        places = [one.place for one in self.model.executions.values() if one.entry]
        return [place for place in places if place not in self.pending]

    def write(self, by: Activation, lost: bool, script: str, *args: Any) -> Any:
        """A fenced write; None if it was refused (which ends the activation) or its reply was lost."""
        one = self.model.executions.get(by.id)
        refused = one.fence(by) if one is not None else -1
        if refused:
            with self.desk.unchanged():
                assert self.desk.run(script, *by.fence, *args) == refused
            if lost:
                by.sure = False
            else:
                self.activations.remove(by)  # its entry is still pending: a rule below hands it back
            return None
        assert one is not None
        reply = self.call(script, *by.fence, *args)
        assert not isinstance(reply, int) or reply >= 0, reply
        one.owner, one.started = by.owner, True
        return reply

    def event(self, by: Activation, kind: str) -> tuple[str, bytes]:
        """An event that an activation emits: its type on the stream of the root, and its data."""
        return kind + (f"\0{by.id}" if "." in by.id else ""), b"\x80"

    def attempts_at(self, by: Activation, found: set[str]) -> dict[str, int]:
        """Those of these steps that an activation may run, and the attempt that it makes."""
        records = {key: by.known_records.get(key.encode()) for key in found}
        may_run = {key: record for key, record in records.items() if _status(record) in ("", "retry")}
        return {key: _attempt(record) + 1 for key, record in sorted(may_run.items())}

    def next_millisecond(self) -> None:
        """Wait for the next millisecond of the server's clock."""
        now = self.desk.now()
        while self.desk.now() == now:
            pass

    def learn_changes(self, by: Activation, lost: bool) -> None:
        """Deliver a write's reply to the activation; if it is lost, the activation has to look before it
        continues."""
        if lost:
            by.sure = False
        else:
            flat = self.desk.do("HGETALL", keys.JOURNAL + by.id)
            by.known = self.model.executions[by.id].count
            by.answers = self.model.executions[by.id].answers
            by.known_records = dict(zip(flat[::2], flat[1::2], strict=True))

    def over(self, by: Activation, lost: bool) -> None:
        """End an activation whose last write passed; if the reply was lost, it has to look."""
        if lost:
            by.sure = False
        else:
            self.activations.remove(by)

    @initialize()
    def start(self) -> None:
        for consumer in CONSUMERS:
            self.invoke()
            self.the_state_equals_the_models()
            self.deliver(consumer, False)

    # --- clients ------------------------------------------------------------------------

    @rule()
    def invoke(self) -> None:
        self.create()

    def create(self, later: bool = False, semaphore: str = "", options: dict[str, Any] | None = None) -> None:
        if len(self.model.unfinished()) >= self.many:
            return
        self.made += 1
        name = f"{self.made:032x}"
        packed = (msgpack.packb(options, use_bin_type=False),) if options else ()
        script = "invoke_with_options" if options else "invoke"
        assert self.call(script, name, "wf", b"in", RETENTION, *packed) == 1
        self.model.create(Execution(name, later=later, semaphore=semaphore))

    @precondition(lambda self: self.model.executions)
    @rule(
        index=indices,
        key=st.sampled_from(WAITS),
        answer=st.sampled_from("yyn"),
        early=st.booleans(),
        who=st.sampled_from(PEOPLE),
    )
    def answer(self, index: int, key: str, answer: str, early: bool, who: str) -> None:
        """A person answers, usually an open suspension."""
        one = self.pick(index, finished=None)
        asked = [(one, key) for one in self.model.unfinished() for key in one.open if "ask" in key]
        if asked and index % 4 != 1:
            one, key = asked[index % len(asked)]
        if one is not None:
            self.answer_as(one, key, answer, early, who)

    def answer_as(self, one: Execution, key: str, answer: str, early: bool, who: str) -> None:
        status = one.journal.get(key)
        who = who if key in TERMS else ""
        seen = self.seen(one, key) if key in TERMS else ""
        approves = int(answer == "y")
        args = (one.id, key, answer.encode(), answer, who, "client", int(early), seen, approves, "")
        if status == "open":
            outcome = one.decides(key, who, answer) if key in TERMS else "accepted"
            if outcome in ("repeated", "other"):
                with self.desk.unchanged():
                    tag = self.desk.run("answer", *args)[0]
                assert tag == {"repeated": b"recorded", "other": b"other"}[outcome]
                return
            assert self.call("answer", *args)[0] == outcome.encode()
            if outcome == "accepted":
                self.model.decide(one, key, "answered")
        elif status is None and early and not one.finished and key not in one.early:
            assert self.call("answer", *args)[0] == b"kept"
            one.early[key] = who, answer
        else:
            with self.desk.unchanged():
                tag = self.desk.run("answer", *args)[0]
            expected: dict[str | None, tuple[bytes, ...]] = {
                "answered": (b"same", b"other"),
                "expired": (b"expired", b"other"),
                "closed": (b"closed", b"other"),
            }
            assert tag in expected.get(status, (b"unknown", b"kept", b"other", b"closed")), (status, tag)

    @precondition(lambda self: self.writer(0))
    @rule(
        index=indices,
        answers=st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from("yyn")), min_size=1, max_size=4),
        early=rarely,
    )
    def decide_in_turn(self, index: int, answers: list[tuple[str, str]], early: bool) -> None:
        """People answer a suspension that needs several decisions, one after the other; one of them early."""
        by = self.writer(index)
        one = self.model.executions.get(by.id) if by is not None else None
        if one is None:
            return
        for number, (who, answer) in enumerate(answers):
            if number == early:
                self.suspend(index, "ask both", FAR, False)
                self.the_state_equals_the_models()
            self.answer_as(one, "ask both", answer, True, who)
            self.the_state_equals_the_models()

    def seen(self, one: Execution, key: str) -> str:
        """The suspension as it stands, which an answer is checked against."""
        packed = self.desk.do("HGET", keys.JOURNAL + one.id, key)
        record = journal.parse(packed) if packed else None
        return record.opening if isinstance(record, SuspensionRecord) else "?"

    def unchecked(self) -> list[str]:
        """The errands that check an early answer."""
        errands = self.desk.do("ZRANGE", keys.ERRANDS, 0, -1)
        return [name.decode() for name in errands if name[:1] == b"y"]

    @precondition(lambda self: any(one.early.keys() & TERMS.keys() for one in self.model.unfinished()))
    @rule(index=indices, twice=rarely)
    def take_early(self, index: int, twice: bool) -> None:
        """A worker delivers an answer that came before its suspension, if that is now open."""
        errands = self.unchecked()
        if not errands:
            return
        errand = errands[index % len(errands)]
        name, _, key = errand[1:].partition(" ")
        one = self.model.executions.get(name)
        if one is not None and key in one.early and key in one.journal:
            who, answer = one.early[key]
            self.answer_as(one, key, answer, False, who)
            if twice:  # the worker dies before recording it
                return
            del one.early[key]
            assert self.desk.do("HDEL", keys.EARLY + name, key) == 1
        self.desk.run("finish_errand", errand, "", "", "")

    @precondition(lambda self: self.pick(0))
    @rule(index=indices)
    def cancel(self, index: int) -> None:
        one = self.pick(index)
        if one is not None and index % 3 == 1:
            self.cancel_one(one)

    def cancel_one(self, one: Execution) -> None:
        cascades = self.cascades() | {one.id}
        assert self.call("cancel", one.id, one.run, "") == [b"cancelled"]
        self.model.terminate(one, "cancelled")
        self.follow(cascades)

    def cascades(self) -> set[str]:
        """Executions whose descendants timers have yet to cancel."""
        timers = self.desk.do("ZRANGE", keys.TIMERS, 0, -1)
        return {member[1:].decode() for member in timers if member[:1] == b"c"}

    def follow(self, cascades: set[str]) -> None:
        """Cancel in the model those descendants that the store has cancelled."""
        for one in self.model.unfinished():
            if self.desk.do("HGET", keys.EXEC + one.id, "status") == b"cancelled":
                above = self.model.ancestors(one)
                assert self.model.doomed(one) or any(a.id in cascades for a in above), one.id
                self.model.terminate(one, "cancelled")

    @precondition(lambda self: self.model.executions)
    @rule(index=indices)
    def watch(self, index: int) -> None:
        one = self.pick(index, finished=None)
        if one is not None:
            assert self.desk.run("watch_execution", one.id, "me")[0].decode() == one.status

    # --- workers ------------------------------------------------------------------------

    @precondition(lambda self: self.undelivered())
    @rule(consumer=consumers, lost=rarely, version=versions)
    def deliver(self, consumer: str, lost: bool, version: str = "") -> None:
        """A worker reads an entry; code that has a version is loaded at once."""
        self.read_entry(consumer, lost)
        if version and not lost:
            self.activations[-1].sure = False
            self.look(len([one for one in self.activations if not one.sure]) - 1, False, version)

    def read_entry(self, consumer: str, lost: bool) -> Place | None:
        """A worker reads an entry from the queue with the oldest one: from a reserved stream, as a reader."""
        waiting = self.undelivered()
        queue = min(waiting, key=lambda place: order(place[1]), default=(keys.DEFAULT_QUEUE, b""))[0]
        if queue != keys.DEFAULT_QUEUE and consumer not in self.model.readers.get(queue, ()):
            self.serve_stream(queue, consumer, 100)
        rows = self.desk.read_entries(consumer, queue)
        assert bool(rows) == bool(waiting)
        for entry, flat in rows:
            place = queue, entry
            assert place in waiting
            self.pending[place] = consumer
            if not lost:
                owner = f"{consumer}:{len(self.activations)}-{self.made}-{len(self.called)}"
                fresh = b"input" in flat  # no journal, or it comes along: no look is needed
                activation = Activation(flat[1].decode(), place, owner, consumer, fresh)
                if b"journal" in flat:
                    pairs = msgpack.unpackb(flat[flat.index(b"journal") + 1], raw=True)
                    activation.known_records = dict(zip(pairs[::2], pairs[1::2], strict=True))
                    activation.known = int(activation.known_records[b""])
                self.activations.append(activation)
            return place
        return None

    def serve_stream(self, stream: str, consumer: str, limit: int) -> None:
        assert self.desk.run("serve", stream, consumer, limit) == self.model.serve(stream, consumer, limit)

    @precondition(lambda self: any(not by.sure for by in self.activations))
    @rule(index=indices, lost=st.booleans(), version=versions)
    def look(self, index: int, lost: bool, version: str = "") -> None:
        """An activation loads the journal, and ends if it contradicts what the activation knows."""
        found = [one for one in self.activations if not one.sure]
        if not found:
            return
        by = found[index % len(found)]
        one = self.model.executions.get(by.id)
        args: tuple[Any, ...] = (by.id, by.entry, by.owner, *([version] if version else []))
        if one is None or one.fence(by) == -1:
            with self.desk.unchanged():
                assert self.desk.run("load", *args) is None
            self.activations.remove(by)
            return
        flat, answers, heartbeats = self.call("load", *args)[4:]
        if version and (one.forked or not one.started):
            one.version, one.forked = one.version or version, False
        assert int(answers or 0) == one.answers
        assert _heartbeats(heartbeats) == one.heartbeats
        one.owner = by.owner
        if lost:
            return
        journal = dict(zip(flat[::2], flat[1::2], strict=True))
        if one.count < by.known or any(
            _differs(known, journal.get(key)) for key, known in by.known_records.items() if key
        ):
            self.activations.remove(by)
            return
        by.sure, by.known, by.known_records, by.answers = True, one.count, journal, one.answers

    @precondition(lambda self: self.writer(0))
    @rule(
        index=indices, key=st.sampled_from(STEPS + RETRIES), value=st.binary(max_size=3), lost=st.booleans()
    )
    def journal(self, index: int, key: str, value: bytes, lost: bool) -> None:
        by = self.writer(index)
        if by is None or _status(by.known_records.get(key.encode())) not in ("", "retry"):
            return
        attempt = _attempt(by.known_records.get(key.encode())) + 1
        status = "ok" if key in STEPS else "retry" if attempt < 3 else "failed"
        events: tuple[Any, ...] = () if status == "ok" else self.event(by, "step_finish")
        starts = "s" if status == "ok" else ""
        reply = self.write(by, lost, "write_step", key, step(value, status, attempt), starts, *events)
        if reply is not None:
            one = self.model.executions[by.id]
            assert one.journal.get(key) not in ("ok", "failed")
            one.put(key, status)
            one.told["step_finish"] += 1
            assert reply == one.count
            self.learn_changes(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(
        index=indices,
        found=st.sets(st.sampled_from(STEPS + RETRIES), min_size=1),
        value=st.integers(0, 9),
        lost=rarely,
    )
    def report(self, index: int, found: set[str], value: int, lost: bool) -> None:
        """Steps that run report their progress."""
        by = self.writer(index)
        if by is None:
            return
        reports = {
            key: (attempt, msgpack.packb(value)) for key, attempt in self.attempts_at(by, found).items()
        }
        if not reports:
            return
        reply = self.write(by, lost, "note_progress", packed([(key, *one) for key, one in reports.items()]))
        if reply is not None:
            self.called.pop()  # it may come again, and stores a later time then
            one = self.model.executions[by.id]
            may_run = {
                key: report
                for key, report in one.heartbeats.items()
                if one.journal.get(key, "retry") in ("retry", "backoff")
            }
            one.heartbeats = may_run | reports
            assert reply == one.count
            self.learn_changes(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, key=st.sampled_from(RETRIES), lost=st.booleans())
    def back_off(self, index: int, key: str, lost: bool) -> None:
        by = self.writer(index)
        if by is None or _status(by.known_records.get(key.encode())) not in ("", "retry"):
            return
        record = step(b"", "backoff", _attempt(by.known_records.get(key.encode())) + 1)
        event = self.event(by, "step_finish")
        reply = self.write(by, lost, "back_off", key, record, FAR, race_membership(key)[1], *event)
        if reply is not None:
            self.next_millisecond()  # a later record gets a later time, which a new run goes by
            one = self.model.executions[by.id]
            one.put(key, "backoff")
            one.told["step_finish"] += 1
            if not one.join(key):
                one.give_up(key)
            assert reply == one.count
            self.learn_changes(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, key=st.sampled_from(WAITS), timeout=st.sampled_from((0, FAR)), lost=st.booleans())
    def suspend(self, index: int, key: str, timeout: int, lost: bool) -> None:
        by = self.writer(index)
        if by is None:
            return
        events = len(self.desk.events(f"{key}/{by.id}"))
        default = b"none" if timeout and key in DEFAULTS else b""
        more = {"policy": TERMS.get(key, b""), "default": default}
        asked = (key, timeout, b"\x80", *race_membership(key), SHOWN_DIGEST, AUDIT_MS, packed(more))
        reply = self.write(by, lost, "suspend", *asked)
        if reply is None:
            return
        one = self.model.executions[by.id]
        if key in one.journal:
            assert reply[1] == self.stored[by.id][key.encode()]
            assert len(self.desk.events(f"{key}/{by.id}")) == events
        elif not one.join(key):
            one.put(key, "closed")
        else:
            one.put(key, "open")
            one.told[f"suspend_{key}"] += 1
            if default:
                one.defaults.add(key)
            if key in one.early and key not in TERMS:
                del one.early[key]
                one.resolve(key, "answered")
            self.next_millisecond()  # another opening gets another time
        self.learn_changes(by, lost)

    def believed_waits(self, index: int) -> list[bytes]:
        """The waits that an activation believes to be open, without steps whose children it is still
        starting."""
        by = self.writer(index)
        found = {key: record for key, record in records(by.known_records) if is_open(record)} if by else {}
        all_started = all(record[1] != b"child" or record[4] == record[6] for record in found.values())
        return list(found) if all_started else []

    @precondition(lambda self: self.believed_waits(0))
    @rule(index=indices, lost=st.booleans())
    def park(self, index: int, lost: bool) -> None:
        """Park at the waits that this activation believes to be open."""
        by, waits = self.writer(index), self.believed_waits(index)
        if by is not None and waits:
            self.park_at(by, lost, waits, [])

    def park_at(self, by: Activation, lost: bool, waits: list[bytes], given_up: list[bytes]) -> None:
        one = self.model.executions.get(by.id)
        decided = [key for key in waits if one and key.decode() not in one.open]
        if not decided and self.has_to_look(by, "park", "", by.answers, "", len(given_up), *given_up, *waits):
            return
        count, owner = (one.count, one.owner) if one else (0, None)
        reply = self.write(by, lost, "park", "", by.answers, "", len(given_up), *given_up, *waits)
        if reply is None:
            return
        assert one is not None
        for key in given_up:
            one.give_up(key.decode())
        if decided:
            assert reply[0] == count and reply[1::2] == decided
            one.owner = owner  # it has not written
            self.learn_changes(by, lost)
        else:
            assert reply == 0
            self.pending.pop(by.place, None)  # a store that went back may have it undelivered
            self.model.park(one)
            self.over(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, status=st.sampled_from(("completed", "failed")), lost=st.booleans())
    def finish(self, index: int, status: str, lost: bool) -> None:
        by = self.writer(index)
        if by is not None and index % 2 == 0:
            self.end(by, status, lost)

    def has_to_look(self, by: Activation, script: str, *args: Any) -> bool:
        """Whether an answer came that this activation has not seen: it can't leave, and looks."""
        one = self.model.executions.get(by.id)
        if one is None or one.fence(by) or by.answers >= one.answers:
            return False
        with self.desk.unchanged():
            assert self.desk.run(script, *by.fence, *args) == one.count
        by.sure = False
        return True

    def end(self, by: Activation, status: str, lost: bool) -> None:
        args = ("finish", by.answers, status, ERROR, b"\x80", "")
        if not self.has_to_look(by, *args) and self.write(by, lost, *args) is not None:
            self.model.end(self.model.executions[by.id], status)
            self.over(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, lost=st.booleans())
    def continue_as_new(self, index: int, lost: bool) -> None:
        by = self.writer(index)
        if by is not None and index % 3 == 0:
            self.continue_one(by, lost)

    def continue_one(self, by: Activation, lost: bool) -> None:
        """Code begins the next run with an empty journal, unless a wait is open."""
        args = ("continue_as_new", by.answers, b"next", b"\x80", b"")
        if self.has_to_look(by, *args):
            return
        one = self.model.executions.get(by.id)
        if one is not None and one.fence(by) == 0 and one.open:
            with self.desk.unchanged():
                waits = self.desk.run(args[0], *by.fence, *args[1:])
            assert {key.decode() for key in waits} == {*one.open}
        elif self.write(by, lost, *args) is not None:
            assert one is not None
            self.model.continue_as_new(one)
            one.origin = b"\x80"
            self.stored.pop(one.id, None)
            self.over(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, lost=st.booleans())
    def stick(self, index: int, lost: bool) -> None:
        """Code that has changed can't go on, or code has failed whose workflow pauses then."""
        by = self.writer(index)
        if by is not None and index % 3 == 0:
            self.stick_one(by, lost, paused=index % 2 == 0)

    def stick_one(self, by: Activation, lost: bool, *, paused: bool) -> None:
        """Code can't go on, or has failed."""
        args = ("stick", "", by.answers, *((PAUSED, ERROR) if paused else (REASON, "")))
        if not self.has_to_look(by, *args) and self.write(by, lost, *args) is not None:
            self.pending.pop(by.place, None)
            self.model.park(self.model.executions[by.id], "stuck", paused)
            self.over(by, lost)

    @precondition(lambda self: self.stuck())
    @rule(index=indices, late=rarely)
    def unstick(self, index: int, late: bool) -> None:
        """A stuck execution is retried, unless the caller has seen an older run."""
        found = self.stuck()
        one = found[index % len(found)]
        if late and one.run > 1:
            with self.desk.unchanged():
                assert self.desk.run("retry", one.id, one.run - 1, "", "", "", "") == [
                    b"run",
                    b"%d" % one.run,
                ]
        elif index % 2:
            self.unstick_one(one)

    def unstick_one(self, one: Execution, *skipped: str) -> None:
        reply = self.call("retry", one.id, one.run, "", "bob", "why", "", *skipped)
        assert reply == [b"retried", one.run + 1]
        for key in skipped:
            one.mark(key, "skipped")
        self.model.unstick(one)

    @precondition(lambda self: self.stuck())
    @rule(index=indices, key=st.sampled_from(WAITS))
    def skip(self, index: int, key: str) -> None:
        """A stuck execution is retried, and an answer skipped that its code does not reach."""
        found = self.stuck()
        one = found[index % len(found)]
        if one.may_mark(key):
            self.unstick_one(one, key)
        else:
            with self.desk.unchanged():
                reply = self.desk.run("retry", one.id, one.run, "", "bob", "why", "", key)
                assert reply == [b"no answer", key.encode()]

    def stuck(self) -> list[Execution]:
        return [one for one in self.model.executions.values() if one.status == "stuck"]

    # --- trouble ------------------------------------------------------------------------

    @precondition(lambda self: self.writer(0))
    @rule(index=indices)
    def reconnect(self, index: int) -> None:
        """A connection breaks: a live activation looks again before it writes."""
        if self.activations:
            self.activations[index % len(self.activations)].sure = False

    @precondition(lambda self: self.pending)
    @rule(consumer=consumers, heir=consumers, lost=st.booleans(), pauses=rarely)
    def requeue(self, consumer: str, heir: str, lost: bool, pauses: bool) -> None:
        """A worker's lease has expired (it may carry on regardless), or it hands back entries it does not
        run."""
        self.hand_back(consumer, lost, pauses)
        self.the_state_equals_the_models()
        if lost and self.undelivered():
            self.deliver(heir, False)

    @precondition(lambda self: self.pending)
    @rule(consumer=consumers)
    def recover_too_late(self, consumer: str) -> None:
        """A worker was presumed dead, and has renewed its lease since."""
        for queue, held in self.held_by(consumer).items():
            assert self.call("requeue_entries", queue, consumer, "1", MOST, b"\x80", *held) is None
        self.the_state_equals_the_models()

    def held_by(self, consumer: str) -> dict[str, list[bytes]]:
        """The entries that a consumer holds, by queue."""
        found: dict[str, list[bytes]] = {keys.DEFAULT_QUEUE: []}
        for (queue, entry), holder in self.pending.items():
            if holder == consumer:
                found.setdefault(queue, []).append(entry)
        return found

    def hand_back(self, consumer: str, lost: bool, pauses: bool = False) -> None:
        """Requeue what a consumer holds; if it was lost too often, the workflow fails or `pauses`."""
        running = {by.place for by in self.activations if by.consumer == consumer and not lost}
        for queue, entries in self.held_by(consumer).items():
            returned = [entry for entry in entries if (queue, entry) not in running]
            self.requeue_from(queue, consumer, returned, lost, pauses)

    def requeue_from(self, queue: str, consumer: str, entries: list[bytes], lost: bool, pauses: bool) -> None:
        by_place = {one.place: one for one in self.model.executions.values() if one.entry}
        held = [by_place[queue, entry] for entry in entries if (queue, entry) in by_place]
        known = packed({one.decode(): pauses for one in self.desk.state.workflows})
        lease = "" if lost else "back"
        reply = self.call("requeue_entries", queue, consumer, lease, MOST, known, *entries)
        failed: list[bytes] = []
        for one in held:
            if lost:
                one.losses = one.losses + 1 if one.losses and one.progress >= one.count else 1
                one.progress = one.count
            if lost and one.losses >= MOST:
                failed.append(one.id.encode())
                if pauses:
                    self.model.park(one, "stuck", paused=True)
                else:
                    self.model.end(one, "failed")
            else:
                one.owner, one.entry = None, b""
                one.running.clear()
        assert reply[:3] == [len(held) - len(failed), len(failed), len(entries) - len(held)]
        assert [one[0] for one in reply[4 if pauses else 3]] == failed
        for entry in entries:
            del self.pending[queue, entry]

    @precondition(lambda self: bool(set(self.pending) - {by.place for by in self.activations}))
    @rule(index=indices)
    def put_back(self, index: int) -> None:
        """An entry goes back whose workflow its worker does not know; nobody ran it."""
        running = {by.place for by in self.activations}
        found = [place for place in self.pending if place not in running]
        place = found[index % len(found)] if found else None
        for one in self.model.unfinished():
            if one.entry and one.place == place:
                assert self.call("put_back", *self.entry_of(one), FAR) == 1
                del self.pending[one.place]
                self.model.put_back(one)

    def entry_of(self, one: Execution) -> tuple[str, str, bytes]:
        """An execution's entry, as scripts of workers name it that do not run it."""
        return one.queue, one.id, one.place[1]

    @precondition(lambda self: self.timers)
    @rule(index=indices)
    def time_passes(self, index: int) -> None:
        """Make any one timer due, except the execution's own deadline."""
        self.desk.make_due(self.timers[index % len(self.timers)])
        self.fire(100)

    def fire(self, limit: int) -> Any:
        """Fire the due timers in order."""
        cascades = self.cascades()
        for place, name in enumerate(sorted(cascades), 2):  # deterministic order within a test
            self.desk.do("ZADD", keys.TIMERS, place, f"c{name}")
        due = self.desk.do("ZRANGE", keys.TIMERS, "-inf", self.desk.now(), "BYSCORE", "LIMIT", 0, limit)
        reply = self.desk.fire(limit)
        assert reply[0] == len(due)
        for member in due:
            kind, (name, _, key) = member[:1], member[1:].decode().partition(" ")
            one = self.model.executions[name]
            if kind == b"p":
                assert one.later
                self.model.offer(one)
            elif kind == b"t":
                assert not one.finished
                self.model.terminate(one, "failed")
            elif kind != b"c":
                assert key in one.open
                self.model.decide(one, key, self.when_due(kind, key))
        self.follow(cascades)
        return reply

    def when_due(self, kind: bytes, key: str) -> str:
        """The status that a timer gives a wait."""
        return {b"s": "expired", b"b": "retry"}[kind]

    @precondition(lambda self: self.pick(0, finished=True))
    @rule(index=indices)
    def forget(self, index: int) -> None:
        """A finished execution's retention ends, after all its descendants have finished."""
        one = self.pick(index, finished=True)
        if one is not None and not any(one in self.model.ancestors(two) for two in self.model.unfinished()):
            self.desk.retention_ends(one.id)
            assert self.fire(100)[1] == 1
            self.drop(one)

    def drop(self, one: Execution) -> None:
        self.model.forget(one)
        self.called = [(script, args) for script, args in self.called if one.id not in args]

    @precondition(
        lambda self: any("." not in one.id for one in self.model.executions.values() if one.finished)
    )
    @rule(index=indices, cut_short=rarely)
    def delete(self, index: int, cut_short: bool) -> None:
        """Delete a root and then its descendants, unless one of them is still running."""
        roots = [one for one in self.model.executions.values() if one.finished and "." not in one.id]
        if index % 3 != 1:
            return
        root = roots[index % len(roots)]
        alive = any(one.id.startswith(root.id) for one in self.model.unfinished())
        if alive or self.desk.do("EXISTS", keys.CHILDREN + root.id):
            assert alive or self.cascades(), f"{root.id} has children, but all have finished"
            with self.desk.unchanged():
                assert self.desk.run("delete_execution", root.id)[0] == b"status"
            return
        below = [one for one in self.model.executions.values() if one.id.startswith(root.id + ".")]
        for one in [root] if cut_short else [root, *below]:
            assert self.desk.run("delete_execution", one.id)[:2] == [b"deleted", 1]
            self.drop(one)
        audit = self.desk.state.audit.get(root.id.encode(), [])
        assert not any(msgpack.unpackb(entry, raw=True)[10] for entry in audit), "an answer is left over"

    @precondition(lambda self: self.called)
    @rule(back=st.sampled_from((0, 0, 0, 1, 1, 2, 3, 5, 8, 13, 21)))
    def duplicate(self, back: int) -> None:
        """An earlier call comes a second time and changes nothing."""
        script, args = self.called[-1 - min(back, len(self.called) - 1)]
        if script == "answer":
            status = self.model.executions[args[0]].journal.get(args[1])
            if status is None or (status == "open" and args[1] not in TERMS):
                return  # it was for an earlier run, whose suspension is gone: it counts again
        with self.desk.unchanged():
            self.desk.run(script, *args)

    @rule()
    def save(self) -> None:
        mine = (self.model, self.pending, self.stored, self.called)
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
    @rule(consumer=consumers, index=indices)
    def deliver_unknown(self, consumer: str, index: int) -> None:
        """A worker that does not know the workflow puts it back."""
        self.deliver(consumer, True)
        self.put_back(index)

    @precondition(lambda self: self.saved)
    @rule(in_flight=indices)
    def go_back(self, in_flight: int) -> None:
        """The store goes back in time; every live activation has lost its connection and looks again.

        A write that was in flight may still arrive.
        """
        assert self.saved is not None
        self.desk.restore(self.saved[0])
        self.model, self.pending, self.stored, self.called = copy.deepcopy(self.saved[1])
        if in_flight % 2:
            self.journal(in_flight, "b", b"", True)
        for by in self.activations:
            by.sure = False

    @rule(rows=st.sampled_from([1, 100]))
    def repair(self, rows: int) -> None:
        """No script leaves anything to repair."""
        with self.desk.unchanged():
            assert not self.desk.repair(rows)

    # --- checks after every step ----------------------------------------------------------

    @invariant()
    def the_state_equals_the_models(self) -> None:
        state = self.desk.state
        assert set(state.executions) == {name.encode() for name in self.model.executions}
        for one in self.model.executions.values():
            self.check_execution(one, state)
        live = {one.place for one in self.model.executions.values() if one.entry}
        self.pending = {place: consumer for place, consumer in self.pending.items() if place in live}
        self.timers = sorted(member for member, due in state.timers.items() if due != NEVER_MS)
        pending = {
            (name.decode(), entry): holder.decode()
            for name, queue in state.queues.items()
            for entry, holder in queue.pending.items()
        }
        assert pending == self.pending
        self.check_streams(state)
        relation_invariants = RelationInvariants(Namespace([state]))
        found = [
            *PartitionInvariants(state, relation_invariants).violations(),
            *relation_invariants.violations(),
        ]
        assert not found, "\n".join(found)

    def check_execution(self, one: Execution, state: Partition) -> None:
        name = one.id.encode()
        fields = state.executions[name]
        assert fields[b"status"] == one.status.encode(), one.id
        if one.finished:  # these stay until the next run, and mean nothing
            fields = {key: value for key, value in fields.items() if key not in OF_THE_LIVE}
        assert int(fields[b"run"]) == one.run, one.id
        entry = fields.get(b"entry")
        assert (entry is None) == (one.entry is None), one.id
        assert one.entry in (entry, b""), one.id
        one.entry = entry
        assert fields.get(b"owner", b"").decode() == (one.owner or ""), one.id
        due = state.timers.get(b"p" + name)
        assert (due is not None and due != NEVER_MS, due == NEVER_MS) == (one.later, one.unserved), one.id
        one.created = int(fields[b"created"])
        assert fields.get(b"queue", b"default").decode() == one.queue, one.id
        assert fields.get(b"version", b"").decode() == one.version, one.id
        assert (b"started" in fields, b"forked" in fields) == (one.started, one.forked), one.id
        assert fields.get(b"origin", b"") == one.origin, one.id
        assert int(fields.get(b"answers", b"0")) == one.answers, one.id
        if not one.finished:
            assert _heartbeats(fields.get(b"heartbeats")) == one.heartbeats, one.id
            assert _running(fields.get(b"running")) == one.running, one.id
        kind = StuckReason.parse(fields[b"stuck"]).kind if b"stuck" in fields else ""
        assert kind == (("exhausted" if one.paused else "unreached") if one.status == "stuck" else ""), one.id
        assert {key.decode() for key in state.early.get(name, {})} == one.early.keys()

        journal = state.journals.get(name, {})
        steps = {key.decode(): packed for key, packed in journal.items() if key and not is_result(key)}
        for key in one.doubtful - steps.keys():
            del one.journal[key]
        one.doubtful.clear()
        assert {key: _status(packed) for key, packed in steps.items()} == one.journal, one.id
        assert int(journal.get(b"", b"0")) == one.count, one.id
        marks = {key: mark for key, packed in steps.items() if (mark := _mark(packed))}
        one.marks |= {key: mark for key, mark in marks.items() if mark == "optional" and one.run > 1}
        assert marks == one.marks, one.id
        for key in one.journal.keys() & TERMS.keys():
            made = decisions_of(steps[key])
            assert made == one.decisions.get(key, {}), one.id
            if one.journal[key] == "answered":
                assert "n" in made.values() or len(made) == REQUIRED, f"{one.id} was decided by {made}"
        self.check_journal(one, journal)

    def check_streams(self, state: Partition) -> None:
        """A stream has each event of its tree as often as it has happened, in whatever ways it was told."""
        for root in self.model.executions.values():
            name = root.id.encode()
            if "." in root.id or b"stream" not in state.executions[name]:
                continue
            found: dict[str, Counter[str]] = {}
            for _, flat in state.topics.get(name, []):
                for marked in flat[::2]:
                    kind, _, child = marked.decode().partition("\0")
                    if kind not in UNCOUNTED:
                        found.setdefault(child or root.id, Counter())[kind] += 1
            for one in self.model.executions.values():
                if one.id == root.id or one.id.startswith(f"{root.id}."):
                    assert found.get(one.id, Counter()) == one.told, one.id

    def check_journal(self, one: Execution, journal: dict[bytes, bytes]) -> None:
        """A decided record never changes its value."""
        for key, before in self.stored.get(one.id, {}).items():
            if key in journal and _status(before) in _DECIDED:
                counts = b"child" in before and _status(before) == _status(journal[key]) == "closed"
                marked = _mark(journal[key]) and not _mark(before)
                same = _unmarked(journal[key], before) if marked else journal[key] == before
                assert same or counts, f"{key!r} of {one.id} was overwritten"
        self.stored[one.id] = journal


_DECIDED = ("ok", "failed", "answered", "expired", "closed", "over", "event", "done")
_MAY_BECOME = {
    "open": ("open", "answered", "expired", "closed", "over", "event", "done", "won"),
    "backoff": ("retry",),
    "started": ("started",),
}


def _mark(packed: bytes) -> str:
    """Why code need not reach an accepted answer; empty for none."""
    record = record_of(packed)
    marked = record is not None and record[1] == b"suspend" and len(record) > 18
    return record[18][0].decode() if record is not None and marked else ""


def _unmarked(packed: bytes, before: bytes) -> bool:
    """Whether a marked record is what it was before, but for its mark."""
    record, was = record_of(packed), record_of(before)
    return record is not None and was is not None and record[: len(was)] == was


def _status(packed: bytes | None) -> str:
    record = record_of(packed) if packed is not None else None
    return "" if record is None else record[2].decode()


def decisions_of(packed: bytes) -> dict[str, str]:
    """The decisions of several people on a suspension: person -> answer."""
    record = journal.parse(packed)
    assert isinstance(record, SuspensionRecord)
    return {one.by: one.answer.decode() for one in record.decisions}


def _heartbeats(packed: bytes | None) -> dict[str, tuple[int, bytes]]:
    """Attempt and progress by step key."""
    rows = [] if packed is None else msgpack.unpackb(packed, raw=True)
    return {row[1].decode(): (row[2], row[3]) for row in rows}


def _running(packed: bytes | None) -> dict[str, int]:
    """The attempts of steps that are noted to run."""
    rows = [] if packed is None else msgpack.unpackb(packed, raw=True)
    return {row[1].decode(): row[2] for row in rows}


def _attempt(packed: bytes | None) -> int:
    return 0 if packed is None else int(msgpack.unpackb(packed, raw=True)[3])


def _differs(known: bytes, now: bytes | None) -> bool:
    """Whether a record contradicts what an activation knew."""
    return now != known and _status(now) not in _MAY_BECOME.get(_status(known), ())


def race_membership(key: str) -> tuple[str, bytes]:
    """The race that a wait decides, and those it takes part in, as the scripts expect them."""
    name, branch = race_of(key), branch_of(key)
    races: bytes = msgpack.packb([[name, branch, key]]) if name else b""
    return name if branch == key else "", races


def run(machine: type[Machine], desk: Desk, examples: int, steps: int) -> None:
    """Drive the scripts `examples` times by `steps` steps; a quarter of the examples in a quick run, 24 times
    as many with POLOS_TEST_DEEP=1."""
    machine.desk = desk
    examples = examples * (1200 if DEEP else settings().max_examples) // 100
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps * 2 if DEEP else steps,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
