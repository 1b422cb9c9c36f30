"""retry and auto_retry: what the next run of a failed execution keeps, and what it drops."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.journal import result_name
from tests.harness.desk import FAR, Activated, Desk, branch, new_id, packed, step
from tests.invariants.state import relations_of

ERROR = packed([1, "ValueError", "no", ""])


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def fail(desk: Desk, by: Activated) -> None:
    assert desk.finish(by, "failed", ERROR) == 0


def failed(desk: Desk) -> str:
    by = desk.start()
    fail(desk, by)
    return by.id


def journal(desk: Desk, by: Activated) -> set[bytes]:
    """The names in its journal, except that of the count."""
    return desk.state.journals[by.id.encode()].keys() - {b""}


def run_again(desk: Desk, by: Activated, how: str) -> None:
    """Start the second run, by its own `retries` or by a retry after it has failed."""
    if how == "auto_retry":
        assert desk.auto_retry(by) == 2
    else:
        fail(desk, by)
        assert desk.retry(by.id) == [b"retried", 2]


both = pytest.mark.parametrize("how", ["auto_retry", "retry"])


# --- retry ------------------------------------------------------------------------------


def test_retry_requeues_a_failed_execution(desk: Desk) -> None:
    by = desk.start(workflow="parent", queue="slow", origin=b"\x80")
    desk.write(by, "a", step(b"\x07"))
    desk.run("watch_execution", by.id, "me")
    more = packed(["unreached", "z", "state", "s"])
    assert desk.run("finish", *by.fence, 0, "failed", ERROR, b"\x80", more) == 0
    before = desk.execution(by.id)
    assert desk.retry(by.id) == [b"retried", 2]
    fields = desk.execution(by.id)
    entry = fields.pop("entry")
    assert entry != by.entry
    same = (
        "workflow",
        "queue",
        "input",
        "origin",
        "created",
        "started",
        "retention",
        "state",
        "stream",
    )
    new = {"status": b"queued", "run": b"2", "last_error": ERROR}
    assert fields == {name: before[name] for name in same} | new
    state = desk.state
    assert state.queues[b"slow"].entries == {
        entry: {b"id": by.id.encode(), b"workflow": b"parent", b"run": b"2"}
    }
    assert state.index == {(b"all", b"parent"): {by.id.encode(): float(fields["created"])}}
    assert state.ended == state.timers == {}
    _, (kind, data) = state.topics[by.id.encode()][-1]
    assert kind == b"workflow_retry" and msgpack.unpackb(data) == {"run": 2, "delay_ms": 0}
    assert desk.record(by.id, "a")[5] == b"\x07"


def test_keys_of_a_new_run_do_not_expire(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    desk.answer(by.id, "ok")
    desk.suspend(by, "open")
    child = desk.child(by, status="started")
    desk.suspend(child, "ask")
    desk.finish(child)
    fail(desk, by)
    permanent = (keys.EXEC, keys.JOURNAL, keys.TOPIC, keys.BELOW, keys.TOPIC + "ok/", keys.TOPIC + "open/")
    assert all(desk.state.ttl[name + by.id] > 0 for name in permanent)
    desk.retry(by.id)
    assert {name: desk.state.ttl[name + by.id] for name in permanent} == dict.fromkeys(permanent, -1)


def test_an_execution_that_has_not_failed_is_not_retried(desk: Desk) -> None:
    waiting, done, cancelled, queued = desk.parked(), desk.finished(), desk.invoke(), desk.invoke()
    desk.cancel(cancelled)
    with desk.unchanged():
        assert desk.retry(waiting) == [b"status", b"waiting"]
        assert desk.retry(queued) == [b"status", b"queued"]
        assert desk.retry(done) == [b"status", b"completed"]
        assert desk.retry(cancelled) == [b"status", b"cancelled"]
        assert desk.retry(new_id()) == [b"missing"]


@pytest.mark.failure(36)
def test_a_repeated_retry_starts_one_run(desk: Desk) -> None:
    one = failed(desk)
    assert desk.retry(one) == [b"retried", 2]
    with desk.unchanged():
        assert desk.retry(one) == [b"run", b"2"]
    fail(desk, desk.deliver())
    with desk.unchanged():
        assert desk.retry(one) == [b"run", b"2"], "it has seen only the first failure"
        assert desk.cancel(one, run=1) == [b"run", b"2"]
    assert desk.retry(one, run=2) == [b"retried", 3]


@pytest.mark.parametrize("who", ["ann", ""])
def test_a_cancel_whose_reply_was_lost_is_repeated_by_the_same_person(desk: Desk, who: str) -> None:
    one = desk.invoke()
    assert desk.cancel(one, by=who) == [b"cancelled"]
    with desk.unchanged():
        assert desk.cancel(one, by=who) == [b"cancelled"]
        assert desk.cancel(one, by="bob") == [b"finished", b"cancelled"]


def test_a_late_cancel_or_retry_is_not_for_the_next_execution_of_the_id(desk: Desk) -> None:
    """A deleted execution's id may be used again, and its run is 1 again."""
    by = desk.start()
    before = desk.execution(by.id)["created"]
    assert desk.finish(by, "failed", b"err") == 0
    desk.run("delete_execution", by.id)
    again = desk.start(by.id)
    with desk.unchanged():
        assert desk.cancel(again.id, 1, "bob", before) == [b"missing"]
    assert desk.finish(again, "failed", b"err") == 0
    with desk.unchanged():
        assert desk.retry(again.id, 1, before) == [b"missing"]
    assert desk.retry(again.id, 1, desk.execution(again.id)["created"]) == [b"retried", 2]
    assert desk.cancel(again.id, 2, "bob", desk.execution(again.id)["created"]) == [b"cancelled"]


