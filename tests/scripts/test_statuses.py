"""read_statuses: what executions are doing, and what they wait for."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.statuses import Condition
from polos_redis.state.stuck import StuckReason
from tests.harness.desk import FAR, PAUSED, REASON, Activated, Desk, branch, new_id, step


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def entered(desk: Desk, execution_id: str) -> int:
    """When an execution was queued, by its entry."""
    return int(desk.execution(execution_id)["entry"].partition(b"-")[0])


def waits(status: Condition) -> list[tuple[str, str]]:
    return [(one.kind, one.step_key) for one in status.waits]


# --- queued and running ------------------------------------------------------------------


def test_an_execution_is_running_once_a_worker_has_its_entry(desk: Desk) -> None:
    one = desk.invoke()
    fields = desk.execution(one)
    assert desk.status(one) == Condition(
        "queued", "wf", created_us=int(fields["created"]), queued_ms=entered(desk, one)
    )
    by = desk.deliver("w1")
    status = desk.status(one)
    assert (status.word, status.worker, status.started_ms) == ("running", "w1", None)
    desk.write(by, "a")
    status = desk.status(one)
    assert (status.word, status.worker) == ("running", "w1") and status.started_ms is not None
    desk.requeue("w1", by.entry)
    status = desk.status(one)
    assert (status.word, status.worker, status.queued_ms) == ("queued", None, entered(desk, one))


def test_without_a_group_nothing_was_delivered(desk: Desk) -> None:
    one = desk.invoke()
    desk.connection.do("XGROUP", "DESTROY", desk.prefix + keys.QUEUE + "default", keys.GROUP)
    assert desk.status(one).word == "queued"
    assert [row[0] for row in desk.listed("queued")[1]] == [one.encode()]
    assert desk.listed("running")[1] == []
    desk.run("create_group", "default")


def test_the_steps_that_run_are_those_without_a_record_of_their_attempt(desk: Desk) -> None:
    by = desk.start()
    desk.note_starts(by, "a", "b", "c")
    running = desk.status(by.id).running
    assert [(one.step_key, one.attempt) for one in running] == [("a", 1), ("b", 1), ("c", 1)]
    assert all(0 <= desk.now() - one.since_ms < FAR for one in running)
    desk.write(by, "a")
    desk.write(by, "b", step(b"x" * 600_000))  # not unpacked
    assert [one.step_key for one in desk.status(by.id).running] == ["c"]
    desk.write(by, "c", step(b"", "retry"))
    assert desk.status(by.id).running == ()
    again = msgpack.packb([("c", 2, 0, True)], use_bin_type=False)
    desk.run("note_starts", *by.fence, again, "")
    assert [(one.step_key, one.attempt) for one in desk.status(by.id).running] == [("c", 2)]
    assert [one.timed_out_ms for one in desk.status(by.id).running] == [None]
    late = msgpack.packb([("c", 2, 500, True, 200)], use_bin_type=False)
    desk.run("note_starts", *by.fence, late, "")
    (one,) = desk.status(by.id).running
    assert one.timed_out_ms is not None and abs(one.timed_out_ms - one.since_ms - 300) <= 1
    desk.finish(by)
    assert desk.status(by.id).running == ()


def test_the_place_of_an_execution_that_waits_for_a_slot(desk: Desk) -> None:
    made = [desk.invoke(queue="q", semaphore="q", limit=1, near=True) for _ in range(3)]
    assert [desk.status(one).ahead for one in made] == [None, 0, 1]
    assert all(0 <= desk.now() - (desk.status(one).queued_ms or 0) < FAR for one in made)
    desk.finish(desk.deliver(queue="q"))
    assert [desk.status(one).ahead for one in made] == [None, None, 0]


def test_when_a_delayed_execution_starts(desk: Desk) -> None:
    one = desk.invoke(delay=FAR)
    status = desk.status(one)
    assert (status.word, status.queued_ms) == ("queued", None)
    assert FAR / 2 < (status.starts_ms or 0) - desk.now() <= FAR
    by = desk.start()
    desk.run("put_back", "default", by.id, by.entry, FAR)
    assert FAR / 2 < (desk.status(by.id).starts_ms or 0) - desk.now() <= FAR


# --- waiting -----------------------------------------------------------------------------


def test_every_kind_of_wait_and_its_end(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok", 2 * FAR)
    desk.suspend(by, "sure", shown=b"\xda\x40\x00" + b"x" * 0x4000)  # larger than any other wait
    desk.wait(by, "pause", 3 * FAR)
    desk.wait_for_event(by, "news", "weather", 4 * FAR)
    desk.wait_for_event(by, "more news", "weather")
    desk.spawn(by, "kids", 3)
    desk.backoff(by, "flaky", FAR)
    status = desk.status(by.id)
    assert status.word == "running" and status.open_waits == 7
    keys_of = ("flaky", "ok", "pause", "news")
    desk.park(by, "ok", "sure", "pause", "news", "more news", "kids", "flaky")
    status = desk.status(by.id)
    assert (status.word, status.worker, status.queued_ms) == ("waiting", None, None)
    timed = [(one.step_key, one.kind) for one in status.waits if one.until_ms]
    assert timed == list(zip(keys_of, ("retry", "person", "time", "event"), strict=True))
    now = desk.now()
    assert all(0 < one.until_ms - now <= 4 * FAR for one in status.waits if one.until_ms)
    others = {one.step_key: one for one in status.waits if not one.until_ms}
    assert {key: one.kind for key, one in others.items()} == {
        "sure": "person",
        "more news": "event",
        "kids": "child",
    }
    assert others["more news"].topic == "weather" and others["kids"].children == 3
    assert all(one.since_ms and 0 <= now - one.since_ms < FAR for one in status.waits if one.kind != "retry")
    desk.answer(by.id, "ok")
    assert ("person", "ok") not in waits(desk.status(by.id))


def test_more_waits_than_are_returned_are_counted(desk: Desk) -> None:
    by = desk.start()
    names = [f"k{number}" for number in range(12)]
    for number, name in enumerate(names):
        desk.suspend(by, name, FAR + 100 * number)
    desk.answer(by.id, "k11")
    desk.park(by, *names[:11])
    status = desk.status(by.id, 3)
    assert (status.open_waits, len(status.waits)) == (11, 3)
    assert {one.step_key for one in status.waits} <= set(names[:11])
    assert desk.status(by.id, 0).waits == ()
    assert sorted(waits(desk.status(by.id, 100))) == sorted(("person", name) for name in names[:11])


def test_the_loser_of_a_race_is_not_waited_for(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "left", race=branch("race", "l", "left"))
    desk.wait(by, "right", FAR, race=branch("race", "r", "right"))
    desk.answer(by.id, "left")
    assert desk.status(by.id).open_waits == 0


# --- stuck, paused and the end -----------------------------------------------------------


def test_a_stuck_execution_is_paused_if_it_has_failed(desk: Desk) -> None:
    stuck, by = desk.stuck(), desk.start()
    desk.suspend(by, "ok")
    desk.pause(by)
    assert (desk.status(stuck).word, desk.status(stuck).reason) == ("stuck", StuckReason.parse(REASON))
    status = desk.status(by.id)
    assert (status.word, status.reason) == ("paused", StuckReason.parse(PAUSED))
    assert waits(status) == [("person", "ok")]
    damaged = desk.stuck()
    desk.do("HSET", keys.EXEC + damaged, "stuck", b"\xc1")
    assert desk.status(damaged).word == "stuck"
    assert [row[0].decode() for row in desk.listed("stuck")[1]] == [damaged, stuck]
    assert [row[0].decode() for row in desk.listed("paused")[1]] == [by.id]


def test_the_end(desk: Desk) -> None:
    done, one = desk.finished(), desk.parked()
    desk.cancel(one)
    status = desk.status(one)
    assert (status.word, status.cancelled_by, status.waits) == ("cancelled", "bob", ())
    assert status.finished_ms == int(desk.execution(one)["finished"])
    assert desk.status(done).word == "completed"
    assert desk.run("read_statuses", 10, new_id(), done)[0] == []


# --- listing -----------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    made=st.lists(st.sampled_from(("a", "b")), max_size=30),
    read=st.lists(st.tuples(st.sampled_from(("a", "b")), st.integers(1, 5)), max_size=5),
    done=st.integers(0, 5),
    limit=st.integers(1, 7),
    rows=st.sampled_from([1, 5, 2000]),
)
def test_running_and_queued_ones_are_listed_apart(
    made: list[str], read: list[tuple[str, int]], done: int, limit: int, rows: int, desk: Desk
) -> None:
    desk.connection.do("FLUSHALL")
    queued = [(desk.invoke(queue=queue), queue) for queue in made]
    running: list[Activated] = []
    for queue, count in read:
        if queue in made:
            for entry, flat in desk.read_entries("w1", queue, count):
                running.append(Activated(flat[1].decode(), entry, "w1:1"))
    for one in running[:done]:
        desk.finish(one)
    active = {one.id for one in running[done:]}
    waiting = {one for one, _ in queued} - {one.id for one in running}
    for word, expected in (("running", active), ("queued", waiting)):
        found: list[str] = []
        before = None
        while True:
            before, page = desk.listed(word, before=before, limit=limit, rows=rows)
            found += [row[0].decode() for row in page]
            if before is None:
                break
        assert sorted(found) == sorted(expected)
        assert all(desk.status(one).word == word for one in found)
    desk.connection.do("FLUSHALL")
