"""A state machine of executions that affect each other: children, waits, races, semaphores, retries."""

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
    consumers,
    indices,
    race_membership,
    rarely,
    run,
)
from tests.invariants.model import Activation, Execution, Semaphore, race_of
from tests.invariants.state import Partition, record_of
from tests.invariants.streams_machine import StreamsMachine

LIMITS = {"": None, "narrow": 1, "wide": 2}
CHILD_STEPS = {"one": 1, "three": 3, "none": 0, "stray": 2, "race kid": 1}  # the children of each step
CHUNK = 2  # children started in one call
DELAYS, EVENTS = ("nap", "past", "race nap"), ("news", "race news")
TOPIC = "gazette"
AUTO_RETRIES = 2  # auto-retries of an execution

semaphores = st.sampled_from(tuple(LIMITS))
child_steps = st.sampled_from(tuple(CHILD_STEPS))
steps = st.sampled_from((*STEPS, *WAITS, "race ask", *RETRIES, "race call", *DELAYS, *EVENTS, *CHILD_STEPS))


class Composition(StreamsMachine):
    """The base machine knows one execution at a time; here executions affect each other."""

    many = 9

    def __init__(self) -> None:
        super().__init__()
        self.latest = ""  # the execution activated last
        self.model.semaphores = {name: Semaphore(limit) for name, limit in LIMITS.items() if limit}

    @initialize(keys=st.lists(steps, min_size=1, max_size=3, unique=True), semaphore=semaphores)
    def start(self, keys: list[str], semaphore: str) -> None:
        for consumer in CONSUMERS:
            self.create()
            self.the_state_equals_the_models()
            self.activate(consumer, keys, semaphore, "park", False)

    # --- clients ------------------------------------------------------------------------

    @rule(semaphore=semaphores, later=rarely, timeout=rarely)
    def invoke(self, semaphore: str, later: bool, timeout: bool) -> None:
        options: dict[str, Any] = {"delay": FAR} if later else {}
        if timeout:
            options["timeout"] = FAR
        self.create(later, semaphore, options | semaphore_options(semaphore))

    @precondition(lambda self: self.model.executions)
    @rule(index=indices, unanswered=st.booleans(), semaphore=semaphores, timeout=rarely)
    def fork(self, index: int, unanswered: bool, semaphore: str, timeout: bool) -> None:
        options = {"timeout": FAR} if timeout else {}
        self.fork_one(index, unanswered, options | semaphore_options(semaphore))

    @precondition(lambda self: self.model.executions)
    @rule(
        index=indices,
        key=st.sampled_from((*WAITS, "race ask")),
        answer=st.just("y"),
        early=st.booleans(),
        who=st.sampled_from(PEOPLE),
    )
    def answer(self, index: int, key: str, answer: str, early: bool, who: str) -> None:
        super().answer(index, key, answer, early, who)

    @precondition(lambda self: any(key in EVENTS for one in self.model.unfinished() for key in one.open))
    @rule(once=st.booleans())
    def publish(self, once: bool) -> None:
        """An event resolves the waits for it; published under a name, only the first time."""
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
    @rule(index=indices, late=rarely)
    def retry(self, index: int, late: bool) -> None:
        """A failed execution is retried, unless the caller has seen an older run."""
        statuses = ("failed",) if index % 8 != 1 else FINISHED
        found = [one for one in self.model.executions.values() if one.status in statuses]
        one = found[index % len(found)]
        if late and one.run > 1:
            with self.desk.unchanged():
                assert self.desk.run("retry", one.id, one.run - 1, "", "", "", "") == [
                    b"run",
                    b"%d" % one.run,
                ]
        elif one.status != "failed":
            with self.desk.unchanged():
                assert self.desk.run("retry", one.id, one.run, "", "", "", "") == [
                    b"status",
                    one.status.encode(),
                ]
        else:
            self.rerun(one)

    def rerun(self, one: Execution) -> None:
        if len(self.model.unfinished()) < self.many:
            assert self.call("retry", one.id, one.run, "", "", "", "") == [b"retried", one.run + 1]
            one.auto_retries = 0
            self.model.rerun(one)

    # --- workers ------------------------------------------------------------------------

    @precondition(lambda self: self.writer(0))
    @rule(
        index=indices,
        key=st.sampled_from((*WAITS, "race ask")),
        timeout=st.sampled_from((0, FAR)),
        lost=rarely,
    )
    def suspend(self, index: int, key: str, timeout: int, lost: bool) -> None:
        by = self.writer(index)
        one = self.model.executions.get(by.id) if by is not None else None
        if one is None or not one.lost(key):
            super().suspend(index, key, timeout, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, key=st.sampled_from((*RETRIES, "race call")), lost=rarely)
    def back_off(self, index: int, key: str, lost: bool) -> None:
        super().back_off(index, key, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, key=st.sampled_from(DELAYS + EVENTS), timeout=st.booleans(), lost=rarely)
    def wait(self, index: int, key: str, timeout: bool, lost: bool) -> None:
        """Wait for a time or for an event."""
        by = self.writer(index)
        if by is None:
            return
        topic = TOPIC if key in EVENTS else ""
        after = FAR if not topic or timeout else ""
        when = ("", 1) if key == "past" else (after, "")
        subscriber = f"w{by.entry.decode()} {by.id} {key}" if topic else ""
        reply = self.write(by, lost, "open_wait", key, *when, topic, subscriber, *race_membership(key))
        if reply is None:
            return
        one = self.model.executions[by.id]
        if key in one.journal:
            assert reply[1] == self.stored[by.id][key.encode()]
        elif not one.join(key):
            one.put(key, "closed")
        elif key == "past":
            one.resolve(key, "over")
        else:
            one.put(key, "open")
        self.learn_changes(by, lost)

    def when_due(self, kind: bytes, key: str) -> str:
        if kind != b"w":
            return super().when_due(kind, key)
        return "expired" if key in EVENTS else "over"

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, key=child_steps, semaphore=semaphores, lost=rarely)
    def spawn(self, index: int, key: str, semaphore: str, lost: bool) -> None:
        """Start the next chunk of a step's children."""
        by = self.writer(index)
        if by is not None:
            self.start_children(by, key, semaphore, lost)

    def start_children(self, by: Activation, key: str, semaphore: str, lost: bool) -> None:
        record = record_of(by.known_records.get(key.encode(), b""))
        first = 0 if record is None else record[6]
        one = self.model.executions.get(by.id)
        since = 1 if one is None else one.since
        ids = [keys.child_id(by.id, key, index, since) for index in range(CHILD_STEPS[key])]
        chunk = ids[first : first + CHUNK]
        if (first == len(ids) and record) or len(self.model.unfinished()) + len(chunk) > self.many:
            return
        status = "started" if key == "stray" else "open"
        parts: list[Any] = []
        for child in chunk:
            options = {"parent": by.id, "key": key, **semaphore_options(semaphore)}
            parts += [child, "wf", b"in", msgpack.packb(options, use_bin_type=False)]
        reply = self.write(
            by,
            lost,
            "start_children",
            key,
            status,
            len(ids),
            first,
            RETENTION,
            *race_membership(key),
            0,
            *parts,
        )
        if reply is None:
            return
        self.model.spawn(self.model.executions[by.id], key, status, ids, chunk, semaphore)
        self.learn_changes(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, lost=rarely)
    def choose(self, index: int, lost: bool) -> None:
        """A branch of code wins a race; another one has opened a wait."""
        by = self.writer(index)
        if by is None:
            return
        others = {"ask too": "other"} if b"ask too" in by.known_records else {}
        flat = [part for pair in others.items() for part in pair]
        if self.write(by, lost, "choose_winner", "race", "code", b"", *flat) is not None:
            self.model.executions[by.id].win("race", "code", others)
            self.learn_changes(by, lost)

    @precondition(lambda self: self.believed_waits(0)[1:])
    @rule(index=indices, lost=rarely)
    def give_up(self, index: int, lost: bool) -> None:
        """The code cancels one of its waits: parking at the others closes it."""
        by, waits = self.writer(index), self.believed_waits(index)
        alone = [key for key in waits if not race_of(key.decode())]
        if by is not None and len(waits) > 1 and alone:
            given_up = alone[index % len(alone)]
            self.park_at(by, lost, [key for key in waits if key != given_up], [given_up])

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, key=st.sampled_from((*WAITS, *RETRIES, *DELAYS)), lost=rarely)
    def give_up_and_go_on(self, index: int, key: str, lost: bool) -> None:
        """The code cancels a task that waits, or has got its answer, and does something else."""
        by = self.writer(index)
        if by is None or key.encode() not in by.known_records:
            return
        if self.write(by, lost, "give_up", key) is not None:
            self.model.executions[by.id].give_up(key)
            self.learn_changes(by, lost)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices, later=st.booleans(), lost=rarely)
    def auto_retry(self, index: int, later: bool, lost: bool) -> None:
        """The workflow's code has failed; it is retried up to AUTO_RETRIES times."""
        by = self.writer(index)
        one = self.model.executions.get(by.id) if by is not None else None
        if by is None:
            return
        args = (ERROR, AUTO_RETRIES, FAR if later else 0)
        if one is not None and one.fence(by) == 0 and one.auto_retries == AUTO_RETRIES:
            with self.desk.unchanged():
                assert self.desk.run("auto_retry", *by.fence, *args) == 0
        elif self.write(by, lost, "auto_retry", *args) is not None:
            assert one is not None
            one.auto_retries += 1
            self.model.rerun(one, later)
            self.over(by, lost)

    @precondition(lambda self: self.undelivered())
    @rule(
        consumer=consumers,
        keys=st.lists(steps, max_size=4, unique=True),
        semaphore=semaphores,
        how=st.sampled_from(
            ("park", "park", "completed", "completed", "failed", "auto_retry", "stick", "pause", "continue")
        ),
        lost=rarely,
    )
    def activate(self, consumer: str, keys: list[str], semaphore: str, how: str, lost: bool) -> None:
        """A whole activation. Its code starts again what a new run has dropped."""
        self.deliver(consumer, False)
        by = self.activations[-1]
        if not by.sure:
            self.look(len([one for one in self.activations if not one.sure]) - 1, False)
        one, self.latest = self.model.executions[by.id], by.id
        dropped = [key for key in one.code if key not in one.journal and key != "race"]
        for key in [*dropped, *keys]:
            if by.sure and by in self.activations:
                self.begin_step(self.index_of(by), key, semaphore)
                self.the_state_equals_the_models()
        if by.sure and by in self.activations:
            if how == "park":
                self.park(self.index_of(by), lost)
            elif how in ("stick", "pause"):
                self.stick_one(by, lost, paused=how == "pause")
            elif how == "cancelled":
                self.cancel_one(one)
            elif how == "continue":
                self.continue_one(by, lost)
            elif how == "auto_retry":
                self.auto_retry(self.index_of(by), False, lost)
            else:
                self.end(by, how, lost)

    def begin_step(self, index: int, key: str, semaphore: str) -> None:
        if key in CHILD_STEPS:
            for _ in range(0, CHILD_STEPS[key] or 1, CHUNK):
                self.spawn(index, key, semaphore, False)
        elif key in DELAYS + EVENTS:
            self.wait(index, key, False, False)
        elif key in STEPS:
            self.journal(index, key, b"", False)
        elif "call" in key:
            self.back_off(index, key, False)
        else:
            self.suspend(index, key, FAR, False)

    @precondition(lambda self: self.undelivered())
    @rule(
        consumer=consumers,
        keys=st.tuples(child_steps, child_steps),
        how=st.sampled_from(("failed", "park")),
        ends=st.lists(st.sampled_from(("completed", "failed", "cancelled")), max_size=3),
    )
    def generations(self, consumer: str, keys: tuple[str, str], how: str, ends: list[str]) -> None:
        """A parent parks or fails while its children, which leave children of their own, run; then it is
        cancelled or retried."""
        self.activate(consumer, [keys[0]], "", how, False)
        parent = self.model.executions[self.latest]
        for end in ends:
            if self.undelivered():
                self.activate(consumer, [keys[1]], "", end, False)
        if parent.status == "failed":
            self.rerun(parent)
        elif not parent.finished and len(ends) > 1:
            self.cancel_one(parent)

    # --- trouble ------------------------------------------------------------------------

    @precondition(lambda self: any(self.model.doomed(one) for one in self.model.unfinished()))
    @rule(limit=st.sampled_from((1, 2, 100)))
    def cascade(self, limit: int) -> None:
        """Cancel the descendants of ended executions: a generation, or all of them in several passes."""
        self.fire(limit)
        for _ in range(100):
            if limit == 100 or not self.cascades():
                return
            self.the_state_equals_the_models()  # the order is arbitrary, but all are reached
            self.fire(limit)
        raise AssertionError("the descendants never end")

    # --- checks after every step ----------------------------------------------------------

    def check_execution(self, one: Execution, state: Partition) -> None:
        super().check_execution(one, state)
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
            waiting = state.waiters.get(one.semaphore.encode(), {})
            assert [one.decode() for one in sorted(waiting, key=waiting.__getitem__)] == semaphore.waiters
            holding = state.slots.get(one.semaphore.encode(), {}).keys() - waiting.keys()
            assert {one.decode() for one in holding} == semaphore.holders and len(holding) <= semaphore.limit


def result(packed: bytes) -> str:
    """A child's outcome in its parent's journal."""
    status: bytes = msgpack.unpackb(packed, raw=True)[1]
    return status.decode()


def semaphore_options(semaphore: str) -> dict[str, Any]:
    return {"semaphore": semaphore, "limit": LIMITS[semaphore], "near": True} if semaphore else {}


@pytest.mark.timeout(7200 if DEEP else 300)
def test_no_sequence_of_calls_breaks_the_relations(server: EmbeddedServer, namespace: str) -> None:
    with Desk(server.url, namespace) as desk:
        run(Composition, desk, examples=60, steps=40)
