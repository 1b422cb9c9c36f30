"""spawn, and how the end of a parent or a child affects the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.journal import result_name
from tests.harness.desk import FAR, RETENTION, Activated, Desk, Subscriber, packed
from tests.invariants.state import relations_of


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def child_id(by: Activated, key: str = "kids", index: int = 0) -> str:
    return keys.child_id(by.id, key, index)


def parent_of(desk: Desk, count: int, **options: Any) -> tuple[Activated, list[Activated]]:
    """A parked parent waiting for its children at "kids", and their activations."""
    by = desk.start()
    desk.spawn(by, "kids", count, **options)
    assert desk.park(by, "kids") == 0
    return by, [desk.deliver(f"w{n}") for n in range(count)]


def result(desk: Desk, by: Activated, key: str = "kids", index: int = 0) -> list[Any] | None:
    """A child's outcome in its parent's journal: status, value, step key."""
    held = desk.state.journals[by.id.encode()].get(result_name(child_id(by, key, index)))
    if held is None:
        return None
    items: list[Any]
    version, *items = msgpack.unpackb(held, raw=True)
    assert version == 1
    return items[:3]


def left(desk: Desk, by: Activated, key: str = "kids") -> int:
    """Results the step still waits for."""
    found: int = desk.record(by.id, key)[5]
    return found


def status(desk: Desk, execution_id: str) -> bytes:
    return desk.execution(execution_id)["status"]


def fail(desk: Desk, by: Activated) -> None:
    assert desk.finish(by, "failed", packed([1, "ValueError", "no", ""])) == 0


def retried(desk: Desk, by: Activated) -> Activated:
    """The activation of a failed parent's next run."""
    assert desk.retry(by.id) == [b"retried", 2]
    next_run = desk.deliver("next")
    assert next_run.id == by.id
    next_run.known = int(desk.state.journals.get(by.id.encode(), {}).get(b"", b"0"))
    return next_run


# --- spawn ------------------------------------------------------------------------------


def test_spawn_starts_children_and_opens_a_wait(desk: Desk) -> None:
    by = desk.start(workflow="parent")
    before = desk.now()
    changes, record = desk.spawn(
        by, "kids", 2, workflow="kid", events=("workflow_start", b"\x80"), origin=b"\x81"
    )
    first, second = child_id(by), child_id(by, index=1)
    assert changes == 1
    version, kind, is_, opened, *rest = msgpack.unpackb(record, raw=True)
    assert (version, kind, is_, rest) == (1, b"child", b"open", [2, 2, 2, 0, b""])
    assert before <= opened <= desk.now() and desk.record(by.id, "kids") == msgpack.unpackb(record, raw=True)
    state = desk.state
    assert state.children == {by.id.encode(): {first.encode(), second.encode()}}
    assert state.topics == {
        by.id.encode(): [(state.topics[by.id.encode()][0][0], [b"workflow_start", b"\x80"])]
    }
    assert msgpack.unpackb(desk.execution(by.id)["waits"]) == ["kids"]
    assert relations_of(state.executions[by.id.encode()]).kids is True
    created = []
    for index, one in enumerate((first, second)):
        fields = state.executions[one.encode()]
        relations = relations_of(fields)
        assert (relations.parent, relations.key, relations.kids) == (by.id.encode(), b"kids", False)
        created.append(int(fields.pop(b"created")))
        entry, _ = fields.pop(b"entry"), fields.pop(b"relations")
        assert fields == {
            b"workflow": b"kid",
            b"status": b"queued",
            b"run": b"1",
            b"input": b"in %d" % index,
            b"retention": str(RETENTION).encode(),
            b"origin": b"\x81",
        }
        carried = {b"input": b"in %d" % index, b"origin": b"\x81"}
        head = {b"id": one.encode(), b"workflow": b"kid", b"run": b"1"}
        assert state.queues[b"default"].entries[entry] == head | carried
    assert before * 1000 <= created[0] == created[1] - 1
    assert b"kid" in state.workflows


@pytest.mark.failure(16)
def test_a_repeated_spawn_changes_nothing_even_when_children_have_ended(desk: Desk) -> None:
    by = desk.start()
    changes, record = desk.spawn(by, "kids", 2)
    with desk.unchanged():
        assert desk.spawn(by, "kids", 2, events=("e", b"\x01")) == [changes, record]
    desk.finish(desk.deliver())
    desk.cancel(child_id(by, index=1))
    with desk.unchanged():
        changes, record = desk.spawn(by, "kids", 2, events=("e", b"\x01"))
    assert changes == 3 and msgpack.unpackb(record, raw=True) == desk.record(by.id, "kids")


