"""Leaving with or without having seen all answers, and the life of a stuck execution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.journal import SuspensionRecord, parse, result_name
from tests.harness.desk import ALL, FAR, REASON, Activated, Desk, Subscriber, branch
from tests.invariants.state import FINISHED


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


# --- leaving ----------------------------------------------------------------------------

Leave = Callable[[Desk, Activated, int], Any]
LEAVES: dict[str, Leave] = {
    "park": lambda desk, by, seen: desk.park(by, "other", seen=seen),
    "stick": lambda desk, by, seen: desk.stick(by, seen=seen),
    "completed": lambda desk, by, seen: desk.finish(by, seen=seen),
    "pause": lambda desk, by, seen: desk.pause(by, seen=seen),
    "failed": lambda desk, by, seen: desk.finish(by, "failed", seen=seen),
}
ways = pytest.mark.parametrize("way", LEAVES)


def asking(desk: Desk) -> Activated:
    by = desk.start()
    desk.suspend(by, "ok", FAR)
    desk.suspend(by, "other")
    return by


@ways
def test_an_activation_that_has_not_seen_an_answer_does_not_leave(desk: Desk, way: str) -> None:
    by = asking(desk)
    assert desk.answer(by.id, "ok")[0] == b"accepted"
    with desk.unchanged():
        assert LEAVES[way](desk, by, 0) == 3
    assert LEAVES[way](desk, by, 1) == 0
    fields = desk.execution(by.id)
    assert "answers" not in fields or fields["status"] in FINISHED


@ways
def test_an_activation_has_to_see_all_answers(desk: Desk, way: str) -> None:
    by = asking(desk)
    desk.suspend(by, "more")
    desk.answer(by.id, "ok")
    desk.answer(by.id, "more")
    with desk.unchanged():
        assert LEAVES[way](desk, by, 1) == 5
    assert LEAVES[way](desk, by, 2) == 0


def expire(desk: Desk, by: Activated) -> None:
    desk.make_due(f"s{by.id} ok")
    desk.fire()


def record_one_of_two(desk: Desk, by: Activated) -> None:
    desk.suspend(by, "two people", policy=msgpack.packb({"required": 2, "rejections": 1}))
    record = parse(desk.answer(by.id, "two people")[1])
    assert isinstance(record, SuspensionRecord)
    opening = record.opening
    assert desk.answer(by.id, "two people", opening=opening, approves=True)[0] == b"recorded"


def answer_early(desk: Desk, by: Activated) -> None:
    """The reply of `suspend` has the answer, so no notice is needed."""
    desk.answer(by.id, "soon", early=True)
    assert b"answered" in desk.suspend(by, "soon")[1]


def keep_early(desk: Desk, by: Activated) -> None:
    assert desk.answer(by.id, "later", early=True)[0] == b"kept"


def end_a_child(desk: Desk, by: Activated) -> None:
    desk.spawn(by, "kids", 2)
    desk.finish(desk.deliver())


def deliver_an_event(desk: Desk, by: Activated) -> None:
    desk.wait_for_event(by, "it", "news")
    desk.publish("news")


@ways
@pytest.mark.parametrize(
    "happen", [expire, record_one_of_two, answer_early, keep_early, end_a_child, deliver_an_event]
)
def test_only_an_accepted_answer_has_to_be_seen(
    desk: Desk, way: str, happen: Callable[[Desk, Activated], None]
) -> None:
    """Children that end one after the other, say, do not keep their parent from parking."""
    by = asking(desk)
    happen(desk, by)
    assert LEAVES[way](desk, by, 0) == 0


def test_a_park_whose_wait_is_decided_returns_it_though_an_answer_was_not_seen(desk: Desk) -> None:
    by = asking(desk)
    desk.answer(by.id, "ok")
    with desk.unchanged():
        assert desk.park(by, "other", "ok", seen=0)[1] == b"ok"


def test_a_park_that_is_refused_closes_nothing(desk: Desk) -> None:
    by = asking(desk)
    desk.suspend(by, "given up")
    desk.answer(by.id, "ok")
    with desk.unchanged():
        assert desk.park(by, "other", given_up=["given up"], seen=0) == 4
    assert desk.park(by, "other", given_up=["given up"], seen=1) == 0
    assert desk.record(by.id, "given up")[2] == b"closed"


def test_the_notice_of_an_answer_has_its_number_and_other_notices_have_none(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w1") as w1:
        by = desk.start()
        by.owner = "w1:abc"
        for key in ("ok", "other", "more"):
            desk.suspend(by, key, FAR)
        desk.answer(by.id, "more")
        expire(desk, by)
        desk.answer(by.id, "other")
        notices = w1.received(3)
    assert [notice[4:] for notice in notices] == [[1], [], [2]]


def test_loading_returns_the_number_of_answers_that_the_journal_has(desk: Desk) -> None:
    """An entry that is delivered again, to a worker that has heard of none of them."""
    by = asking(desk)
    desk.answer(by.id, "ok")
    desk.requeue("w1", by.entry)
    later = desk.deliver()
    assert desk.run("load", later.id, later.entry, later.owner)[5] == b"1"
    later.known = by.known
    with desk.unchanged():
        assert desk.finish(later, seen=0) == 3
    assert desk.finish(later, seen=1) == 0


@pytest.mark.parametrize("way", ["stick", "completed", "failed"])
def test_an_answer_before_the_first_write_has_to_be_seen(desk: Desk, way: str) -> None:
    """Nobody is notified of it: an activation that has loaded nothing is not the owner yet."""
    by = asking(desk)
    assert desk.park(by, "ok", "other") == 0
    desk.answer(by.id, "ok")
    later = desk.deliver()
    desk.answer(by.id, "other")
    with desk.unchanged():
        assert LEAVES[way](desk, later, 0) == 4
    assert LEAVES[way](desk, later, 1) == 0


@pytest.mark.parametrize("way", ["park", "stick"])
def test_what_held_it_back_is_over(desk: Desk, way: str) -> None:
    by = asking(desk)
    assert desk.run("put_back", "default", by.id, by.entry, FAR, "its state can't be read") == 1
    desk.make_due("p" + by.id)
    desk.fire()
    later = desk.deliver()
    assert "held_back" in desk.execution(by.id)
    assert LEAVES[way](desk, later, 0) == 0
    assert "held_back" not in desk.execution(by.id)


def test_an_answer_that_wakes_a_parked_execution_comes_with_its_entry(desk: Desk) -> None:
    """No look is needed: the usual path of an answer costs no round trip."""
    by = asking(desk)
    assert desk.park(by, "ok", "other", seen=0) == 0
    desk.answer(by.id, "ok")
    later = desk.deliver()
    assert "answers" not in desk.execution(by.id)
    assert desk.finish(later, seen=0) == 0


@pytest.mark.parametrize("how", ["auto_retry", "retry"])
def test_a_new_run_has_seen_what_its_journal_has(desk: Desk, how: str) -> None:
    by = asking(desk)
    desk.answer(by.id, "ok")
    if how == "auto_retry":
        assert desk.auto_retry(by) == 2
    else:
        desk.finish(by, "failed")
        assert desk.retry(by.id) == [b"retried", 2]
    assert "answers" not in desk.execution(by.id)
    assert desk.finish(desk.deliver(), seen=0) == 0


# --- becoming stuck ---------------------------------------------------------------------


def test_stick_ends_the_activation_and_keeps_everything_else(desk: Desk) -> None:
    by = asking(desk)
    desk.run("watch_execution", by.id, "me")
    desk.requeue("w1", by.entry, lost=True)
    by = desk.deliver()
    desk.run("load", by.id, by.entry, by.owner)
    journal, timers, inbox = desk.state.journals, desk.state.timers, desk.state.suspensions
    before = desk.execution(by.id)
    assert desk.stick(by, state=b"\x07") == 0
    fields = desk.execution(by.id)
    gone = {"entry", "owner", "attempts", "progress"}
    assert fields == {name: value for name, value in before.items() if name not in gone} | {
        "status": b"stuck",
        "stuck": REASON,
        "state": b"\x07",
    }
    state = desk.state
    assert not state.queues[b"default"].entries and not state.queues[b"default"].pending
    row = {by.id.encode(): float(fields["created"])}
    assert state.index == {(b"all", b"wf"): row, (b"stuck", b"wf"): row}
    assert (state.journals, state.timers, state.suspensions) == (journal, timers, inbox)
    assert all(ttl == -1 for name, ttl in state.ttl.items() if by.id in name)
    assert state.topics[by.id.encode()][-1][1] == [b"workflow_stuck", REASON]
    assert desk.run("watch_execution", by.id, "me") == [b"stuck"]


def test_the_state_stays_where_the_workflow_has_none(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    assert desk.stick(by) == 0
    assert "state" not in desk.execution(by.id)


def test_a_stuck_child_says_so_on_its_roots_topic(desk: Desk) -> None:
    child = desk.child(desk.start())
    assert desk.stick(child) == 0
    root = child.id.partition(".")[0]
    assert desk.events(root)[-1] == f"workflow_stuck\0{child.id}".encode()


def test_a_stuck_execution_gives_its_slot_away(desk: Desk) -> None:
    options: dict[str, Any] = {"semaphore": "narrow", "limit": 1, "near": True}
    by, waits = desk.start(**options), desk.invoke(**options)
    assert desk.state.waiters[b"narrow"].keys() == {waits.encode()}
    assert desk.stick(by) == 0
    assert desk.state.slots[b"narrow"].keys() == {waits.encode()} and not desk.state.waiters
    assert desk.retry(by.id) == [b"retried", 2]
    assert desk.state.waiters[b"narrow"].keys() == {by.id.encode()}, "it waits for one again"
    desk.finish(desk.deliver())
    assert desk.deliver().id == by.id


def test_a_stuck_execution_gives_a_slot_in_another_partition_away_by_an_errand(desk: Desk) -> None:
    desk.do("HSET", keys.META, "partitions", 2)
    elsewhere = next(name for name in map(str, itertools.count()) if keys.partition_of(name, 2) == 1)
    one = desk.invoke(semaphore=elsewhere, limit=1, near=False)
    assert desk.run("grant_slot", one, 1) == 1
    desk.do("ZREM", keys.ERRANDS, "l" + one)
    assert desk.stick(desk.deliver()) == 0
    assert ("l" + one).encode() in desk.state.errands


# --- being stuck ------------------------------------------------------------------------


def stuck_at_everything(desk: Desk) -> tuple[Activated, Activated]:
    """A stuck execution with every kind of open wait, and its child."""
    by = desk.start(timeout=FAR)
    desk.suspend(by, "ok")
    desk.suspend(by, "late", FAR)
    desk.backoff(by, "b")
    desk.wait(by, "nap", FAR)
    desk.wait_for_event(by, "it", "news")
    child = desk.child(by)
    assert desk.stick(by) == 0
    return by, child


def answer_it(desk: Desk, by: Activated, child: Activated) -> tuple[str, bytes]:
    assert desk.answer(by.id, "ok")[0] == b"accepted"
    assert desk.answer(by.id, "ok")[0] == b"same"
    assert desk.answer(by.id, "ok", b"\xc2", "d2")[0] == b"other"
    return "ok", b"answered"


def time_it_out(desk: Desk, by: Activated, child: Activated) -> tuple[str, bytes]:
    desk.make_due(f"s{by.id} late")
    desk.fire()
    return "late", b"expired"


def end_its_backoff(desk: Desk, by: Activated, child: Activated) -> tuple[str, bytes]:
    desk.make_due(f"b{by.id} b")
    desk.fire()
    return "b", b"retry"


def end_its_delay(desk: Desk, by: Activated, child: Activated) -> tuple[str, bytes]:
    desk.make_due(f"w{by.id} nap")
    desk.fire()
    return "nap", b"over"


def publish_it(desk: Desk, by: Activated, child: Activated) -> tuple[str, bytes]:
    desk.publish("news")
    return "it", b"event"


def publish_it_elsewhere(desk: Desk, by: Activated, child: Activated) -> tuple[str, bytes]:
    subscriber = desk.record(by.id, "it")[6]
    assert desk.run("deliver_event", subscriber, "1-1", "e", b"\x01") == 1
    desk.do("HDEL", keys.SUBS + "news", subscriber)  # by whoever has delivered it
    return "it", b"event"


def end_its_child(desk: Desk, by: Activated, child: Activated) -> tuple[str, bytes]:
    assert desk.finish(child) == 0
    assert result_name(child.id) in desk.state.journals[by.id.encode()]
    return "kid", b"done"


@pytest.mark.parametrize(
    "decide",
    [
        *(answer_it, time_it_out, end_its_backoff, end_its_delay),
        *(publish_it, publish_it_elsewhere, end_its_child),
    ],
)
def test_decisions_are_journaled_without_waking_it(
    desk: Desk, decide: Callable[[Desk, Activated, Activated], tuple[str, bytes]]
) -> None:
    by, child = stuck_at_everything(desk)
    desk.check()
    before = desk.execution(by.id)
    key, status = decide(desk, by, child)
    assert desk.record(by.id, key)[2] == status
    after = desk.execution(by.id)
    assert {**after, "waits": b""} == {**before, "waits": b""}
    entries = desk.state.queues[b"default"].entries
    assert all(fields[b"id"] != by.id.encode() for fields in entries.values())
    desk.check()


def test_a_race_is_decided_while_it_is_stuck(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "one", race=branch("race", "one", "one"))
    desk.wait(by, "two", FAR, race=branch("race", "two", "two"))
    assert desk.stick(by) == 0
    desk.answer(by.id, "one")
    assert [desk.record(by.id, key)[2] for key in ("one", "two", "race")] == [b"answered", b"closed", b"won"]
    assert desk.execution(by.id)["status"] == b"stuck"


def test_an_early_answer_is_kept_while_it_is_stuck(desk: Desk) -> None:
    one = desk.stuck()
    assert desk.answer(one, "later", early=True)[0] == b"kept"


def test_its_suspensions_are_in_the_inbox(desk: Desk) -> None:
    one = desk.stuck()
    for workflow in ("", "wf"):
        rows = desk.run("list_suspensions", "-inf", 9, workflow, 1000, 1 << 20)[1]
        assert [row[0] for row in rows] == [one.encode()]


def test_its_suspensions_are_in_the_inbox_of_a_workflow_beyond_the_most(desk: Desk) -> None:
    """Those share the index without a name."""
    desk.do("ZADD", keys.WORKFLOWS, *(word for number in range(1000) for word in (FAR, f"w{number}")))
    one = desk.stuck()
    assert desk.state.index[b"stuck", b""].keys() == {one.encode()}
    assert len(desk.run("list_suspensions", "-inf", 9, "wf", 1000, 1 << 20)[1]) == 1


def test_cancel_ends_it(desk: Desk) -> None:
    by, child = stuck_at_everything(desk)
    assert desk.cancel(by.id) == [b"cancelled"]
    fields = desk.execution(by.id)
    assert fields["status"] == b"cancelled"
    assert [desk.record(by.id, key)[2] for key in ("ok", "late", "nap", "it", "kid")] == [b"closed"] * 5
    assert desk.execution(child.id)["status"] == b"cancelled"
    assert desk.events(by.id)[-1].startswith(b"workflow_finish")
    assert desk.answer(by.id, "ok") == [b"closed", b"cancelled"]


def test_its_run_timeout_ends_it(desk: Desk) -> None:
    by, _ = stuck_at_everything(desk)
    desk.make_due("t" + by.id)
    desk.fire()
    fields = desk.execution(by.id)
    assert fields["status"] == b"failed" and b"WorkflowTimeoutError" in fields["error"]


def test_it_ends_with_its_parent(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by)
    assert desk.stick(child) == 0
    assert desk.park(by, "kid") == 0
    assert desk.cancel(by.id) == [b"cancelled"]
    assert desk.execution(child.id)["status"] == b"cancelled"


def test_it_is_not_deleted(desk: Desk) -> None:
    one = desk.stuck()
    with desk.unchanged():
        assert desk.run("delete_execution", one) == [b"status", b"stuck"]


def test_a_parent_that_runs_again_finds_its_stuck_child(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by)
    assert desk.stick(child) == 0
    assert desk.auto_retry(by) == 2
    desk.spawn(desk.deliver(), "kid")
    assert desk.execution(child.id)["status"] == b"stuck"


def test_its_workflow_stays_listed(desk: Desk) -> None:
    """Its last other execution is forgotten."""
    by, done = desk.start(), desk.finished()
    assert desk.stick(by) == 0
    desk.retention_ends(done)
    assert desk.fire()[1] == 1
    assert desk.state.workflows.keys() == {b"wf"}
    assert desk.run("namespace_stats", 1, "wf")[8] == [[0, 0, 1, 0, 0, 0]]


# --- retry ------------------------------------------------------------------------------


def test_retry_queues_it_again_with_its_journal_untouched(desk: Desk) -> None:
    by, _ = stuck_at_everything(desk)
    desk.answer(by.id, "ok")
    before, fields = desk.state, desk.execution(by.id)
    assert desk.retry(by.id) == [b"retried", 2]
    after = desk.execution(by.id)
    entry = after.pop("entry")
    del fields["stuck"]
    assert after == fields | {"status": b"queued", "run": b"2"}
    state = desk.state
    same = ("journals", "timers", "suspensions", "subs", "children", "audit")
    assert [getattr(state, name) for name in same] == [getattr(before, name) for name in same]
    assert state.queues[b"default"].entries[entry][b"run"] == b"2"
    assert by.id.encode() in state.index[b"all", b"wf"] and (b"stuck", b"wf") not in state.index
    kind, data = state.topics[by.id.encode()][-1][1]
    assert kind == b"workflow_retry" and msgpack.unpackb(data) == {"run": 2, "delay_ms": 0}
    assert desk.park(desk.deliver(), "late", seen=0) == 0


def test_retry_and_cancel_name_the_run_they_saw(desk: Desk) -> None:
    one = desk.stuck()
    assert desk.retry(one) == [b"retried", 2]
    assert desk.stick(desk.deliver()) == 0
    with desk.unchanged():
        assert desk.retry(one, 1) == [b"run", b"2"], "a late duplicate"
        assert desk.cancel(one, 1) == [b"run", b"2"]
        assert desk.retry(one, 2, 7) == [b"missing"], "another execution of this id"
    assert desk.retry(one, 2) == [b"retried", 3]


def test_what_is_done_is_not_done_again(desk: Desk) -> None:
    """Unlike the retry of a failed execution, which drops what has failed or timed out."""
    by = desk.start()
    desk.write(by, "a", b"\x97\x01\xa4step\xa6failed\x01\x01\xa1v")
    desk.suspend(by, "late", FAR)
    desk.make_due(f"s{by.id} late")
    desk.fire()
    assert desk.stick(by, seen=ALL) == 0
    assert desk.retry(by.id) == [b"retried", 2]
    assert [desk.record(by.id, key)[2] for key in ("a", "late")] == [b"failed", b"expired"]
