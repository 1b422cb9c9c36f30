"""note_progress: what is stored of the progress of steps, for how long, and who is told."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Activated, Desk, step


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def stored(desk: Desk, by: Activated) -> dict[str, tuple[int, bytes]]:
    """Attempt and value by step key."""
    rows = msgpack.unpackb(desk.execution(by.id).get("heartbeats", b"\x90"), raw=True)
    assert all(row[0] == 1 and 0 <= desk.now() - row[4] < FAR for row in rows)
    return {row[1].decode(): (row[2], row[3]) for row in rows}


def test_a_report_replaces_that_of_its_step_and_keeps_those_of_others_that_may_run(desk: Desk) -> None:
    by = desk.start()
    desk.note_progress(by, "a", "b", "c", "d", "e", value=b"\x01")
    desk.write(by, "b")
    desk.write(by, "c", step(b"", "retry"))
    desk.write(by, "d", step(b"", "failed"))
    desk.write(by, "e", step(b"x" * 600_000))  # not unpacked
    assert desk.note_progress(by, "a", attempt=2, value=b"\x02") == 4
    assert stored(desk, by) == {"a": (2, b"\x02"), "c": (1, b"\x01")}


def test_it_keeps_those_of_a_hundred_steps(desk: Desk) -> None:
    by = desk.start()
    desk.note_progress(by, *(f"old {number}" for number in range(100)))
    desk.note_progress(by, "new")
    found = stored(desk, by)
    assert len(found) == 100 and "new" in found


def test_whoever_loads_gets_it_until_the_execution_parks_or_runs_anew(desk: Desk) -> None:
    by = desk.start()
    desk.note_progress(by, "a")
    desk.requeue("w1", by.entry)
    heir = desk.deliver("w2")
    rows = msgpack.unpackb(desk.load(heir)[6], raw=True)
    assert [row[:4] for row in rows] == [[1, b"a", 1, b"\x05"]]
    desk.write(heir, "a")
    desk.suspend(heir, "ask")
    assert desk.park(heir, "ask") == 0
    assert stored(desk, heir) == {}


def test_an_execution_that_continues_as_new_starts_without(desk: Desk) -> None:
    by = desk.start()
    desk.note_progress(by, "a")
    assert desk.continue_as_new(by) == 0
    assert stored(desk, by) == {}
    assert desk.load(desk.deliver("w2"))[6] is None


def test_a_running_step_is_shown_with_what_its_own_attempt_has_reported(desk: Desk) -> None:
    by = desk.start()
    desk.note_starts(by, "a", "b")
    desk.note_progress(by, "a", value=b"\x07")
    first, second = desk.status(by.id).running
    assert (first.step_key, first.progress) == ("a", b"\x07")
    assert first.progress_ms is not None and first.progress_ms >= first.since_ms - 1  # rounded
    assert (second.progress, second.progress_ms) == (b"", None)
    desk.write(by, "a", step(b"", "retry"))
    began = desk.now()
    while desk.now() <= began:
        pass  # until the server's clock is past that report
    desk.run("note_starts", *by.fence, msgpack.packb([("a", 2, 0, True)], use_bin_type=False), "")
    (again,) = desk.status(by.id).running
    assert (again.attempt, again.progress) == (2, b"")


def test_only_followers_are_told(desk: Desk) -> None:
    by = desk.start()
    desk.note_progress(by, "a")
    assert by.id.encode() not in desk.state.topics
    desk.events(by.id)
    desk.note_progress(by, "a", attempt=3, value=b"\x09")
    ((kind, data),) = [flat for _, flat in desk.state.topics[by.id.encode()]][-1:]
    assert kind == b"step_progress"
    assert msgpack.unpackb(data) == {"step_key": "a", "attempt": 3, "progress": 9}


def test_a_report_of_a_later_release_is_ignored(desk: Desk) -> None:
    by = desk.start()
    desk.note_starts(by, "a", "b")
    desk.note_progress(by, "a")
    rows = [[2, "b", {}], [1, "a", 1, b"\x06", desk.now() + FAR, "more"]]
    desk.do("HSET", keys.EXEC + by.id, "heartbeats", msgpack.packb(rows, use_bin_type=False))
    first, second = desk.status(by.id).running
    assert (first.progress, second.progress) == (b"\x06", b"")
    assert desk.note_progress(by, "c") == 0
    found = msgpack.unpackb(desk.execution(by.id)["heartbeats"], raw=True)
    assert [row[1] for row in found] == [b"c", b"a"] and found[1][5] == b"more"
