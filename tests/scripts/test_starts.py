"""schedule, read_schedule, subscribe and trigger: executions started by the clock and by events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, RETENTION, Desk, new_id

RESTING = msgpack.packb({"paused": True, "next": None})
TICKING = msgpack.packb({"paused": False, "next": 1})
NEXT = msgpack.packb({"paused": False, "next": 2})
NOTHING = ("", "", "", "", "")


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def started(options: dict[str, Any] | None = None) -> tuple[str, str, bytes, int, bytes]:
    packed: bytes = msgpack.packb(options, use_bin_type=False) if options else b""
    return new_id(), "wf", b"in", RETENTION, packed


def errand(desk: Desk, name: str) -> float | None:
    return desk.state.errands.get(name.encode())


# --- schedules --------------------------------------------------------------------------


def test_a_schedule_is_read_with_the_servers_time(desk: Desk) -> None:
    now, packed = desk.run("read_schedule", "s")
    assert packed is None
    assert desk.run("change_schedule", "s", "", TICKING, 1, *NOTHING) == 1
    later, packed = desk.run("read_schedule", "s")
    assert packed == TICKING and later >= now > 1_700_000_000_000


def test_a_schedule_is_changed_only_in_the_version_that_was_read(desk: Desk) -> None:
    assert desk.run("change_schedule", "s", "", TICKING, 1, *NOTHING) == 1
    for seen in (b"", NEXT):
        with desk.unchanged():
            assert desk.run("change_schedule", "s", seen, RESTING, "", *started()) == 0
    assert desk.run("change_schedule", "s", TICKING, NEXT, 2, *NOTHING) == 1
    assert errand(desk, "ks") == 2
    assert desk.run("change_schedule", "s", NEXT, RESTING, "", *NOTHING) == 1
    assert errand(desk, "ks") is None
    assert desk.run("change_schedule", "s", RESTING, "", "", *NOTHING) == 1
    assert desk.state.schedules == {}
    with desk.unchanged():
        assert desk.run("change_schedule", "s", RESTING, TICKING, 1, *NOTHING) == 0


def test_a_tick_starts_its_execution_and_sets_the_next(desk: Desk) -> None:
    desk.run("change_schedule", "s", "", TICKING, 1, *NOTHING)
    starting = started()
    assert desk.run("change_schedule", "s", TICKING, NEXT, 2, *starting) == 1
    by = desk.deliver()
    assert by.id == starting[0] and desk.execution(by.id)["input"] == b"in"
    assert errand(desk, "ks") == 2 and desk.state.schedules == {b"s": NEXT}
    with desk.unchanged():
        assert desk.run("change_schedule", "s", TICKING, NEXT, 2, *started()) == 0, "fired once"


def test_a_tick_whose_execution_exists_starts_no_other(desk: Desk) -> None:
    """The clock was set back while the schedule was paused."""
    starting = started()
    desk.invoke(starting[0])
    entry = desk.execution(starting[0])["entry"]
    desk.run("change_schedule", "s", "", TICKING, 1, *NOTHING)
    assert desk.run("change_schedule", "s", TICKING, NEXT, 2, *starting) == 1
    assert desk.execution(starting[0])["entry"] == entry


def test_a_started_execution_takes_options(desk: Desk) -> None:
    desk.run("change_schedule", "s", "", TICKING, 1, *NOTHING)
    starting = started({"queue": "q", "semaphore": "q", "limit": 1, "near": True})
    desk.run("change_schedule", "s", TICKING, NEXT, 2, *starting)
    assert desk.deliver(queue="q").id == starting[0]


# --- triggers ---------------------------------------------------------------------------


def subscribed(desk: Desk, *events: str) -> list[bytes]:
    """A topic with events for the workflow wf; the positions, from where it subscribed."""
    position = desk.run("subscribe", "news", "twf")
    for event in events:
        desk.publish("news", event)
    return [position, *(entry for entry, _ in desk.state.topics.get(b"news", ()))]


def test_events_start_an_execution_once(desk: Desk) -> None:
    start, _, last = subscribed(desk, "a", "b")
    starting = started()
    assert desk.run("trigger_workflow", "news", "wf", start, last, 0, *as_triggered(starting)) == 0
    assert desk.state.subs == {b"news": {b"twf": last}}
    assert desk.deliver().id == starting[0]
    with desk.unchanged():
        assert desk.run("trigger_workflow", "news", "wf", start, last, 0, *as_triggered(started())) == -1
        assert desk.run("trigger_workflow", "news", "other", start, last, 0, *as_triggered(started())) == -1
    assert desk.read_entries("w1") == []


def test_a_batch_may_have_to_wait(desk: Desk) -> None:
    start, last = subscribed(desk, "a")
    now, _ = desk.run("read_schedule", "s")
    with desk.unchanged():
        left = desk.run("trigger_workflow", "news", "wf", start, last, now + FAR, *as_triggered(started()))
    assert FAR - 60_000 < left <= FAR
    assert desk.run("trigger_workflow", "news", "wf", start, last, now, *as_triggered(started())) == 0


def test_a_repeated_subscription_keeps_its_position(desk: Desk) -> None:
    start, _ = subscribed(desk, "a")
    assert start == b"0-0"
    with desk.unchanged():
        assert desk.run("subscribe", "news", "twf") == start
    desk.do("HDEL", keys.SUBS + "news", "twf")
    assert desk.run("subscribe", "news", "twf") != start


def as_triggered(starting: tuple[str, str, bytes, int, bytes]) -> tuple[str | bytes | int, ...]:
    execution_id, _, packed, retention, options = starting
    return execution_id, packed, retention, options