def test_the_end_of_a_later_run_names_its_run(desk: Desk) -> None:
    one, other = failed(desk), failed(desk)
    for name in (one, other):
        desk.retry(name)
    desk.cancel(one, run=2)
    (entry,) = [entry for entry, _ in desk.read_entries("w1")]
    assert desk.requeue("w1", entry, lost=True, most=1) == [0, 1, 0]
    for name in (one, other):
        assert msgpack.unpackb(desk.state.topics[name.encode()][-1][1][1])["run"] == 2


def test_a_new_run_has_its_full_run_timeout(desk: Desk) -> None:
    by = desk.start(timeout=FAR)
    fail(desk, by)
    assert desk.state.timers == {}
    before = desk.now()
    desk.retry(by.id)
    due = desk.state.timers[b"t" + by.id.encode()]
    assert before + FAR <= due <= desk.now() + FAR
    assert relations_of(desk.state.executions[by.id.encode()]).deadline == due


def test_a_retry_stops_the_cancelling_of_the_children(desk: Desk) -> None:
    by = desk.start(timeout=FAR)
    child = desk.child(by)
    desk.make_due("t" + by.id)
    desk.fire()
    desk.retry(by.id)
    assert list(desk.state.timers) == [b"t" + by.id.encode()]
    assert desk.execution(child.id)["status"] == b"queued"
    assert desk.state.children == {by.id.encode(): {child.id.encode()}}


