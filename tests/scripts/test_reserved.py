"""Reserved streams: how executions get there, leave them while nobody reads them, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.timers import NEVER_MS
from tests.harness.desk import FAR, Activated, Desk

PINNED = keys.reserved_stream("default", "wf", "2")
UNKNOWN = keys.reserved_stream("default", "wf")


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def entries(desk: Desk, stream: str) -> list[str]:
    queue = desk.state.queues.get(stream.encode())
    return [] if queue is None else [fields[b"id"].decode() for fields in queue.entries.values()]


def pin(desk: Desk, by: Activated) -> int:
    moved: int = desk.run("reserve", "default", by.id, by.entry, PINNED, "2")
    return moved


def test_an_execution_is_pinned_before_it_starts(desk: Desk) -> None:
    by = desk.start()
    assert pin(desk, by) == 1
    assert entries(desk, "default") == [] and entries(desk, PINNED) == [by.id]
    fields = desk.execution(by.id)
    assert (fields["queue"], fields["version"]) == (PINNED.encode(), b"2")
    assert pin(desk, by) == 0, "its entry is not the live one any more"
    again = desk.deliver(queue=PINNED)
    desk.write(again, "a")
    assert desk.requeue("w1", again.entry, lost=True, queue=PINNED) == [1, 0, 0]
    assert entries(desk, PINNED) == [by.id], "whoever loses it, it stays with its version"


def test_one_that_has_started_stays_where_it_is(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    with desk.unchanged():
        assert pin(desk, by) == 2


def test_one_that_another_version_has_lost_before_its_first_write_is_of_the_new_version(desk: Desk) -> None:
    by = desk.start()
    desk.load(by, "1")
    assert desk.state.versions == {b"wf\x001"}
    assert desk.requeue("w1", by.entry, lost=True) == [1, 0, 0]
    again = desk.deliver()
    assert pin(desk, again) == 1
    assert desk.execution(by.id)["version"] == b"2"
    assert desk.state.versions == {b"wf\x002"}, "it is counted once"
    desk.check()


def test_an_entry_that_is_not_the_live_one_is_deleted(desk: Desk) -> None:
    by = desk.start()
    copy = desk.do("XADD", "queue:default", "*", "id", by.id, "workflow", "wf", "run", 1)
    assert desk.read_entries("w1")[0][0] == copy
    assert desk.run("reserve", "default", by.id, copy, PINNED, "2") == 0
    queue = desk.state.queues[b"default"]
    assert queue.entries.keys() == queue.pending.keys() == {by.entry}
    assert "version" not in desk.execution(by.id)


def test_its_new_entry_carries_what_the_first_one_did(desk: Desk) -> None:
    by = desk.start(origin=b"origin")
    pin(desk, by)
    ((_, flat),) = desk.read_entries("w1", PINNED)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert fields == {
        b"id": by.id.encode(),
        b"workflow": b"wf",
        b"run": b"1",
        b"input": b"in",
        b"origin": b"origin",
    }


def test_whoever_else_was_given_it_does_not_own_it_any_more(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    desk.note_starts(by, "b")
    assert desk.run("reserve", "default", by.id, by.entry, UNKNOWN) == 1
    fields = desk.execution(by.id)
    assert fields.keys().isdisjoint({"owner", "running"}) and not desk.state.writers
    assert desk.events(by.id)[-1] == b"step_start", "its journal does not say that it had begun"
    again = desk.deliver("w2", UNKNOWN)
    assert desk.write(again, "b") == 2 and desk.write(by, "b") == -1


def test_a_stale_entry_is_deleted(desk: Desk) -> None:
    by = desk.start()
    desk.cancel(by.id)
    assert pin(desk, by) == 0
    assert desk.state.reserved == set()


def test_a_stream_that_somebody_reads_is_not_closed(desk: Desk) -> None:
    by = desk.start()
    assert desk.run("serve", PINNED, "w1", 10) == 0
    pin(desk, by)
    with desk.unchanged():
        assert desk.run("close_stream", PINNED, 10) == 0
    assert desk.deliver(queue=PINNED).id == by.id


def test_a_closed_stream_is_served_in_batches(desk: Desk) -> None:
    pinned = [desk.start() for _ in range(5)]
    for by in pinned:
        assert pin(desk, by) == 1
    assert [desk.run("close_stream", PINNED, 2) for _ in range(3)] == [1, 1, 0]
    state = desk.state
    assert PINNED.encode() not in state.queues and PINNED.encode() in state.reserved
    assert {state.timers[b"p" + by.id.encode()] for by in pinned} == {NEVER_MS}
    assert desk.fire()[0] == 0, "that time never comes"
    desk.cancel(pinned[1].id)
    assert [desk.run("serve", PINNED, "w1", 2) for _ in range(2)] == [2, 0]
    assert entries(desk, PINNED) == [pinned[number].id for number in (0, 2, 3, 4)]
    assert desk.state.timers == {}


def test_a_closed_stream_without_executions_is_forgotten(desk: Desk) -> None:
    by = desk.start()
    pin(desk, by)
    assert desk.run("close_stream", PINNED, 10) == 0
    desk.cancel(by.id)
    assert desk.run("close_stream", PINNED, 10) == 0
    assert desk.state.reserved == set()


def readers(desk: Desk) -> set[bytes]:
    rows = desk.connection.do("XINFO", "CONSUMERS", desk.prefix + keys.QUEUE + PINNED, keys.GROUP)
    return {row[1] for row in rows}


def test_a_worker_leaves_a_stream_once_it_holds_no_entry(desk: Desk) -> None:
    by = desk.start()
    assert desk.run("serve", PINNED, "w1", 10) == desk.run("serve", PINNED, "w2", 10) == 0
    pin(desk, by)
    again = desk.deliver(queue=PINNED)
    with desk.unchanged():
        assert desk.run("leave_stream", PINNED, "w1") == 0
    assert desk.run("leave_stream", PINNED, "w2") == 1
    assert readers(desk) == {b"w1"}
    assert desk.finish(again) == 0
    assert desk.run("leave_stream", PINNED, "w1") == 1
    assert not readers(desk)


def test_an_execution_on_a_closed_stream_leaves_its_slot_to_another_one(desk: Desk) -> None:
    limited: dict[str, Any] = {"semaphore": "default", "limit": 1, "near": True}
    by = desk.start(**limited)
    other = desk.invoke(**limited)
    pin(desk, by)
    assert desk.run("close_stream", PINNED, 10) == 0
    assert entries(desk, "default") == [other]
    assert desk.run("serve", PINNED, "w1", 10) == 0
    assert entries(desk, PINNED) == [], "it waits for the slot"
    desk.cancel(other)
    assert entries(desk, PINNED) == [by.id]
    desk.check()


def test_whoever_comes_late_to_a_closed_stream_changes_nothing(desk: Desk) -> None:
    by = desk.start()
    assert desk.run("serve", PINNED, "w1", 10) == 0
    pin(desk, by)
    again = desk.deliver(queue=PINNED)
    assert desk.requeue("w1", again.entry, lost=True, queue=PINNED) == [1, 0, 0]
    assert desk.run("prune_consumer", PINNED, "w1", "") == 1
    assert desk.run("close_stream", PINNED, 10) == 0
    with desk.unchanged():
        assert desk.requeue("w1", again.entry, lost=True, queue=PINNED) == [0, 0, 0]
        assert desk.requeue("w1", again.entry, queue=PINNED) == [0, 0, 0]
        assert desk.run("prune_consumer", PINNED, "w1", "") == 1
        assert desk.run("leave_stream", PINNED, "w1") == 1
    assert desk.run("put_back", PINNED, again.id, again.entry, 0) == 0
    assert desk.run("reserve", PINNED, again.id, again.entry, UNKNOWN) == 0


def entry_of(by: Activated, other: bool) -> bytes:
    """The id of an entry in another stream: one of its own, or that of the live one."""
    return b"9" + by.entry if other else by.entry


@pytest.mark.parametrize("other", [True, False])
def test_what_a_closed_stream_still_has_of_an_execution_that_is_elsewhere_goes_with_it(
    desk: Desk, other: bool
) -> None:
    by = desk.start()
    assert desk.run("serve", PINNED, "w1", 10) == 0
    desk.do("XADD", keys.QUEUE + PINNED, entry_of(by, other), "id", by.id, "workflow", "wf", "run", 1)
    assert desk.run("leave_stream", PINNED, "w1") == 1
    before = desk.execution(by.id)
    assert desk.run("close_stream", PINNED, 10) == 0
    state = desk.state
    assert desk.execution(by.id) == before and not state.timers
    assert PINNED.encode() not in state.queues and not state.reserved


@pytest.mark.parametrize("way", ["put back", "reserved", "lost", "handed back", "repaired"])
@pytest.mark.parametrize("other", [True, False])
def test_an_entry_elsewhere_is_dropped_and_the_live_one_stays(desk: Desk, way: str, other: bool) -> None:
    by = desk.start()
    assert desk.run("serve", PINNED, "w1", 10) == 0
    entry = entry_of(by, other)
    desk.do("XADD", keys.QUEUE + PINNED, entry, "id", by.id, "workflow", "wf", "run", 1)
    assert desk.read_entries("w1", PINNED)[0][0] == entry
    before = desk.execution(by.id)
    if way == "put back":
        assert desk.run("put_back", PINNED, by.id, entry, FAR) == 0
    elif way == "reserved":
        assert desk.run("reserve", PINNED, by.id, entry, UNKNOWN) == 0
    elif way == "repaired":
        assert desk.repair() == [(by.id, "an entry was not its own")]
    else:
        assert desk.requeue("w1", entry, lost=way == "lost", queue=PINNED) == [0, 0, 1]
    assert entries(desk, PINNED) == [] and entries(desk, "default") == [by.id]
    assert desk.execution(by.id) == before


def test_a_wake_opens_a_closed_stream(desk: Desk) -> None:
    by = desk.start()
    pin(desk, by)
    by = desk.deliver(queue=PINNED)
    desk.suspend(by, "ok")
    assert desk.park(by, "ok") == 0
    assert desk.run("prune_consumer", PINNED, "w1", "") == 1
    assert desk.run("close_stream", PINNED, 10) == 0
    assert PINNED.encode() not in desk.state.queues
    desk.answer(by.id, "ok")
    assert entries(desk, PINNED) == [by.id]
    assert desk.run("close_stream", PINNED, 10) == 0
    assert desk.run("serve", PINNED, "w2", 10) == 0
    assert desk.deliver("w2", PINNED).id == by.id