@pytest.mark.parametrize("status", ["open", "started"])
def test_a_repeated_spawn_of_no_children_changes_nothing(desk: Desk, status: str) -> None:
    by = desk.start()
    changes, record = desk.spawn(by, "kids", 0, status=status)
    with desk.unchanged():
        assert desk.spawn(by, "kids", 0, status=status, events=("e", b"\x01")) == [changes, record]


def test_spawn_at_the_key_of_a_step_returns_its_record(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    with desk.unchanged():
        _, record = desk.spawn(by, "a")
    assert msgpack.unpackb(record, raw=True) == desk.record(by.id, "a")


def test_children_without_a_waiting_parent_leave_no_wait_and_no_result(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2, status="started")
    assert desk.record(by.id, "kids")[2] == b"started" and "waits" not in desk.execution(by.id)
    with desk.unchanged():
        assert desk.park(by, "kids")[1] == b"kids", "it is not a wait"
    before = desk.record(by.id, "kids")
    one = desk.deliver()
    assert desk.finish(one) == 0
    assert desk.record(by.id, "kids") == before and result(desk, by) is None
    assert desk.state.children == {by.id.encode(): {child_id(by, index=1).encode()}}
    assert desk.finish(by) == 0
    assert status(desk, child_id(by, index=1)) == b"queued", "it has not ended"
    assert desk.fire()[0] == 0
    assert desk.finish(desk.deliver()) == 0
    assert desk.state.children == {}


def test_a_step_starts_many_children_in_chunks(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2, total=3)
    assert desk.record(by.id, "kids")[4:7] == [3, 3, 2]
    for _ in range(2):
        desk.finish(desk.deliver())
    assert left(desk, by) == 1 and desk.record(by.id, "kids")[2] == b"open", "one has yet to start"
    by.known += 2
    desk.spawn(by, "kids", 1, first=2, total=3)
    assert desk.record(by.id, "kids")[4:7] == [3, 1, 3]
    with desk.unchanged():
        desk.spawn(by, "kids", 1, first=2, total=3)
        desk.spawn(by, "kids", 2, total=3)
    desk.finish(desk.deliver())
    assert desk.record(by.id, "kids")[2] == b"done"


# --- the end of a child -----------------------------------------------------------------

End = Callable[[Desk, Activated], object]
ENDS: dict[bytes, tuple[End, bytes]] = {
    b"completed": (lambda desk, by: desk.finish(by, value=b"\xc4\x01\x00"), b"\xc4\x01\x00"),
    b"failed": (lambda desk, by: desk.finish(by, "failed", b"error"), b"error"),
    b"cancelled": (lambda desk, by: desk.cancel(by.id), b"bob"),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_last_result_wakes_a_parked_parent(desk: Desk, how: bytes) -> None:
    by, (first, second) = parent_of(desk, 2)
    end, value = ENDS[how]
    end(desk, first)
    assert result(desk, by) == [how, value, b"kids"] and result(desk, by, index=1) is None
    assert left(desk, by) == 1 and status(desk, by.id) == b"waiting"
    assert desk.state.journals[by.id.encode()][b""] == b"2"
    before = desk.now()
    desk.finish(second, value=b"\x02")
    record = desk.record(by.id, "kids")
    assert record[2] == b"done" and record[5] == 0 and before <= record[7] <= desk.now()
    assert status(desk, by.id) == b"queued" and "waits" not in desk.execution(by.id)
    assert desk.state.children == {}
    entry = desk.state.queues[b"default"].entries[desk.execution(by.id)["entry"]]
    journal = msgpack.unpackb(entry[b"journal"], raw=True)
    assert dict(zip(journal[::2], journal[1::2], strict=True)) == desk.state.journals[by.id.encode()]


def test_the_last_result_reaches_an_active_parent(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w1") as w1:
        by = desk.start()
        by.owner = "w1:abc"
        desk.spawn(by, "kids", 2)
        entry = desk.execution(by.id)["entry"]
        for _ in range(2):
            desk.finish(desk.deliver())
        (notice,) = w1.received(1)
    assert notice[:3] == [b"wake", by.id.encode(), b"kids"]
    assert msgpack.unpackb(notice[3], raw=True) == desk.record(by.id, "kids")
    assert desk.execution(by.id)["entry"] == entry


def test_a_child_that_ends_after_its_parent_completed_notifies_nobody(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 1)
    desk.finish(by)
    assert desk.record(by.id, "kids")[2] == b"closed"
    before = desk.state.journals[by.id.encode()]
    assert desk.finish(desk.deliver()) == 0
    assert desk.state.journals[by.id.encode()] == before and desk.state.children == {}


def test_a_failed_parent_still_collects_results(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2)
    fail(desk, by)
    desk.finish(desk.deliver())
    assert result(desk, by) == [b"completed", b"\x01", b"kids"] and status(desk, by.id) == b"failed"
    assert desk.record(by.id, "kids")[2] == b"closed"
    assert 0 < desk.state.ttl[keys.JOURNAL + by.id] <= RETENTION


# --- a parent's new run -----------------------------------------------------------------


def test_a_new_run_uses_collected_results_at_once(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2)
    desk.finish(desk.deliver())
    fail(desk, by)
    desk.finish(desk.deliver(), value=b"\x02")
    next_run = retried(desk, by)
    assert result(desk, by, index=1) == [b"completed", b"\x02", b"kids"]
    with_children = desk.state.executions
    changes, record = desk.spawn(next_run, "kids", 2)
    assert msgpack.unpackb(record, raw=True)[2] == b"done" and changes == next_run.known
    assert desk.state.executions.keys() == with_children.keys() and desk.state.children == {}
    assert "waits" not in desk.execution(by.id)


def test_a_child_that_completed_without_a_waiting_parent_does_not_start_again(desk: Desk) -> None:
    """It completed before its parent's next run reached the step."""
    by = desk.start()
    desk.spawn(by, "kids", 2)
    one = desk.deliver()
    fail(desk, by)
    (other, next_run) = desk.deliver(), retried(desk, by)
    desk.finish(one, value=b"\x07")
    assert result(desk, by) is None
    desk.spawn(next_run, "kids", 2)
    assert result(desk, by) == [b"completed", b"\x07", b"kids"]
    assert left(desk, by) == 1 and status(desk, one.id) == b"completed"
    assert desk.state.children == {by.id.encode(): {child_id(by, index=1).encode()}}
    desk.finish(other)
    assert desk.record(by.id, "kids")[2] == b"done"


@pytest.mark.parametrize("how", [b"failed", b"cancelled"])
@pytest.mark.parametrize("with_result", [False, True])
def test_a_child_that_did_not_complete_runs_again(desk: Desk, how: bytes, with_result: bool) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2)
    first = desk.deliver()
    if with_result:
        ENDS[how][0](desk, first)
        desk.finish(desk.deliver(), value=b"\x05")
        by.known += 2
        fail(desk, by)
        next_run = retried(desk, by)
        assert result(desk, by) is None and result(desk, by, index=1) == [b"completed", b"\x05", b"kids"]
        assert b"kids" not in desk.state.journals[by.id.encode()], "the step starts over"
    else:
        second = desk.deliver()
        fail(desk, by)
        next_run = retried(desk, by)
        ENDS[how][0](desk, first)
        desk.finish(second)
    desk.spawn(next_run, "kids", 2)
    fields = desk.execution(first.id)
    assert (fields["status"], fields["run"]) == (b"queued", b"2")
    assert left(desk, by) == 1 and desk.record(by.id, "kids")[2] == b"open"
    assert desk.state.children == {by.id.encode(): {first.id.encode()}}
    desk.finish(desk.deliver(), value=b"\x09")
    assert desk.record(by.id, "kids")[2] == b"done" and result(desk, by) == [b"completed", b"\x09", b"kids"]


def test_a_new_run_waits_for_children_still_running(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 1)
    child = desk.deliver()
    fail(desk, by)
    next_run = retried(desk, by)
    before = desk.execution(child.id)
    desk.spawn(next_run, "kids", 1)
    assert desk.execution(child.id) == before and left(desk, by) == 1
    assert desk.park(next_run, "kids") == 0
    desk.finish(child)
    assert status(desk, by.id) == b"queued"


def test_a_result_that_arrives_between_chunks_counts_once(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2)
    kids = [desk.deliver() for _ in range(2)]
    fail(desk, by)
    next_run = retried(desk, by)
    desk.spawn(next_run, "kids", 1, total=2)
    desk.finish(kids[1])
    assert left(desk, by) == 1
    next_run.known += 1
    desk.spawn(next_run, "kids", 1, first=1, total=2)
    assert left(desk, by) == 1, "the first has not ended"
    desk.finish(kids[0])
    assert desk.record(by.id, "kids")[2] == b"done"


# --- a parent that is ended -------------------------------------------------------------


def test_cancel_ends_descendants_by_timers(desk: Desk) -> None:
    by, (first, second) = parent_of(desk, 2)
    grandchild = desk.child(second)
    assert desk.cancel(by.id, by="ann") == [b"cancelled"]
    for one in (first, second):
        fields = desk.execution(one.id)
        assert (fields["status"], fields["cancelled_by"]) == (b"cancelled", b"ann")
    assert status(desk, grandchild.id) == b"queued"
    assert list(desk.state.timers) == [b"c" + second.id.encode()]
    assert desk.fire() == [1, 0, -1]
    fields = desk.execution(grandchild.id)
    assert (fields["status"], fields["cancelled_by"]) == (b"cancelled", b"ann")
    assert desk.state.children == {}


def test_an_execution_without_children_gets_no_timer(desk: Desk) -> None:
    desk.cancel(desk.parked("ok"))
    assert desk.state.timers == {}


@pytest.mark.failure(26)
def test_children_are_ended_a_hundred_at_a_time(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 100, total=230)
    desk.spawn(by, "kids", 100, first=100, total=230)
    desk.spawn(by, "kids", 30, first=200, total=230)

    def going_on() -> int:
        return sum(fields[b"status"] == b"queued" for fields in desk.state.executions.values())

    assert desk.cancel(by.id) == [b"cancelled"]
    assert going_on() == 130 and list(desk.state.timers) == [b"c" + by.id.encode()]
    assert desk.fire(limit=100)[0] == 1 and going_on() == 30
    assert desk.fire(limit=100)[0] == 1 and going_on() == 0
    assert desk.state.timers == {} == desk.state.children


def test_one_batch_of_timers_ends_no_more_children_than_its_size(desk: Desk) -> None:
    for _ in range(3):
        by = desk.start(timeout=FAR)
        desk.spawn(by, "kids", 4)
        while desk.read_entries("others"):
            pass
        desk.make_due("t" + by.id)
    assert desk.fire(limit=3)[0] == 3
    for going_on in (6, 0):
        desk.fire(limit=6)
        statuses = [fields[b"status"] for fields in desk.state.executions.values()]
        assert statuses.count(b"queued") == going_on
    assert desk.state.timers == {}


def test_the_end_of_the_root_ends_grandchildren_whose_parent_has_finished(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    grandchild = desk.child(child, status="started")
    desk.finish(child)
    assert desk.state.children == {
        by.id.encode(): {child.id.encode()},
        child.id.encode(): {grandchild.id.encode()},
    }
    desk.cancel(by.id, by="ann")
    while desk.state.timers:
        assert desk.fire()[0] > 0
    assert desk.execution(grandchild.id)["cancelled_by"] == b"ann"
    assert status(desk, child.id) == b"completed" and desk.state.children == {}


def test_the_last_descendant_to_end_removes_the_set_of_children(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    grandchild = desk.child(child, status="started")
    desk.finish(child)
    desk.finish(grandchild)
    assert desk.state.children == {}


def test_the_end_of_a_grandchild_keeps_its_parent_in_the_roots_set(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    desk.finish(desk.child(child, status="started"))
    assert desk.state.children == {by.id.encode(): {child.id.encode()}}


def test_a_retried_grandchild_ends_with_the_root(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    grandchild = desk.child(child, status="started")
    fail(desk, grandchild)
    desk.finish(child)
    assert desk.state.children == {}
    assert desk.run("retry", grandchild.id, 1, "", "", "", "") == [b"retried", 2]
    desk.cancel(by.id, by="ann")
    while desk.state.timers:
        assert desk.fire()[0] > 0
    assert desk.execution(grandchild.id)["cancelled_by"] == b"ann" and desk.state.children == {}


def test_a_forgotten_descendant_leaves_no_child_behind(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    grandchild = desk.child(child, status="started")
    desk.child(grandchild, status="started")
    desk.finish(child)
    desk.finish(grandchild)
    desk.retention_ends(grandchild.id)
    assert desk.fire()[1] == 1
    assert desk.state.children == {}, "nobody is left to record descendants that have not finished"


def test_a_cascade_below_another_one_leaves_no_child_behind(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    second = desk.child(child, status="started")
    third = desk.child(second, status="started")
    desk.child(third, status="started")
    desk.finish(second)
    desk.cancel(child.id)
    assert desk.state.children[child.id.encode()] == {third.id.encode()}, "taken over, and ended next"
    desk.cancel(third.id)
    while desk.state.timers:
        assert desk.fire()[0] > 0
    assert desk.state.children == {}


def test_an_expired_child_does_not_hold_up_the_cascade(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    grandchild = desk.child(child, status="started")
    desk.finish(child)
    desk.do("PEXPIRE", keys.EXEC + child.id, 0)  # no timer has fired since
    desk.finish(grandchild)
    desk.cancel(by.id)
    assert desk.state.children == {} and desk.state.timers == {}
    desk.retention_ends(child.id)
    desk.fire()


def test_a_forgotten_child_leaves_its_parents_set(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    desk.child(child, status="started")
    desk.finish(child)
    desk.retention_ends(child.id)
    assert desk.fire() == [0, 1, -1]
    assert desk.state.children == {}


@pytest.mark.parametrize("status", ["open", "started"])
def test_a_child_of_an_earlier_execution_is_not_taken_for_ones_own(desk: Desk, status: str) -> None:
    before = desk.start()
    child = desk.child(before, status="started")
    desk.finish(before)
    desk.retention_ends(before.id)
    desk.fire()
    desk.invoke(before.id)
    by = desk.deliver()
    state = desk.state
    assert desk.spawn(by, "kid", 2, status=status) == [b"older", child.id.encode()]
    assert desk.state.executions == state.executions and desk.state.journals == state.journals
    desk.finish(child)
    changes, _ = desk.spawn(by, "kid", 2, status=status)
    assert changes == 1
    assert int(desk.execution(child.id)["created"]) > int(desk.execution(by.id)["created"])
    assert desk.state.children[by.id.encode()] == {
        keys.child_id(by.id, "kid", index).encode() for index in range(2)
    }


def test_an_expired_parent_leaves_no_set_of_children(desk: Desk) -> None:
    by = desk.start()
    desk.child(by, status="started")
    desk.finish(by)
    desk.do("PEXPIRE", keys.EXEC + by.id, 0)
    desk.retention_ends(by.id)
    assert desk.fire() == [0, 1, -1]
    assert desk.state.children == {}


def test_an_ended_execution_is_kept_until_its_descendants_have_ended(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 100, total=101)
    desk.spawn(by, "kids", 1, first=100, total=101)
    desk.cancel(by.id, by="ann")
    desk.retention_ends(by.id)
    desk.fire(limit=1)
    assert by.id.encode() not in desk.state.executions
    ended = [fields[b"cancelled_by"] for fields in desk.state.executions.values()]
    assert ended == [b"ann"] * 101


@pytest.mark.parametrize("retentions", list(permutations((RETENTION // 100, RETENTION, 3 * RETENTION))))
def test_what_a_tree_shares_is_kept_for_the_longest_retention(
    desk: Desk, retentions: tuple[int, ...]
) -> None:
    """The stream, the set of suspensions and the set by which `delete` finds the descendants."""
    by = desk.start()
    children = [desk.child(by, f"kid-{index}", status="started") for index in range(len(retentions))]
    for child in children:
        desk.suspend(child, "ok")
    assert desk.run("follow", by.id, FAR) == 1
    desk.finish(by)
    longest = RETENTION
    for child, retention in zip(children, retentions, strict=True):
        desk.do("HSET", keys.EXEC + child.id, "retention", retention)
        assert desk.finish(child) == 0
        longest = max(longest, retention)
        for name, more in ((keys.TOPIC, 0), (keys.BELOW, 0), (keys.DESCENDANTS, 60_000)):
            left = desk.do("PTTL", name + by.id)
            assert longest - 30_000 < left - more <= longest
    assert desk.state.descendants[by.id.encode()] == {child.id.encode() for child in children}


# --- the run timeout --------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "delivered", "put back", "waiting"])
def test_the_run_timeout_ends_an_execution_in_any_state(desk: Desk, state: str) -> None:
    before = desk.now()
    one = desk.invoke(timeout=FAR)
    deadline = relations_of(desk.state.executions[one.encode()]).deadline
    assert deadline is not None and before + FAR <= deadline <= desk.now() + FAR
    if state != "queued":
        by = desk.deliver()
    if state == "put back":
        assert desk.run("put_back", "default", by.id, by.entry, FAR) == 1
    if state == "waiting":
        desk.suspend(by, "ok", FAR)
        assert desk.park(by, "ok") == 0
    assert desk.state.timers[b"t" + one.encode()] == deadline
    desk.make_due("t" + one)
    assert desk.fire() == [1, 0, -1]
    fields = desk.execution(one)
    text = "it did not finish within its 3600 seconds"
    assert fields["status"] == b"failed"
    assert msgpack.unpackb(fields["error"]) == [1, "WorkflowTimeoutError", text, ""]
    _, (kind, data) = desk.state.topics[one.encode()][-1]
    assert kind == b"workflow_finish"
    assert msgpack.unpackb(data) == {"status": "failed", "error": f"WorkflowTimeoutError: {text}"}
    assert desk.state.timers == {}


def test_the_run_timeout_ends_the_children_and_notifies_the_worker(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w1") as w1:
        by = desk.start(timeout=FAR)
        by.owner = "w1:abc"
        child = desk.child(by)
        desk.make_due("t" + by.id)
        desk.fire()
        assert w1.received(1) == [[b"cancelled", by.id.encode(), by.entry]]
    assert status(desk, child.id) == b"queued"
    desk.fire()
    assert desk.execution(child.id)["cancelled_by"] == f"the end of {by.id}".encode()
    assert desk.state.children == {} == desk.state.timers


def test_finishing_in_time_removes_the_run_timeout(desk: Desk) -> None:
    desk.finish(desk.start(timeout=FAR))
    desk.cancel(desk.invoke(timeout=FAR))
    assert desk.state.timers == {}


@pytest.mark.failure(37)
@pytest.mark.parametrize("kind", "ptc")
def test_a_stale_timer_of_an_ended_execution_is_dropped(desk: Desk, kind: str) -> None:
    """A store that went back in time may contain one."""
    done = desk.finished(timeout=FAR)
    desk.do("ZADD", keys.TIMERS, 1, kind + done)
    assert desk.fire()[0] == 1
    assert desk.state.timers == {} and status(desk, done) == b"completed"


def test_a_cancel_notifies_a_worker_that_has_not_written_yet(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w7") as w7:
        by = desk.start(consumer="w7")
        desk.cancel(by.id)
        assert w7.received(1) == [[b"cancelled", by.id.encode(), by.entry]]


def test_a_cancel_before_delivery_notifies_no_worker(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w7") as w7:
        assert desk.cancel(desk.invoke()) == [b"cancelled"]
        desk.run("create_group", "default")
        assert desk.cancel(desk.invoke()) == [b"cancelled"]
        assert w7.received(0) == []


# --- suspensions of children ------------------------------------------------------------


def test_suspensions_of_descendants_are_found_from_their_root(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "own")
    child = desk.child(by)
    grandchild = desk.child(child)
    for one in (child, grandchild):
        desk.suspend(one, "ok then")
    below = {f"{one.id} ok then".encode() for one in (child, grandchild)}
    assert desk.state.below == {by.id.encode(): below}
    desk.answer(child.id, "ok then")
    assert desk.state.below == {by.id.encode(): below}, "so that a second answer learns of the first"
    desk.finish(by)
    for one in (grandchild, child):
        desk.finish(one)
    assert 0 < desk.state.ttl[keys.BELOW + by.id] <= RETENTION
    desk.retention_ends(by.id)
    desk.fire()
    assert desk.state.below == {}


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_a_child_of_a_deleted_execution_is_not_one_of_its_successor(end: str, desk: Desk) -> None:
    """An id may be used again, and children's ids are made of their parent's: here a delete was interrupted
    after the root, so an old child is left."""
    by = desk.start()
    child = desk.child(by, status="started")
    if end == "cancelled":
        assert desk.cancel(child.id) == [b"cancelled"]
    else:
        assert desk.finish(child, end, b"\x07") == 0
    assert desk.finish(by) == 0
    assert desk.run("delete_execution", by.id)[1] == 1
    again = desk.start(by.id)
    desk.spawn(again, "kid")
    assert desk.record(again.id, "kid")[5] == 1, "its result is still to come"
    fields = desk.execution(child.id)
    assert fields["status"] == b"queued" and int(fields["created"]) > int(desk.execution(by.id)["created"])
    new = desk.deliver()
    assert new.id == child.id and desk.finish(new, value=b"\x08") == 0
    assert desk.record(again.id, "kid")[2] == b"done"
    desk.check()
