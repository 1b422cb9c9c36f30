"""The scripts driven at random: children, waits, races, lanes, delays and new runs, and every trouble."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.executions import FINISHED
from polos_redis.state.journal import is_result, result_name
from tests.harness.desk import FAR, RETENTION, Desk
from tests.invariants.machine import (
    CONSUMERS,
    DEEP,
    ERROR,
    PEOPLE,
    RETRIES,
    STEPS,
    WAITS,
    Machine,
    consumers,
    entrant,
    places,
    rarely,
    run,
)
from tests.invariants.model import Activation, Execution, Semaphore, race_of
from tests.invariants.state import Partition, record_of

LIMITS = {"": None, "narrow": 1, "wide": 2}
BROODS = {"one": 1, "three": 3, "none": 0, "stray": 2, "race kid": 1}  # the children of a step
CHUNK = 2  # children begun in one call
DELAYS, EVENTS = ("nap", "past", "race nap"), ("news", "race news")
TOPIC = "gazette"
AGAIN = 2  # how often an execution is tried again by itself

semaphores = st.sampled_from(tuple(LIMITS))
broods = st.sampled_from(tuple(BROODS))
steps = st.sampled_from((*STEPS, *WAITS, "race ask", *RETRIES, "race call", *DELAYS, *EVENTS, *BROODS))


class Composition(Machine):
    """As the base, which knows one execution at a time; here they concern each other."""

    many = 9

    def __init__(self) -> None:
        super().__init__()
        self.latest = ""  # who was activated at last
        self.model.semaphores = {name: Semaphore(limit) for name, limit in LIMITS.items() if limit}

    @initialize(keys=st.lists(steps, min_size=1, max_size=3, unique=True), semaphore=semaphores)
    def begin(self, keys: list[str], semaphore: str) -> None:
        for consumer in CONSUMERS:
            self.create()
            self.the_state_is_the_models()
            self.activate(consumer, keys, semaphore, "park", False)

    # --- clients ------------------------------------------------------------------------

    @rule(semaphore=semaphores, later=rarely, timeout=rarely)
    def invoke(self, semaphore: str, later: bool, timeout: bool) -> None:
        options: dict[str, Any] = {"delay": FAR} if later else {}
        if timeout:
            options["timeout"] = FAR
        self.create(later, semaphore, options | lane_options(semaphore))

    @precondition(lambda self: self.model.executions)
    @rule(
        place=places,
        key=st.sampled_from((*WAITS, "race ask")),
        answer=st.just("y"),
        early=st.booleans(),
        who=st.sampled_from(PEOPLE),
    )
    def answer(self, place: int, key: str, answer: str, early: bool, who: str) -> None:
        super().answer(place, key, answer, early, who)

    @precondition(lambda self: any(key in EVENTS for one in self.model.unfinished() for key in one.open))
    @rule(once=st.booleans())
    def publish(self, once: bool) -> None:
        """An event decides the waits for it; published once under a name, it does so once."""
        members = self.desk.do("HKEYS", f"subs:{TOPIC}")
        args = (TOPIC, "", RETENTION, "hot", b"\x01")
        if once:
            self.call("publish", *args, f"{len(self.called)} {self.made}")
        else:
            self.desk.run("publish", *args, "")
        for member in members:
            _, name, key = member.decode().split(" ", 2)
            self.model.decide(self.model.executions[name], key, "event")

    @precondition(lambda self: any(one.status == "failed" for one in self.model.executions.values()))
    @rule(place=places, late=rarely)
    def retry(self, place: int, late: bool) -> None:
        """A failed execution goes on, unless it is another run by now than the caller saw."""
        statuses = ("failed",) if place % 8 != 1 else FINISHED
        found = [one for one in self.model.executions.values() if one.status in statuses]
        one = found[place % len(found)]
        if late and one.run > 1:
            with self.desk.unchanged():
                assert self.desk.run("retry", one.id, one.run - 1) == [b"run", b"%d" % one.run]
        elif one.status != "failed":
            with self.desk.unchanged():
                assert self.desk.run("retry", one.id, one.run) == [b"status", one.status.encode()]
        else:
            self.run_anew(one)

    def run_anew(self, one: Execution) -> None:
        if len(self.model.unfinished()) < self.many:
            assert self.call("retry", one.id, one.run) == [b"retried", one.run + 1]
            one.tried = 0
            self.model.rerun(one)

    # --- workers ------------------------------------------------------------------------

    @precondition(lambda self: self.writer(0))
    @rule(
        place=places,
        key=st.sampled_from((*WAITS, "race ask")),
        timeout=st.sampled_from((0, FAR)),
        lost=rarely,
    )
    def suspend(self, place: int, key: str, timeout: int, lost: bool) -> None:
        by = self.writer(place)
        one = self.model.executions.get(by.id) if by is not None else None
        if one is None or not one.lost(key):
            super().suspend(place, key, timeout, lost)

    @precondition(lambda self: self.writer(0))
    @rule(place=places, key=st.sampled_from((*RETRIES, "race call")), lost=rarely)
    def back_off(self, place: int, key: str, lost: bool) -> None:
        super().back_off(place, key, lost)

    @precondition(lambda self: self.writer(0))
    @rule(place=places, key=st.sampled_from(DELAYS + EVENTS), timeout=st.booleans(), lost=rarely)
    def wait(self, place: int, key: str, timeout: bool, lost: bool) -> None:
        """Wait for a time, or for an event."""
        by = self.writer(place)
        if by is None:
            return
        topic = TOPIC if key in EVENTS else ""
        after = FAR if not topic or timeout else ""
        when = ("", 1) if key == "past" else (after, "")
        subscriber = f"w{by.entry.decode()} {by.id} {key}" if topic else ""
        reply = self.write(by, lost, "wait", key, *when, topic, subscriber, *entrant(key))
        if reply is None:
            return
        one = self.model.executions[by.id]
        if key in one.journal:
            assert reply[1] == self.stored[by.id][key.encode()]
        elif not one.join(key):
            one.put(key, "closed")
        elif key == "past":
            one.settle(key, "over")
        else:
            one.put(key, "open")
        self.learn(by, lost)

    def when_due(self, kind: bytes, key: str) -> str:
        if kind != b"w":
            return super().when_due(kind, key)
        return "expired" if key in EVENTS else "over"

    @precondition(lambda self: self.writer(0))
    @rule(place=places, key=broods, semaphore=semaphores, lost=rarely)
    def spawn(self, place: int, key: str, semaphore: str, lost: bool) -> None:
        """The next of a step's children."""
        by = self.writer(place)
        if by is not None:
            self.begin_children(by, key, semaphore, lost)

    def begin_children(self, by: Activation, key: str, semaphore: str, lost: bool) -> None:
        told = record_of(by.told.get(key.encode(), b""))
        first = 0 if told is None else told[6]
        ids = [keys.child_id(by.id, key, index) for index in range(BROODS[key])]
        chunk = ids[first : first + CHUNK]
        if (first == len(ids) and told) or len(self.model.unfinished()) + len(chunk) > self.many:
            return
        status = "started" if key == "stray" else "open"
        parts: list[Any] = []
        for child in chunk:
            options = {"parent": by.id, "key": key, **lane_options(semaphore)}
            parts += [child, "wf", b"in", msgpack.packb(options, use_bin_type=False)]
        reply = self.write(
            by, lost, "spawn", key, status, len(ids), first, RETENTION, *entrant(key), 0, *parts
        )
        if reply is None:
            return
        self.model.spawn(self.model.executions[by.id], key, status, ids, chunk, semaphore)
        self.learn(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(place=places, lost=rarely)
    def choose(self, place: int, lost: bool) -> None:
        """The branch of a race that is no wait has come first; another such one has begun a wait."""
        by = self.writer(place)
        if by is None:
            return
        others = {"ask too": "other"} if b"ask too" in by.told else {}
        flat = [part for pair in others.items() for part in pair]
        if self.write(by, lost, "choose", "race", "code", *flat) is not None:
            self.model.executions[by.id].win("race", "code", others)
            self.learn(by, lost)

    @precondition(lambda self: self.believed_waits(0)[1:])
    @rule(place=places, lost=rarely)
    def give_up(self, place: int, lost: bool) -> None:
        """The code has cancelled one of its waits: parking at the others closes it."""
        by, waits = self.writer(place), self.believed_waits(place)
        alone = [key for key in waits if not race_of(key.decode())]
        if by is not None and len(waits) > 1 and alone:
            given_up = alone[place % len(alone)]
            self.park_at(by, lost, [key for key in waits if key != given_up], [given_up])

    @precondition(lambda self: self.writer(0))
    @rule(place=places, later=st.booleans(), lost=rarely)
    def again(self, place: int, later: bool, lost: bool) -> None:
        """The workflow's code has failed; it is tried again, so many times."""
        by = self.writer(place)
        one = self.model.executions.get(by.id) if by is not None else None
        if by is None:
            return
        args = (ERROR, AGAIN, FAR if later else 0)
        if one is not None and one.fence(by) == 0 and one.tried == AGAIN:
            with self.desk.unchanged():
                assert self.desk.run("auto_retry", *by.fence, *args) == 0
        elif self.write(by, lost, "auto_retry", *args) is not None:
            assert one is not None
            one.tried += 1
            self.model.rerun(one, later)
            self.over(by, lost)

    @precondition(lambda self: self.undelivered())
    @rule(
        consumer=consumers,
        keys=st.lists(steps, max_size=4, unique=True),
        semaphore=semaphores,
        how=st.sampled_from(("park", "park", "completed", "completed", "failed", "again")),
        lost=rarely,
    )
    def activate(self, consumer: str, keys: list[str], semaphore: str, how: str, lost: bool) -> None:
        """An activation from its beginning to its end. Code begins again what a new run has dropped."""
        self.deliver(consumer, False)
        by = self.activations[-1]
        if not by.sure:
            self.look(len([one for one in self.activations if not one.sure]) - 1, False)
        one, self.latest = self.model.executions[by.id], by.id
        dropped = [key for key in one.code if key not in one.journal and key != "race"]
        for key in [*dropped, *keys]:
            if by.sure and by in self.activations:
                self.begin_step(self.place_of(by), key, semaphore)
                self.the_state_is_the_models()
        if by.sure and by in self.activations:
            if how == "park":
                self.park(self.place_of(by), lost)
            elif how == "cancelled":
                self.cancel_one(one)
            elif how == "again":
                self.again(self.place_of(by), False, lost)
            else:
                self.end(by, how, lost)

    def begin_step(self, place: int, key: str, semaphore: str) -> None:
        if key in BROODS:
            for _ in range(0, BROODS[key] or 1, CHUNK):
                self.spawn(place, key, semaphore, False)
        elif key in DELAYS + EVENTS:
            self.wait(place, key, False, False)
        elif key in STEPS:
            self.journal(place, key, b"", False)
        elif "call" in key:
            self.back_off(place, key, False)
        else:
            self.suspend(place, key, FAR, False)

    @precondition(lambda self: self.undelivered())
    @rule(
        consumer=consumers,
        keys=st.tuples(broods, broods),
        how=st.sampled_from(("failed", "park")),
        ends=st.lists(st.sampled_from(("completed", "failed", "cancelled")), max_size=3),
    )
    def generations(self, consumer: str, keys: tuple[str, str], how: str, ends: list[str]) -> None:
        """A parent parks or fails while its children are at work, which leave children of their own; then it
        is cancelled or retried."""
        self.activate(consumer, [keys[0]], "", how, False)
        parent = self.model.executions[self.latest]
        for end in ends:
            if self.undelivered():
                self.activate(consumer, [keys[1]], "", end, False)
        if parent.status == "failed":
            self.run_anew(parent)
        elif not parent.finished and len(ends) > 1:
            self.cancel_one(parent)

    # --- trouble ------------------------------------------------------------------------

    @precondition(lambda self: any(self.model.doomed(one) for one in self.model.unfinished()))
    @rule(limit=st.sampled_from((1, 2, 100)))
    def cascade(self, limit: int) -> None:
        """The descendants of what was ended follow: one generation, or all of them, some at a time."""
        self.fire(limit)
        for _ in range(100):
            if limit == 100 or not self.cascades():
                return
            self.the_state_is_the_models()  # which of them come first is left to chance: all do in the end
            self.fire(limit)
        raise AssertionError("the end of the descendants comes to no end")

    # --- what holds after every step ----------------------------------------------------

    def is_as_the_model(self, one: Execution, state: Partition) -> None:
        super().is_as_the_model(one, state)
        name = one.id.encode()
        if not one.finished and self.model.doomed(one):
            above = [a.id.encode() for a in self.model.ancestors(one)]
            assert any(b"c" + name in state.timers for name in above), f"nothing ends {one.id}"
        journal = state.journals.get(name, {})
        results = {key: result(packed) for key, packed in journal.items() if is_result(key)}
        assert results == {result_name(child): how for child, how in one.results.items()}, one.id
        for key, race in one.races.items():
            record = record_of(journal[key.encode()])
            assert record is not None and record[4].decode() == race.winner, one.id
            members = [part.decode() for part in record[6]]
            assert dict(zip(members[::2], members[1::2], strict=True)) == race.members, one.id
        if one.semaphore:
            semaphore = self.model.semaphores[one.semaphore]
            line = state.waiters.get(one.semaphore.encode(), {})
            assert [place.decode() for place in sorted(line, key=line.__getitem__)] == semaphore.waiters
            held = state.slots.get(one.semaphore.encode(), {}).keys() - line.keys()
            assert {place.decode() for place in held} == semaphore.holders and len(held) <= semaphore.limit


def result(packed: bytes) -> str:
    """How a child has ended, by its parent's journal."""
    status: bytes = msgpack.unpackb(packed, raw=True)[0]
    return status.decode()


def lane_options(semaphore: str) -> dict[str, Any]:
    return {"semaphore": semaphore, "limit": LIMITS[semaphore], "near": True} if semaphore else {}


@pytest.mark.timeout(7200 if DEEP else 300)
def test_no_sequence_of_calls_breaks_what_binds_executions(server: EmbeddedServer, namespace: str) -> None:
    with Desk(server.url, namespace) as desk:
        run(Composition, desk, examples=60, steps=40)
