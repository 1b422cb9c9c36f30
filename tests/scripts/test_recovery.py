"""requeue, putback, prune and watch: what workers hand back, and who is notified of an end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Activated, Desk, Subscriber, new_id


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


# --- requeue ----------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True])
def test_requeue_moves_an_entry_to_the_end_of_the_queue(desk: Desk, lost: bool) -> None:
    by = desk.start()
    desk.write(by, "a")
    later = desk.invoke()
    assert desk.requeue("w1", by.entry, lost=lost) == [1, 0, 0]
    fields = desk.execution(by.id)
    assert "owner" not in fields and fields["entry"] != by.entry
    assert fields.get("attempts") == (b"1" if lost else None)
    assert desk.state.queues[b"default"].pending == {}
    assert [desk.deliver("w2").id for _ in range(2)] == [later, by.id]
    with desk.unchanged():
        assert desk.requeue("w1", by.entry, lost=lost) == [0, 0, 0]


@pytest.mark.failure(41)
def test_requeue_spares_a_worker_that_has_renewed_its_lease(desk: Desk) -> None:
    by = desk.start()
    desk.do("HSET", keys.WORKERS, "w1", 7)
    with desk.unchanged():
        assert desk.requeue("w1", by.entry, lost=True, lease=6) is None
        assert desk.requeue("w1", by.entry, lost=True) is None, "its first renewal came since"
    assert desk.requeue("w1", by.entry, lost=True, lease=7) == [1, 0, 0]
    again = desk.deliver("w1")
    desk.do("HDEL", keys.WORKERS, "w1")
    with desk.unchanged():
        assert desk.requeue("w1", again.entry, lost=True, lease=7) is None
    assert desk.requeue("w1", again.entry) == [1, 0, 0], "what it hands back itself needs no lease"


def test_requeue_leaves_entries_of_another_consumer_alone(desk: Desk) -> None:
    by = desk.start(consumer="w2")
    with desk.unchanged():
        assert desk.requeue("w1", by.entry, b"1-1") == [0, 0, 0]


def test_requeue_drops_an_entry_that_is_not_the_live_one(desk: Desk) -> None:
    by = desk.start()
    live = desk.execution(by.id)["entry"]
    desk.do("XADD", keys.QUEUE + "default", "*", "id", by.id, "workflow", "wf", "run", 1)
    stale = desk.deliver()
    assert desk.requeue("w1", stale.entry) == [0, 0, 1]
    assert desk.execution(by.id)["entry"] == live
    assert set(desk.state.queues[b"default"].pending) == {live}


def test_requeue_drops_an_entry_that_was_deleted(desk: Desk) -> None:
    by = desk.start()
    desk.do("XADD", keys.QUEUE + "default", "*", "id", by.id)
    stale = desk.read_entries("w1")[0][0]
    desk.do("XDEL", keys.QUEUE + "default", stale)
    assert desk.requeue("w1", stale) == [0, 0, 1]


@pytest.mark.failure(9)
def test_repeated_losses_without_progress_fail_the_execution(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok", FAR)
    with Subscriber(desk.url, desk.prefix, "me") as me:
        desk.run("watch_execution", by.id, "me")
        assert desk.requeue("w1", by.entry, lost=True, most=3) == [1, 0, 0]
        assert desk.requeue("w1", desk.deliver().entry, lost=True, most=3) == [1, 0, 0]
        assert desk.requeue("w1", desk.deliver().entry, lost=True, most=3) == [0, 1, 0]
        (notice,) = me.received(1)
    assert notice[:4] == [b"done", by.id.encode(), b"failed", b"error"]
    fields = desk.execution(by.id)
    assert fields["status"] == b"failed" and fields["input"] == b"in"
    version, kind, text, _ = msgpack.unpackb(fields["error"])
    assert (version, kind) == (1, "WorkerLostError") and "3 times in a row" in text
    _, (event, data) = desk.state.topics[by.id.encode()][-1]
    assert event == b"workflow_finish"
    assert msgpack.unpackb(data) == {"status": "failed", "error": f"WorkerLostError: {text}"}
    assert desk.record(by.id, "ok")[2] == b"closed", "the journal remains, with its waits closed"


@pytest.mark.failure(9)
def test_progress_resets_the_count_of_losses(desk: Desk) -> None:
    by = desk.start()
    for key in ("a", "b", "c", "d"):
        assert desk.requeue("w1", by.entry, lost=True, most=2) == [1, 0, 0], key
        by = desk.deliver()
        desk.run("load", by.id, by.entry, by.owner)
        desk.write(by, key)
    assert desk.execution(by.id)["attempts"] == b"1"
    desk.suspend(by, "ok")
    assert desk.park(by, "ok") == 0
    assert "attempts" not in desk.execution(by.id)


@pytest.mark.failure(39)
def test_handing_back_does_not_count_as_a_loss(desk: Desk) -> None:
    desk.invoke()
    for _ in range(9):
        assert desk.requeue("w1", desk.deliver().entry, most=1) == [1, 0, 0]


@pytest.mark.failure(6)
def test_requeue_takes_a_batch_and_reports_each_outcome(desk: Desk) -> None:
    entries = [desk.start().entry for _ in range(4)]
    cancelled = desk.start()
    desk.cancel(cancelled.id)
    desk.requeue("w1", entries[0], lost=True, most=2)
    worn = desk.deliver()
    reply = desk.requeue("w1", worn.entry, *entries, cancelled.entry, lost=True, most=2)
    assert reply == [3, 1, 0]


# --- putback ----------------------------------------------------------------------------


@pytest.mark.failure(10)
def test_putback_requeues_an_execution_after_a_delay(desk: Desk) -> None:
    by = desk.start()
    desk.run("load", by.id, by.entry, by.owner)
    before = desk.now()
    assert desk.run("put_back", "default", by.id, by.entry, FAR) == 1
    state, fields = desk.state, desk.execution(by.id)
    assert fields["status"] == b"queued" and not {"entry", "owner", "attempts"} & set(fields)
    assert not state.queues[b"default"].entries and not state.queues[b"default"].pending
    assert before + FAR <= state.timers[b"p" + by.id.encode()] <= desk.now() + FAR
    with desk.unchanged():
        assert desk.run("put_back", "default", by.id, by.entry, FAR) == 0
    desk.make_due("p" + by.id)
    assert desk.fire() == [1, 0, -1]
    assert desk.deliver().id == by.id
    assert desk.fire() == [0, 0, -1]


def held_back(desk: Desk, by: Activated) -> tuple[int, list[Any]]:
    """Put an execution back for a reason; returns the delay in seconds and what is stored about it."""
    desk.run("load", by.id, by.entry, by.owner)
    before = desk.now()
    assert desk.run("put_back", "default", by.id, by.entry, 1000, "unreadable") == 1
    delay = (desk.state.timers[b"p" + by.id.encode()] - before) // 1000
    return int(delay), msgpack.unpackb(desk.execution(by.id)["held_back"])


def test_putback_for_a_reason_waits_longer_each_time_until_there_is_progress(desk: Desk) -> None:
    by = desk.start()
    for times, delay in enumerate((1, 2, 4, 8, 16, 32, 32), 1):
        assert held_back(desk, by) == (delay, [1, times, 0, "unreadable"])
        desk.make_due("p" + by.id)
        desk.fire()
        by = desk.deliver()
    desk.write(by, "progress")
    assert held_back(desk, by) == (1, [1, 1, 1, "unreadable"])
    desk.make_due("p" + by.id)
    desk.fire()
    by = desk.deliver()
    desk.suspend(by, "ask", FAR)
    desk.park(by, "ask")
    assert "held_back" not in desk.execution(by.id)


def test_putback_of_an_entry_that_is_not_the_live_one_deletes_it(desk: Desk) -> None:
    by = desk.start()
    desk.do("XADD", keys.QUEUE + "default", "*", "id", by.id, "workflow", "wf", "run", 1)
    stale = desk.deliver()
    assert desk.run("put_back", "default", by.id, stale.entry, FAR) == 0
    assert desk.execution(by.id)["entry"] == by.entry and desk.state.timers == {}


def test_cancel_removes_the_timer_of_a_put_back_execution(desk: Desk) -> None:
    by = desk.start()
    desk.run("put_back", "default", by.id, by.entry, FAR)
    desk.cancel(by.id)
    assert desk.state.timers == {}


# --- group and renew --------------------------------------------------------------------


def test_group_creates_a_queue_once_and_reads_it_from_its_beginning(desk: Desk) -> None:
    one = desk.invoke()
    assert desk.run("create_group", "default") == desk.run("create_group", "other") == 1
    assert desk.read_entries("w1", "default")[0][1][1] == one.encode()
    with desk.unchanged():
        assert desk.run("create_group", "default") == 1
    assert set(desk.state.queues) == {b"default", b"other"}


def test_renew_raises_the_counter_and_announces(desk: Desk) -> None:
    assert [desk.run("renew_lease", "w1", b"\x80"), desk.run("renew_lease", "w1", b"\x81")] == [1, 2]
    assert desk.state.workers == {b"w1": b"2"} and desk.state.serves == {b"w1": b"\x81"}


# --- prune ------------------------------------------------------------------------------


@pytest.mark.failure(7)
def test_prune_removes_an_empty_consumer_and_its_rows(desk: Desk) -> None:
    desk.finish(desk.start(consumer="gone"))
    desk.do("HSET", keys.WORKERS, "gone", 7, "here", 3)
    desk.do("HSET", keys.SERVES, "gone", b"\x80", "here", b"\x80")
    assert desk.run("prune_consumer", "default", "gone", 7) == 1
    assert desk.connection.do("XINFO", "CONSUMERS", desk.prefix + keys.QUEUE + "default", "workers") == []
    assert set(desk.state.workers) == set(desk.state.serves) == {b"here"}
    assert desk.run("prune_consumer", "default", "gone", "") == 1, "repeated, it finds nothing to do"
    assert set(desk.state.workers) == {b"here"}


@pytest.mark.failure(7)
def test_prune_spares_a_consumer_that_holds_entries_or_has_renewed(desk: Desk) -> None:
    desk.start(consumer="w1")
    desk.do("HSET", keys.WORKERS, "w1", 7)
    with desk.unchanged():
        assert desk.run("prune_consumer", "default", "w1", 7) == 0
        assert desk.run("prune_consumer", "default", "w1", 6) == 0
        assert desk.run("prune_consumer", "default", "w1", "") == 0


# --- watch ------------------------------------------------------------------------------


def test_watch_registers_each_client_once_and_keeps_the_latest_sixteen(desk: Desk) -> None:
    one = desk.invoke()
    with desk.unchanged():
        assert desk.run("watch_execution", one, "") == [b"queued"]
        assert desk.run("watch_execution", new_id(), "me") is None
    for number in range(20):
        assert desk.run("watch_execution", one, f"c{number}") == [b"queued"]
    assert desk.run("watch_execution", one, "c10") == [b"queued"]
    names = desk.execution(one)["notify"].split()
    assert names == [f"c{number}".encode() for number in [*range(4, 10), *range(11, 20), 10]]


def test_watch_returns_how_an_execution_ended(desk: Desk) -> None:
    done = desk.finished()
    by = desk.start()
    desk.finish(by, "failed", b"err")
    stopped = desk.parked()
    desk.cancel(stopped)
    with desk.unchanged():
        assert desk.run("watch_execution", done, "me") == [b"completed", b"\x01", None, None]
        assert desk.run("watch_execution", by.id, "me") == [b"failed", None, b"err", None]
        assert desk.run("watch_execution", stopped, "me") == [b"cancelled", None, None, b"bob"]


def test_every_watcher_is_notified_once(desk: Desk) -> None:
    by = desk.start()
    with Subscriber(desk.url, desk.prefix, "a") as a, Subscriber(desk.url, desk.prefix, "b") as b:
        for name in ("a", "b", "gone", "a"):
            desk.run("watch_execution", by.id, name)
        desk.finish(by)
        assert a.received(1) == b.received(1) == [[b"done", by.id.encode(), b"completed", b"output", b"\x01"]]


def test_an_execution_that_is_lost_too_often_pauses_if_its_workflow_does(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    assert desk.requeue("w1", by.entry, lost=True, most=1, pausing={}) == [0, 0, 0]
    assert desk.requeue("w1", by.entry, lost=True, most=1, pausing={"wf": True}) == [0, 1, 0]
    fields, state = desk.execution(by.id), desk.state
    assert fields["status"] == b"stuck" and b"WorkerLostError" in fields["last_error"]
    assert fields.keys().isdisjoint({"entry", "owner", "error"})
    assert not state.queues[b"default"].entries and not state.queues[b"default"].pending
    assert desk.events(by.id)[-1] == b"workflow_paused"
    assert desk.retry(by.id) == [b"retried", 2]
    assert desk.deliver().id == by.id