def test_a_retried_child_belongs_to_its_parent_again(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    fail(desk, child)
    assert desk.state.children == {}
    assert desk.retry(child.id) == [b"retried", 2]
    assert desk.state.children == {by.id.encode(): {child.id.encode()}}
    assert desk.events(by.id)[-1] == f"workflow_retry\0{child.id}".encode()
    desk.cancel(by.id)
    assert desk.execution(child.id)["status"] == b"cancelled"


# --- auto_retry -------------------------------------------------------------------------


def test_auto_retry_ends_the_run_and_queues_the_next(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    desk.requeue("w1", by.entry, lost=True)
    by = desk.deliver()
    desk.run("load", by.id, by.entry, by.owner)
    assert desk.run("auto_retry", *by.fence, ERROR, 3, 0, "step_finish", b"\x80") == 2
    fields, state = desk.execution(by.id), desk.state
    assert (fields["run"], fields["retried"], fields["last_error"]) == (b"2", b"1", ERROR)
    assert not {"owner", "attempts", "progress", "error"} & set(fields)
    assert list(state.queues[b"default"].entries) == [fields["entry"]] and fields["entry"] != by.entry
    assert state.queues[b"default"].pending == {} and state.ended == {}
    assert desk.events(by.id)[-2:] == [b"step_finish", b"workflow_retry"]
    assert desk.finish(by) == -1


def test_auto_retry_as_the_first_write_starts_the_execution(desk: Desk) -> None:
    by = desk.start()
    desk.auto_retry(by)
    assert int(desk.execution(by.id)["started"]) <= desk.now()
    assert by.id.encode() not in desk.state.journals


def test_auto_retry_waits_for_its_delay(desk: Desk) -> None:
    by = desk.start()
    before = desk.now()
    assert desk.auto_retry(by, delay=FAR) == 2
    due = desk.state.timers[b"p" + by.id.encode()]
    assert before + FAR <= due <= desk.now() + FAR and "entry" not in desk.execution(by.id)
    _, (_, data) = desk.state.topics[by.id.encode()][-1]
    assert msgpack.unpackb(data) == {"run": 2, "delay_ms": FAR}
    desk.make_due("p" + by.id)
    desk.fire()
    (entry,) = desk.state.queues[b"default"].entries.values()
    assert entry[b"run"] == b"2"


def test_auto_retry_stops_after_its_last_attempt(desk: Desk) -> None:
    desk.invoke()
    for run in (2, 3):
        assert desk.auto_retry(desk.deliver(), times=2) == run
    by = desk.deliver()
    with desk.unchanged():
        assert desk.auto_retry(by, times=2) == 0
    fail(desk, by)
    assert desk.execution(by.id)["last_error"] == b"err"
    desk.retry(by.id, run=3)
    assert "retried" not in desk.execution(by.id), "a retry by a person resets the count"
    assert desk.auto_retry(desk.deliver(), times=2) == 5


def test_auto_retry_keeps_the_run_timeout_of_the_first_run(desk: Desk) -> None:
    by = desk.start(timeout=FAR)
    before = desk.state.timers
    desk.auto_retry(by)
    assert desk.state.timers == before


@pytest.mark.failure(2)
def test_auto_retry_of_a_lost_activation_changes_nothing(desk: Desk) -> None:
    by = desk.start()
    desk.requeue("w1", by.entry)
    with desk.unchanged():
        assert desk.auto_retry(by) == -1
    next_run = desk.deliver()
    desk.write(next_run, "a")
    next_run.known = 2
    with desk.unchanged():
        assert desk.auto_retry(next_run) == -2


def test_auto_retry_leaves_open_waits_open(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", FAR)
    desk.backoff(by, "call")
    desk.spawn(by, "kids", 1)
    desk.wait_for_event(by, "event", "news", FAR)
    before = {key: desk.record(by.id, key) for key in ("ask", "call", "kids", "event")}
    timers = desk.state.timers
    kid = desk.deliver()
    assert desk.auto_retry(by) == 2
    assert {key: desk.record(by.id, key) for key in before} == before
    assert desk.state.timers == timers and set(desk.state.subs) == {b"news"}
    desk.finish(kid)
    assert desk.record(by.id, "kids")[2] == b"done"


# --- what is dropped --------------------------------------------------------------------


@both
def test_only_failed_steps_run_again(desk: Desk, how: str) -> None:
    by = desk.start()
    for status in ("ok", "failed", "retry"):
        desk.write(by, status, step(status=status))
    run_again(desk, by, how)
    assert journal(desk, by) == {b"ok", b"retry"}


@both
def test_undecided_waits_are_opened_again(desk: Desk, how: str) -> None:
    by = desk.start()
    desk.suspend(by, "answered")
    desk.answer(by.id, "answered")
    desk.suspend(by, "too late", FAR)
    desk.make_due(f"s{by.id} too late")
    desk.wait(by, "over", 0)
    desk.wait_for_event(by, "event", "news")
    desk.wait_for_event(by, "no event", "quiet", FAR)
    desk.make_due(f"w{by.id} no event")
    desk.fire()
    desk.publish("news")
    desk.suspend(by, "given up")
    desk.suspend(by, "open")
    desk.answer(by.id, "open")
    assert desk.park(by, "open", given_up=["given up"])[1] == b"open"
    statuses = {key: desk.record(by.id, key)[2] for key in ("too late", "no event", "given up")}
    assert statuses == {"too late": b"expired", "no event": b"expired", "given up": b"closed"}
    by.known = 0
    run_again(desk, by, how)
    assert journal(desk, by) == {b"answered", b"over", b"event", b"open"}
    next_run = desk.deliver()
    desk.suspend(next_run, "too late", FAR)
    assert desk.record(by.id, "too late")[2] == b"open"


def test_waits_closed_by_the_failure_are_opened_again(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", FAR)
    desk.wait(by, "pause", FAR)
    run_again(desk, by, "retry")
    assert journal(desk, by) == set()
    assert desk.state.suspensions == desk.state.timers == {}


@both
@pytest.mark.parametrize("follows", ["nothing", "step", "answer", "wait", "child", "children", "race"])
def test_an_abandoned_step_runs_again_if_nothing_depends_on_it(desk: Desk, how: str, follows: str) -> None:
    by = desk.start()
    desk.suspend(by, "ask")
    desk.write(by, "left", step(status="abandoned"))
    at = desk.record(by.id, "left")[6]
    while desk.now() <= at:
        pass
    if follows == "wait":
        desk.wait(by, "past", -1)
    if follows == "children":
        desk.spawn(by, "kid", 1, status="started")
    if follows == "child":
        desk.finish(desk.child(by))
    if follows == "race":
        desk.choose(by, "race", "one")
    if follows == "step":
        desk.write(by, "next")
    if follows == "answer":
        desk.answer(by.id, "ask")
    by.known = 0
    run_again(desk, by, how)
    assert (b"left" in journal(desk, by)) == (follows != "nothing")


@both
def test_steps_abandoned_together_all_run_again(desk: Desk, how: str) -> None:
    by = desk.start()
    for key in ("left", "left too"):  # not within the same ms, as happens in a large group
        desk.write(by, key, step(status="abandoned"))
        at = desk.record(by.id, key)[6]
        while desk.now() <= at:
            pass
    by.known = 0
    run_again(desk, by, how)
    assert journal(desk, by) == set()


@both
def test_completed_children_are_kept_and_others_run_again(desk: Desk, how: str) -> None:
    by = desk.start()
    desk.spawn(by, "good", 2)
    desk.spawn(by, "bad", 2)
    desk.spawn(by, "detached", 1, status="started")
    kids = [desk.deliver() for _ in range(5)]
    for kid in kids[:3]:
        desk.finish(kid)
    fail(desk, kids[3])
    desk.finish(kids[4])
    by.known = 0
    run_again(desk, by, how)
    ids = [keys.child_id(by.id, key, index) for key, index in (("good", 0), ("good", 1), ("bad", 0))]
    assert journal(desk, by) == {b"good", b"detached", *map(result_name, ids)}
    assert desk.record(by.id, "good")[2] == b"done"


@both
def test_a_forgotten_failed_child_does_not_start_again(desk: Desk, how: str) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2)
    kids = [desk.deliver() for _ in range(2)]
    for kid in kids:
        fail(desk, kid)
    desk.retention_ends(kids[0].id)
    desk.fire()
    by.known = 0
    run_again(desk, by, how)
    assert journal(desk, by) == {result_name(kids[0].id)}, "the other one starts again"
    next_run = desk.deliver()
    desk.spawn(next_run, "kids", 2)
    kid = desk.deliver()
    assert kid.id == kids[1].id
    desk.finish(kid)
    assert desk.record(by.id, "kids")[2] == b"done"


# --- races ------------------------------------------------------------------------------


def race(desk: Desk, by: Activated, *names: str) -> None:
    """A race between suspensions."""
    for name in names:
        desk.suspend(by, name, FAR, race=branch("race", name, name))


@both
def test_a_race_won_by_a_kept_record_stays_won(desk: Desk, how: str) -> None:
    by = desk.start()
    race(desk, by, "one", "two")
    desk.answer(by.id, "one")
    by.known = 0
    run_again(desk, by, how)
    assert journal(desk, by) == {b"race", b"one"}
    assert desk.record(by.id, "race")[2:5:2] == [b"won", b"one"]


@both
@pytest.mark.parametrize("winner", ["suspension", "child"])
def test_a_race_won_by_a_dropped_record_is_run_again(desk: Desk, how: str, winner: str) -> None:
    by = desk.start()
    race(desk, by, "one")
    if winner == "child":
        desk.spawn(by, "kid", race=branch("race", "kid", "kid"))
        fail(desk, desk.deliver())
    else:
        desk.make_due(f"s{by.id} one")
        desk.fire()
    assert desk.record(by.id, "race")[2] == b"won"
    by.known = 0
    run_again(desk, by, how)
    assert journal(desk, by) == set()


@both
def test_a_race_won_by_a_completed_child_stays_won(desk: Desk, how: str) -> None:
    by = desk.start()
    race(desk, by, "one")
    desk.spawn(by, "kid", race=branch("race", "kid", "kid"))
    desk.finish(desk.deliver())
    by.known = 0
    run_again(desk, by, how)
    assert journal(desk, by) == {b"race", b"kid", result_name(keys.child_id(by.id, "kid", 0))}


def test_an_open_race_keeps_its_open_members(desk: Desk) -> None:
    by = desk.start()
    race(desk, by, "one", "two", "three")
    desk.answer(by.id, "nothing")
    desk.suspend(by, "other")
    desk.answer(by.id, "other")
    desk.park(by, "other", given_up=["two"])
    by.known = 0
    run_again(desk, by, "auto_retry")
    assert desk.record(by.id, "race")[2] == b"open"
    assert desk.record(by.id, "race")[6] == [b"one", b"one", b"three", b"three"]
    desk.answer(by.id, "one")
    assert desk.record(by.id, "race")[4] == b"one" and desk.record(by.id, "three")[2] == b"closed"


def test_a_race_whose_members_the_failure_closed_starts_over(desk: Desk) -> None:
    by = desk.start()
    race(desk, by, "one", "two")
    run_again(desk, by, "retry")
    next_run = desk.deliver()
    race(desk, next_run, "two", "one")
    desk.answer(by.id, "two")
    assert desk.record(by.id, "race")[4] == b"two" and desk.record(by.id, "one")[2] == b"closed"


def test_the_changes_of_a_journal_are_counted_across_runs(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a", step(status="failed"))
    before = int(desk.state.journals[by.id.encode()][b""])
    desk.auto_retry(by)
    assert int(desk.state.journals[by.id.encode()][b""]) == before + 1


@pytest.mark.failure(26)
def test_a_journal_of_any_length_is_scanned(desk: Desk) -> None:
    by = desk.start()
    for number in range(2100):
        desk.write(by, f"{number}", step(status="failed"))
    desk.write(by, "kept")
    desk.auto_retry(by)
    assert journal(desk, by) == {b"kept"}
