"""The life of an activation: invoke, load, write, backoff, park, finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, RETENTION, Activated, Desk, Subscriber, new_id, packed, step


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


# --- invoke -----------------------------------------------------------------------------


def test_invoke_creates_an_execution_and_its_entry(desk: Desk) -> None:
    before = desk.now()
    one = desk.invoke(workflow="charge", input=b"\x00\xffin")
    state = desk.state
    fields = desk.execution(one)
    entry = fields["entry"]
    assert before * 1000 <= int(fields.pop("created")) <= desk.now() * 1000 + 999
    assert fields == {
        "workflow": b"charge",
        "status": b"queued",
        "run": b"1",
        "input": b"\x00\xffin",
        "retention": str(RETENTION).encode(),
        "entry": entry,
    }
    assert state.queues[b"default"].entries == {
        entry: {b"id": one.encode(), b"workflow": b"charge", b"run": b"1", b"input": b"\x00\xffin"}
    }
    assert state.workflows.keys() == {b"charge"}
    assert set(state.ttl) == {
        *(keys.EXEC + one, keys.QUEUE + "default", keys.QUEUES, keys.WORKFLOWS),
        keys.INDEX + "all:charge",
    }


def test_a_large_input_is_left_out_of_the_entry(desk: Desk) -> None:
    small, large = desk.invoke(input=b"x" * 4096), desk.invoke(input=b"x" * 4097)
    inline, bare = desk.state.queues[b"default"].entries.values()
    assert (inline[b"id"], inline[b"input"]) == (small.encode(), b"x" * 4096)
    assert bare == {b"id": large.encode(), b"workflow": b"wf", b"run": b"1"}
    desk.deliver()
    by = desk.deliver()
    assert desk.run("load", by.id, by.entry, by.owner)[0] == b"x" * 4097


def test_all_later_entries_go_to_the_same_queue(desk: Desk) -> None:
    by = desk.start(queue="slow")
    assert desk.execution(by.id)["queue"] == b"slow"
    desk.suspend(by, "ok")
    assert desk.park(by, "ok") == 0
    desk.answer(by.id, "ok")
    assert list(desk.state.queues) == [b"slow"]
    assert desk.deliver(queue="slow").id == by.id


@pytest.mark.failure(16)
@pytest.mark.promise("invoke")
def test_a_repeated_invoke_changes_nothing(desk: Desk) -> None:
    done = desk.finished()
    one = desk.invoke()
    with desk.unchanged():
        assert desk.run("invoke", one, "other", b"other", 5, packed({"queue": "other"})) == 0
    with desk.unchanged():
        assert desk.run("invoke", done, "wf", b"in", RETENTION, "") == 0


# --- the fence --------------------------------------------------------------------------

Write = Callable[[Desk, Activated], Any]
WRITES: dict[str, Write] = {
    "write": lambda desk, by: desk.write(by, "new"),
    "event": lambda desk, by: desk.write(by, "", b""),
    "note_starts": lambda desk, by: desk.note_starts(by, "new"),
    "note_progress": lambda desk, by: desk.note_progress(by, "new"),
    "backoff": lambda desk, by: desk.backoff(by, "new"),
    "suspend": lambda desk, by: desk.suspend(by, "new", FAR),
    "wait": lambda desk, by: desk.wait(by, "new", FAR),
    "spawn": lambda desk, by: desk.spawn(by, "new"),
    "choose": lambda desk, by: desk.choose(by, "new", "branch"),
    "park": lambda desk, by: desk.park(by, "open"),
    "stick": lambda desk, by: desk.stick(by),
    "finish": lambda desk, by: desk.finish(by),
    "auto_retry": lambda desk, by: desk.auto_retry(by),
    "load": lambda desk, by: desk.run("load", by.id, by.entry, by.owner),
}


def active(desk: Desk) -> Activated:
    """An activation that has journaled a step and opened a wait."""
    by = desk.start()
    desk.write(by, "a")
    desk.suspend(by, "open")
    return by


def stale_entry(desk: Desk, by: Activated) -> None:
    assert desk.requeue("w1", by.entry) == [1, 0, 0]


def other_owner(desk: Desk, by: Activated) -> None:
    by.owner = "w2:7"


def never_queued(desk: Desk, by: Activated) -> None:
    by.id = new_id()


def parked(desk: Desk, by: Activated) -> None:
    assert desk.park(by, "open") == 0


def stuck(desk: Desk, by: Activated) -> None:
    assert desk.stick(by) == 0


def parked_and_woken(desk: Desk, by: Activated) -> None:
    assert desk.park(by, "open") == 0
    assert desk.answer(by.id, "open")[0] == b"accepted"


def cancelled(desk: Desk, by: Activated) -> None:
    assert desk.cancel(by.id) == [b"cancelled"]


def finished(desk: Desk, by: Activated) -> None:
    assert desk.finish(by) == 0


def put_back(desk: Desk, by: Activated) -> None:
    assert desk.run("put_back", "default", by.id, by.entry, FAR) == 1


@pytest.mark.failure(2)
@pytest.mark.parametrize(
    "lose",
    [
        *(stale_entry, other_owner, never_queued, parked, parked_and_woken),
        *(stuck, cancelled, finished, put_back),
    ],
)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.promise("two workers")
def test_a_lost_activation_writes_nothing(
    desk: Desk, write: str, lose: Callable[[Desk, Activated], None]
) -> None:
    by = active(desk)
    lose(desk, by)
    with desk.unchanged():
        assert WRITES[write](desk, by) == (None if write == "load" else -1)


@pytest.mark.failure(37)
@pytest.mark.parametrize("write", [name for name in WRITES if name != "load"])
def test_a_write_on_a_journal_that_went_back_changes_nothing(desk: Desk, write: str) -> None:
    by = active(desk)
    earlier = desk.snapshot()
    desk.write(by, "b")
    desk.restore(earlier)
    with desk.unchanged():
        assert WRITES[write](desk, by) == -2


def test_the_first_write_takes_ownership_and_starts_the_execution(desk: Desk) -> None:
    by = desk.start()
    before = desk.now()
    assert desk.write(by, "a", step(b"\xc4\x01\x00"), "step_finish", b"\x80") == 1
    fields = desk.execution(by.id)
    assert fields["owner"] == by.owner.encode()
    assert before <= int(fields["started"]) <= desk.now()
    version, kind, status, attempt, took, value, at = desk.record(by.id, "a")
    assert (version, kind, status, attempt, took, value) == (1, b"step", b"ok", 1, 1.5, b"\xc4\x01\x00")
    assert before <= at <= desk.now()
    assert desk.state.journals[by.id.encode()][b""] == b"1"
    assert desk.state.topics[by.id.encode()][0][1] == [b"step_finish", b"\x80"]
    desk.write(by, "b")
    after = desk.execution(by.id)
    assert after == fields, "later writes do not touch the execution"


@pytest.mark.parametrize(
    "write",
    ["write", "event", "note_starts", "note_progress", "backoff", "suspend", "wait", "spawn", "choose"],
)
def test_any_first_write_takes_ownership(desk: Desk, write: str) -> None:
    by = desk.start()
    before = desk.now()
    WRITES[write](desk, by)
    fields = desk.execution(by.id)
    assert fields["owner"] == by.owner.encode() and before <= int(fields["started"]) <= desk.now()


def test_an_event_alone_journals_nothing(desk: Desk) -> None:
    by = desk.start()
    assert desk.write(by, "", b"", "workflow_start", b"\x80") == 0
    assert by.id.encode() not in desk.state.journals
    assert desk.events(by.id) == [b"workflow_start"]


def test_events_of_a_child_go_to_its_roots_topic(desk: Desk) -> None:
    parent = desk.start()
    root, child = parent.id, desk.child(parent)
    desk.write(child, "a")
    desk.suspend(child, "ok", FAR)
    desk.finish(child)
    assert desk.events(root) == [
        b"workflow_start",  # what the root's journal says
        f"workflow_start\0{child.id}".encode(),
        f"step_start\0{child.id}".encode(),
        f"step_finish\0{child.id}".encode(),
        f"suspend_ok\0{child.id}".encode(),
        f"workflow_finish\0{child.id}".encode(),
    ]
    assert desk.state.ttl[keys.TOPIC + root] == -1, "the root has not finished"
    assert set(desk.state.topics) == {root.encode(), f"ok/{child.id}".encode()}


@pytest.mark.failure(16)
@pytest.mark.parametrize("late", ["retry", "backoff", "ok"])
def test_a_delayed_duplicate_of_a_write_undoes_no_later_one(desk: Desk, late: str) -> None:
    by = desk.start()
    first = by.fence
    if late == "backoff":
        desk.backoff(by, "a", FAR)
        desk.make_due(f"b{by.id} a")
        desk.fire()
        script, duplicate = "back_off", (*first, "a", step(b"", "backoff"), FAR, b"", "e", b"\x01")
    else:
        desk.write(by, "a", step(b"first", late))
        script, duplicate = "write_step", (*first, "a", step(b"first", late), "", "e", b"\x01")
    with desk.unchanged():
        assert desk.run(script, *duplicate) >= 1
    if late != "ok":
        desk.write(by, "a", step(b"second", attempt=2))
    with desk.unchanged():
        assert desk.run(script, *duplicate) >= 1


# --- load -------------------------------------------------------------------------------


def test_load_returns_the_state_and_takes_ownership(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a", step(b"\x05"))
    desk.requeue("w1", by.entry, lost=True)
    later = desk.deliver("w2")
    data, started, losses, origin, flat, answers, heartbeats = desk.run(
        "load", later.id, later.entry, later.owner
    )
    assert data == b"in" and int(started) <= desk.now() and losses == b"1" and origin is None
    journal = dict(zip(flat[::2], flat[1::2], strict=True))
    assert set(journal) == {b"", b"a"} and journal[b""] == b"1"
    assert desk.execution(by.id)["owner"] == later.owner.encode()
    with desk.unchanged():
        again = desk.run("load", later.id, later.entry, later.owner)
    assert again == [data, started, losses, origin, flat, answers, heartbeats]
    assert (answers, heartbeats) == (None, None)


def test_load_does_not_start_a_new_execution(desk: Desk) -> None:
    by = desk.start()
    assert desk.run("load", by.id, by.entry, by.owner) == [b"in", None, None, None, [], None, None]
    assert "started" not in desk.execution(by.id)


def test_load_stores_the_first_version_until_the_execution_has_started(desk: Desk) -> None:
    by = desk.start()
    desk.load(by, "1")
    assert desk.execution(by.id)["version"] == b"1"
    created = int(desk.execution(by.id)["created"])
    assert desk.state.index[b"version", b"wf\x001"] == {by.id.encode(): created}
    assert desk.state.versions == {b"wf\x001"}
    with desk.unchanged():
        desk.load(by, "1")
        desk.load(by, "2")
    desk.write(by, "a")
    desk.requeue("w1", by.entry)
    later = desk.deliver("w2")
    desk.load(later, "2")
    assert desk.execution(by.id)["version"] == b"1" and desk.state.versions == {b"wf\x001"}


def test_what_code_without_a_version_has_started_gets_none(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    with desk.unchanged():
        desk.load(by, "1")


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_a_version_is_listed_while_it_has_open_executions(desk: Desk, end: str) -> None:
    one, other = desk.start(), desk.start()
    desk.load(one, "1")
    desk.load(other, "1")

    def finish(by: Activated) -> None:
        if end == "cancelled":
            desk.cancel(by.id)
        else:
            desk.finish(by, end)

    finish(one)
    assert set(desk.state.index[b"version", b"wf\x001"]) == {other.id.encode()}
    finish(other)
    assert desk.state.versions == set() and (b"version", b"wf\x001") not in desk.state.index
    assert desk.execution(one.id)["version"] == b"1"
    if end == "failed":
        desk.retry(one.id)
        assert set(desk.state.index[b"version", b"wf\x001"]) == {one.id.encode()}
        assert desk.state.versions == {b"wf\x001"}


# --- backoff ----------------------------------------------------------------------------


def test_backoff_journals_the_failure_and_sets_its_timer(desk: Desk) -> None:
    by = desk.start()
    before = desk.now()
    assert desk.backoff(by, "call it", FAR, step(b"err", "backoff", 3)) == 1
    assert desk.record(by.id, "call it")[2:6] == [b"backoff", 3, 1.5, b"err"]
    due = desk.state.timers[f"b{by.id} call it".encode()]
    assert before + FAR <= due <= desk.now() + FAR
    assert msgpack.unpackb(desk.execution(by.id)["waits"]) == ["call it"]
    assert desk.state.suspensions == {}
    assert desk.events(by.id) == [b"e"]


def test_a_step_runs_again_after_its_backoff(desk: Desk) -> None:
    by = desk.start()
    record = step(b"\xc4\x02\x00\xff" * 9, "backoff", 3)
    desk.backoff(by, "b", FAR, record)
    assert desk.park(by, "b") == 0
    before = desk.record(by.id, "b")
    desk.make_due(f"b{by.id} b")
    assert desk.fire() == [1, 0, -1]
    assert desk.record(by.id, "b") == [*before[:2], b"retry", *before[3:]]
    assert desk.execution(by.id)["status"] == b"queued"
    assert desk.fire() == [0, 0, -1]


# --- park -------------------------------------------------------------------------------


def test_park_clears_the_activation(desk: Desk) -> None:
    by = active(desk)
    desk.backoff(by, "b")
    assert desk.park(by, "open", "b") == 0
    fields = desk.execution(by.id)
    assert fields["status"] == b"waiting" and not {"entry", "owner", "attempts", "progress"} & set(fields)
    assert not desk.state.queues[b"default"].entries and not desk.state.queues[b"default"].pending
    row = {by.id.encode(): float(fields["created"])}
    assert desk.state.index == {(b"all", b"wf"): row, (b"waiting", b"wf"): row}


@pytest.mark.failure(24)
def test_park_on_a_decided_wait_returns_its_record_and_changes_nothing(desk: Desk) -> None:
    by = active(desk)
    desk.suspend(by, "other")
    desk.answer(by.id, "open")
    with desk.unchanged():
        reply = desk.park(by, "other", "open")
    assert reply[0] == 4 and reply[1] == b"open" and len(reply) == 3
    assert msgpack.unpackb(reply[2], raw=True) == desk.record(by.id, "open")
    assert desk.park(by, "other") == 0


@pytest.mark.failure(37)
def test_park_on_an_unknown_wait_is_refused(desk: Desk) -> None:
    by = active(desk)
    with desk.unchanged():
        assert desk.park(by, "open", "forgotten") == -3
        assert desk.park(by) == -3


# --- finish -----------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "field"), [("completed", "output"), ("failed", "error")])
def test_finish_ends_everything(desk: Desk, status: str, field: str) -> None:
    by = desk.start()
    desk.suspend(by, "open", FAR)
    desk.backoff(by, "b")
    desk.answer(by.id, "never asked", early=True)
    with Subscriber(desk.url, desk.prefix, "me") as me:
        assert desk.run("watch_execution", by.id, "me") == [b"queued"]
        value = b"\x00value\xff"
        more = packed(["unreached", "z"])
        assert desk.run("finish", *by.fence, 0, status, value, b"\x80", more, "step_finish", b"\x01") == 0
        assert me.received(1) == [[b"done", by.id.encode(), status.encode(), field.encode(), value]]
    fields = desk.execution(by.id)
    assert fields["status"] == status.encode() and fields[field] == value
    assert fields["unreached"] == b"z"
    assert by.entry not in desk.state.queues[b"default"].entries
    assert desk.record(by.id, "open")[2] == b"closed"
    assert desk.record(by.id, "b")[2] == b"retry"
    assert desk.events(by.id)[-2:] == [b"step_finish", b"workflow_finish"]
    state = desk.state
    assert not state.timers and not state.suspensions and not state.early
    assert state.ended == {by.id.encode(): float(int(fields["finished"]) + RETENTION)}
    topics = (keys.TOPIC + by.id, keys.TOPIC + "open/" + by.id)
    for name in (keys.JOURNAL + by.id, *topics):
        assert RETENTION - 60_000 < state.ttl[name] <= RETENTION, name
    assert RETENTION < state.ttl[keys.EXEC + by.id] <= RETENTION + 60_000


def test_finish_starts_an_execution_without_steps(desk: Desk) -> None:
    fields = desk.execution(desk.finished())
    assert int(fields["started"]) == int(fields["finished"])
    assert "unreached" not in fields


def test_a_large_result_is_left_out_of_the_notice(desk: Desk) -> None:
    by = desk.start()
    with Subscriber(desk.url, desk.prefix, "me") as me:
        desk.run("watch_execution", by.id, "me")
        desk.finish(by, value=b"x" * 16385)
        assert me.received(1) == [[b"done", by.id.encode(), b"completed", b"output", False]]


@pytest.mark.promise("retention")
def test_an_execution_is_forgotten_after_its_retention(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    desk.finish(by)
    other = desk.finished()
    desk.run("follow", other, 60_000)
    desk.retention_ends(by.id)
    assert desk.fire() == [0, 1, -1]
    state = desk.state
    assert list(state.executions) == [other.encode()] == list(state.ended)
    assert list(state.topics) == [other.encode()] and state.journals == {}
    assert {what for what, _ in state.index} == {b"all", b"ended"}
    assert state.index[b"all", b"wf"] == {other.encode(): float(desk.execution(other)["created"])}


def test_an_expired_execution_leaves_no_row_behind(desk: Desk) -> None:
    one = desk.finished(retention=5)
    desk.do("PEXPIRE", keys.EXEC + one, 0)
    desk.retention_ends(one)
    assert desk.fire() == [0, 1, -1]
    assert desk.state.index == {} and desk.state.ended == {}


def test_a_reused_id_is_not_forgotten_with_its_predecessor(desk: Desk) -> None:
    one = desk.finished(retention=5)
    desk.do("PEXPIRE", keys.EXEC + one, 0)  # no timer has fired since, and the same id is used again
    desk.do("DEL", keys.TOPIC + one)  # it expired before its execution did
    desk.retention_ends(one)
    desk.invoke(one)
    assert desk.fire() == [0, 1, -1]
    assert desk.execution(one)["status"] == b"queued"
    assert list(desk.state.index) == [(b"all", b"wf")] and desk.state.ended == {}
