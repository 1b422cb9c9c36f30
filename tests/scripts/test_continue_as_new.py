"""continue_as_new: the next run of an execution, with another input and an empty journal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.journal import result_name
from tests.harness.desk import ALL, FAR, RETENTION, Activated, Desk, Subscriber, branch, packed, step
from tests.invariants.state import relations_of

PINNED = keys.reserved_stream("default", "wf", "2")


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def worked(desk: Desk, **options: Any) -> Activated:
    """An activation with a step, a decided suspension, a decided race and a child that has ended."""
    by = desk.start(**options)
    desk.write(by, "a", step(b"\x07"))
    desk.note_progress(by, "b")
    desk.suspend(by, "ok", FAR)
    desk.answer(by.id, "ok")
    desk.suspend(by, "race ask", race=branch("race", "race ask", "race ask"))
    desk.answer(by.id, "race ask")
    desk.finish(desk.child(by))
    by.known = int(desk.do("HGET", keys.JOURNAL + by.id, ""))
    return by


@pytest.mark.failure(55)
@pytest.mark.promise("continue as new")
def test_the_next_run_begins_with_an_empty_journal(desk: Desk) -> None:
    by = worked(desk, timeout=FAR, origin=b"\x80", queue="slow")
    desk.answer(by.id, "later", early=True)
    desk.run("watch_execution", by.id, "me")
    before, state = desk.execution(by.id), desk.state
    assert desk.continue_as_new(by, b"next", origin=b"\x81o", state=b"s") == 0
    fields = desk.execution(by.id)
    entry = fields.pop("entry")
    assert entry != by.entry
    relations = fields.pop("relations")
    assert (
        relations_of({b"relations": relations}).deadline
        == relations_of({b"relations": before["relations"]}).deadline
    )
    same = ("workflow", "queue", "created", "retention", "stream", "notify", "early")
    new = {
        "status": b"queued",
        "run": b"2",
        "since": b"2",
        "input": b"next",
        "origin": b"\x81o",
        "state": b"s",
    }
    assert fields == {name: before[name] for name in same} | new
    after = desk.state
    assert by.id.encode() not in after.journals
    carried = {b"input": b"next", b"origin": b"\x81o"}
    assert after.queues[b"slow"].entries == {
        entry: {b"id": by.id.encode(), b"workflow": b"wf", b"run": b"2", **carried}
    }
    assert after.timers == state.timers, "its deadline stays"
    assert after.early == state.early
    assert after.audit == state.audit
    assert after.index == state.index
    desk.check()


def test_its_stream_goes_on_and_says_so(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    assert desk.continue_as_new(by) == 0
    again = desk.deliver()
    assert desk.write(again, "a") == 1
    desk.finish(again)
    ((_, (kind, data)),) = [one for one in desk.state.topics[by.id.encode()] if b"continue" in one[1][0]]
    assert kind == b"workflow_continue" and msgpack.unpackb(data) == {"run": 2}
    run = [b"workflow_start", b"step_start", b"step_finish"]
    assert desk.events(by.id) == [*run, b"workflow_continue", *run, b"workflow_finish"]


def test_what_its_activation_has_not_told_yet_comes_before(desk: Desk) -> None:
    by = desk.start()
    assert desk.continue_as_new(by, events=("workflow_start", b"\x80")) == 0
    assert desk.events(by.id) == [b"workflow_start", b"workflow_continue"]


def test_events_that_are_older_than_the_retention_go(desk: Desk) -> None:
    by = desk.start(retention=RETENTION)
    topic = keys.TOPIC + by.id
    desk.run("follow", by.id, 60_000)
    for number in range(500):
        desk.do("XADD", topic, f"{1000 + number}-0", "old", b"\x80" * 100)
    assert desk.continue_as_new(by) == 0
    kinds = desk.events(by.id)
    assert kinds.count(b"old") < 250, "whole nodes of the stream are dropped"
    assert kinds[-1] == b"workflow_continue"


def test_a_retention_that_began_before_1970_drops_nothing(desk: Desk) -> None:
    by = desk.start(retention=10**13)
    assert desk.continue_as_new(by) == 0
    assert desk.events(by.id)[-1] == b"workflow_continue"


def test_a_child_leaves_its_roots_stream_alone(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by)
    assert desk.park(by, "kid") == 0
    desk.suspend(child, "ok")
    desk.answer(child.id, "ok")
    before = desk.events(by.id)
    assert desk.state.below
    assert desk.continue_as_new(child) == 0
    assert desk.events(by.id) == [*before, f"workflow_continue\0{child.id}".encode()]
    assert not desk.state.below, "a second answer does not find its suspension"
    again = desk.deliver()
    assert again.id == child.id
    assert desk.finish(again) == 0
    assert desk.record(by.id, "kid")[2] == b"done", "its parent has waited for its last run"
    assert desk.deliver().id == by.id


def test_topics_of_its_suspensions_expire(desk: Desk) -> None:
    by = worked(desk)
    topic = keys.TOPIC + f"ok/{by.id}"
    assert desk.state.ttl[topic] == -1
    desk.continue_as_new(by)
    assert 0 < desk.state.ttl[topic] <= RETENTION
    again = desk.deliver()
    desk.suspend(again, "ok")
    assert desk.state.ttl[topic] == -1, "it is open again"
    assert desk.events(f"ok/{by.id}") == [b"suspend", b"resume", b"suspend"]
    assert desk.answer(by.id, "ok", digest="d2")[0] == b"accepted"


# --- refusals ----------------------------------------------------------------------------


OPEN: dict[str, Callable[[Desk, Activated], Any]] = {
    "suspension": lambda desk, by: desk.suspend(by, "it", FAR),
    "delay": lambda desk, by: desk.wait(by, "it", FAR),
    "event": lambda desk, by: desk.wait_for_event(by, "it", "news"),
    "retry": lambda desk, by: desk.backoff(by, "it"),
    "children": lambda desk, by: desk.spawn(by, "it", 2),
    "race": lambda desk, by: desk.suspend(by, "it", race=branch("other", "it", "it")),
}


@pytest.mark.parametrize("what", OPEN)
def test_an_open_wait_is_named_and_nothing_changes(desk: Desk, what: str) -> None:
    by = worked(desk)
    OPEN[what](desk, by)
    with desk.unchanged():
        assert desk.continue_as_new(by) == [b"it"]


def test_all_open_waits_are_named(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "one")
    desk.wait(by, "two", FAR)
    with desk.unchanged():
        assert desk.continue_as_new(by) == [b"one", b"two"]


def test_an_answer_that_it_has_not_seen_is_read_first(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    desk.answer(by.id, "ok")
    with desk.unchanged():
        assert desk.continue_as_new(by, seen=0) == 2
    assert desk.continue_as_new(by, seen=1) == 0


@pytest.mark.failure(16)
def test_only_its_activation_may(desk: Desk) -> None:
    by = worked(desk)
    other = Activated(by.id, by.entry, "w2:7")
    ahead = Activated(by.id, by.entry, by.owner)
    ahead.known = by.known + 1
    with desk.unchanged():
        assert desk.continue_as_new(other) == -1
        assert desk.continue_as_new(ahead) == -2
    assert desk.continue_as_new(by) == 0
    with desk.unchanged():
        assert desk.continue_as_new(by) == -1, "once"


# --- what comes late -----------------------------------------------------------------------


@pytest.mark.failure(2, 16)
def test_writes_of_the_earlier_run_change_nothing(desk: Desk) -> None:
    by = worked(desk)
    desk.continue_as_new(by)
    with desk.unchanged():
        assert desk.write(by, "b") == -1
        assert desk.suspend(by, "more") == -1
        assert desk.park(by, "ok") == -1
        assert desk.finish(by) == -1
        assert desk.run("load", by.id, by.entry, by.owner) is None
        assert desk.cancel(by.id, 1)[0] == b"run"
        assert desk.retry(by.id, 1)[0] == b"run"
        assert desk.answer(by.id, "ok")[0] == b"unknown"


def test_an_answer_comes_before_or_after_it_and_never_in_between(desk: Desk) -> None:
    """In each order of an answer, an early answer, a cancel and the next run, one of each decides."""
    calls: dict[str, Callable[[Activated], Any]] = {
        "continue": lambda by: desk.continue_as_new(by, seen=0),
        "answer": lambda by: desk.answer(by.id, "ok")[0],
        "early": lambda by: desk.answer(by.id, "later", early=True)[0],
        "cancel": lambda by: desk.cancel(by.id, 1)[0],
    }
    for order in itertools.permutations(calls):
        by = desk.start()
        desk.suspend(by, "ok")
        replies = {name: calls[name](by) for name in order}
        before = order[: order.index("continue")]
        if "cancel" in before:
            assert replies["continue"] == -1
        elif "answer" in before:
            assert replies["continue"] > 0, "it has to look first"
        else:
            assert replies["continue"] == [b"ok"]
        assert replies["cancel"] == b"cancelled"
        desk.check()


def test_an_early_answer_is_for_the_run_that_asks(desk: Desk) -> None:
    by = desk.start()
    assert desk.answer(by.id, "ok", early=True)[0] == b"kept"
    desk.continue_as_new(by)
    again = desk.deliver()
    desk.suspend(again, "ok")
    assert desk.record(by.id, "ok")[2] == b"answered"
    assert desk.state.early == {}


@pytest.mark.parametrize("status", ["started", "open"])
def test_a_child_of_an_earlier_run_is_none_of_the_next(desk: Desk, status: str) -> None:
    """Its end does not count for a step of the same key, whose child has another id."""
    by = desk.start()
    if status == "started":
        first = desk.child(by, status="started")
    else:
        desk.spawn(by, "kid", race=branch("race", "kid", "kid"))  # a race closes it
        first = desk.deliver()
        desk.suspend(by, "ask", race=branch("race", "ask", "ask"))
        desk.answer(by.id, "ask")
        by.known = int(desk.do("HGET", keys.JOURNAL + by.id, ""))
    assert desk.continue_as_new(by) == 0
    again = desk.deliver()
    second = desk.child(again)
    assert second.id != first.id
    assert desk.park(again, "kid") == 0
    assert desk.finish(first) == 0
    assert desk.record(by.id, "kid")[2] == b"open"
    assert result_name(first.id) not in desk.state.journals[by.id.encode()]
    desk.check()
    assert desk.finish(second) == 0
    assert desk.record(by.id, "kid")[2] == b"done"


def test_children_that_nobody_waits_for_end_with_a_cancelled_execution(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "stray", status="started")
    assert desk.continue_as_new(by) == 0
    assert desk.cancel(by.id, 2) == [b"cancelled"]
    desk.fire()
    assert {one[b"status"] for one in desk.state.executions.values()} == {b"cancelled"}


def test_its_deadline_ends_the_next_run(desk: Desk) -> None:
    by = desk.start(timeout=FAR)
    assert desk.continue_as_new(by) == 0
    desk.make_due(f"t{by.id}")
    desk.fire()
    assert desk.execution(by.id)["status"] == b"failed"


def test_who_awaits_its_result_is_notified_of_the_last_run(desk: Desk) -> None:
    by = desk.start()
    desk.run("watch_execution", by.id, "me")
    with Subscriber(desk.url, desk.prefix, "me") as me:
        desk.continue_as_new(by)
        me.received(0)
        desk.finish(desk.deliver())
        ((what, execution_id, status, *_),) = me.received(1)
    assert (what, execution_id, status) == (b"done", by.id.encode(), b"completed")


# --- queues, slots, versions ---------------------------------------------------------------


def test_its_slot_goes_to_the_first_waiter(desk: Desk) -> None:
    narrow: dict[str, Any] = {"queue": "narrow", "semaphore": "narrow", "limit": 1, "near": True}
    by = desk.start(**narrow)
    waiting = desk.invoke(**narrow)
    assert desk.continue_as_new(by) == 0
    desk.check()
    other = desk.deliver(queue="narrow")
    assert other.id == waiting
    assert not desk.read_entries("w1", "narrow")
    desk.finish(other)
    assert desk.deliver(queue="narrow").id == by.id


def test_the_next_run_brings_the_version_of_its_code(desk: Desk) -> None:
    by = desk.start()
    desk.load(by, "1")
    assert desk.continue_as_new(by) == 0
    assert "version" not in desk.execution(by.id)
    assert desk.state.versions == set()
    again = desk.deliver()
    desk.load(again, "2")
    assert desk.execution(by.id)["version"] == b"2"


def test_one_that_is_pinned_is_pinned_anew(desk: Desk) -> None:
    by = desk.start()
    assert desk.run("reserve", "default", by.id, by.entry, PINNED, "2") == 1
    by = desk.deliver(queue=PINNED)
    desk.write(by, "a")
    assert desk.continue_as_new(by) == 0
    again = desk.deliver()
    assert again.id == by.id
    newer = keys.reserved_stream("default", "wf", "3")
    assert desk.run("reserve", "default", by.id, again.entry, newer, "3") == 1
    assert desk.deliver(queue=newer).id == by.id
    desk.check()


def test_one_that_only_some_workers_know_stays_with_them(desk: Desk) -> None:
    known = keys.reserved_stream("default", "wf")
    by = desk.start()
    assert desk.run("reserve", "default", by.id, by.entry, known) == 1
    assert desk.continue_as_new(desk.deliver(queue=known)) == 0
    assert desk.deliver(queue=known).id == by.id


# --- trouble ---------------------------------------------------------------------------------


def test_its_losses_and_retries_are_counted_from_zero(desk: Desk) -> None:
    by = desk.start()
    assert desk.auto_retry(by) == 2
    by = desk.deliver()
    desk.requeue("w1", by.entry, lost=True)
    by = desk.deliver()
    desk.do("HSET", keys.EXEC + by.id, "heartbeats", packed([[1, "a", 1, b"\x01", 0]]))
    of_this_run = {"retried", "attempts", "last_error", "heartbeats"}
    assert of_this_run <= desk.execution(by.id).keys()
    assert desk.continue_as_new(by) == 0
    assert not {*of_this_run, "progress"} & desk.execution(by.id).keys()


def test_nothing_that_was_noted_of_the_earlier_runs_stays(desk: Desk) -> None:
    by = desk.start()
    desk.load(by, "1")
    assert desk.auto_retry(by) == 2
    by = desk.deliver()
    assert desk.run("put_back", "default", by.id, by.entry, FAR, "why") == 1
    desk.make_due("p" + by.id)
    desk.fire()
    by = desk.deliver()
    assert desk.requeue("w1", by.entry, lost=True) == [1, 0, 0]
    by = desk.deliver()
    desk.wait(by, "nap", 1)
    desk.make_due(f"w{by.id} nap")
    desk.fire()
    desk.suspend(by, "ok")
    desk.answer(by.id, "ok")
    desk.note_starts(by, "b")
    desk.note_progress(by, "b")
    desk.do("HSET", keys.EXEC + by.id, "unreached", "x", "unreached_waits", "x")  # the code's last words
    noted = (
        *("retried", "last_error", "held_back", "attempts", "progress", "answers", "version", "started"),
        *("waits", "owner", "running", "heartbeats", "unreached", "unreached_waits"),
    )
    assert desk.execution(by.id).keys() >= set(noted)
    assert desk.continue_as_new(by) == 0
    assert desk.execution(by.id).keys().isdisjoint(noted)


def test_a_retry_goes_on_from_the_next_runs_journal(desk: Desk) -> None:
    by = worked(desk)
    desk.continue_as_new(by)
    again = desk.deliver()
    desk.write(again, "b")
    desk.finish(again, "failed", packed([1, "E", "no", ""]))
    assert desk.retry(by.id, 2) == [b"retried", 3]
    assert desk.state.journals[by.id.encode()].keys() == {b"", b"b"}
    fields = desk.execution(by.id)
    assert (fields["run"], fields["since"], fields["input"]) == (b"3", b"2", b"next")


def test_a_large_input_is_loaded(desk: Desk) -> None:
    by = desk.start()
    large = b"x" * 5000
    assert desk.continue_as_new(by, large) == 0
    again = desk.deliver()
    assert desk.run("load", by.id, again.entry, again.owner)[0] == large


def test_it_may_continue_any_number_of_times(desk: Desk) -> None:
    by = desk.start()
    size = 0
    for run in range(2, 30):
        desk.write(by, "a")
        assert desk.continue_as_new(by, b"%d" % run, seen=ALL) == 0
        by = desk.deliver()
        fields = desk.execution(by.id)
        fields.pop("entry")
        if run > 10:
            assert size in (0, len(packed(fields)))
            size = len(packed(fields))
    assert desk.finish(by) == 0
    desk.check()
