"""suspend, answer, fire and cancel: exactly one of answer, timeout and cancel decides a wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import AUDIT_MS, FAR, SHOWN_DIGEST, Activated, Desk, Subscriber, new_id, step


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def unpacked(reply: Any) -> Any:
    return msgpack.unpackb(reply, raw=True)


# --- suspend ----------------------------------------------------------------------------


def test_suspend_opens_a_wait_and_emits_to_both_topics(desk: Desk) -> None:
    by = desk.start()
    before = desk.now()
    shown = b"\x81\xa1a\xc4\x02\x00\xff"
    arguments = ("ok", FAR, shown, "", "", SHOWN_DIGEST, AUDIT_MS, "")
    changes, packed = desk.run("suspend", *by.fence, *arguments, "workflow_start", b"\x80")
    version, kind, status, opened, deadline, *rest = unpacked(packed)
    assert (changes, version, kind, status) == (1, 1, b"suspend", b"open")
    assert before <= opened <= desk.now() and deadline == opened + FAR
    assert rest == [shown, b"", b"", b"", b"", 0, b"", b"", b"", SHOWN_DIGEST, AUDIT_MS, 1]
    state, member = desk.state, f"{by.id} ok".encode()
    assert state.timers == {b"s" + member: float(deadline)}
    assert opened == int(state.suspensions[member]) // 1000
    assert state.topics[f"ok/{by.id}".encode()][0][1] == [b"suspend", shown]
    assert state.topics[by.id.encode()][0][1] == [b"workflow_start", b"\x80", b"suspend_ok", shown]
    assert desk.execution(by.id)["owner"] == by.owner.encode()


def test_suspend_without_a_timeout_sets_no_timer(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    assert desk.state.timers == {} and desk.record(by.id, "ok")[4] == 0


@pytest.mark.failure(16)
@pytest.mark.parametrize("decided", [False, True])
def test_a_repeated_suspend_keeps_the_first_deadline_and_event(desk: Desk, decided: bool) -> None:
    by = desk.start()
    desk.suspend(by, "ok", FAR)
    if decided:
        desk.answer(by.id, "ok")
        by.known += 1
    with desk.unchanged():
        changes, packed = desk.suspend(by, "ok", 2 * FAR, b"\x01")
    assert changes == by.known and unpacked(packed) == desk.record(by.id, "ok")


def test_suspend_at_the_key_of_a_step_returns_its_record(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a", step(b"\x07"))
    with desk.unchanged():
        _, packed = desk.suspend(by, "a")
    assert unpacked(packed)[1] == b"step"


# --- answer -----------------------------------------------------------------------------


def test_an_answer_decides_and_wakes(desk: Desk) -> None:
    one = desk.parked("ok", FAR)
    before, answer = desk.now(), b"\x81\xa1y\xc4\x02\x00\xff"
    tag, at, *rest = desk.answer(one, "ok", answer)
    assert (tag, *rest) == (b"accepted", b"ann", 1, 1) and before <= at <= desk.now()
    record = desk.record(one, "ok")
    assert record[2] == b"answered" and record[6:11] == [answer, b"d1", b"ann", b"client", at]
    state = desk.state
    assert state.timers == state.suspensions == {}
    fields = desk.execution(one)
    assert fields["status"] == b"queued" and "owner" not in fields
    assert state.index == {(b"all", b"wf"): {one.encode(): float(fields["created"])}}
    ((entry, luggage),) = state.queues[b"default"].entries.items()
    assert entry == fields["entry"]
    records = msgpack.unpackb(luggage.pop(b"journal"), raw=True)
    assert dict(zip(records[::2], records[1::2], strict=True)) == desk.state.journals[one.encode()]
    assert luggage == {b"id": one.encode(), b"workflow": b"wf", b"run": b"1", b"input": fields["input"]}
    for topic, kind in ((f"ok/{one}", b"resume"), (one, b"resume_ok")):
        _, (found, data) = state.topics[topic.encode()][-1]
        assert found == kind
        assert msgpack.unpackb(data) == {
            "data": {"y": b"\x00\xff"},
            "resumed_by": "ann",
            "resumed_at": at,
            "channel": "client",
        }


def test_an_anonymous_answer_is_recorded_as_such(desk: Desk) -> None:
    one = desk.parked("ok")
    desk.answer(one, "ok", by="")
    _, (_, data) = desk.state.topics[one.encode()][-1]
    assert msgpack.unpackb(data)["resumed_by"] is None


@pytest.mark.failure(24)
def test_an_answer_reaches_an_active_execution(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w1") as w1:
        by = desk.start()
        by.owner = "w1:abc"
        desk.suspend(by, "ok")
        desk.answer(by.id, "ok")
        (notice,) = w1.received(1)
    assert notice[:3] == [b"wake", by.id.encode(), b"ok"]
    assert unpacked(notice[3]) == desk.record(by.id, "ok")
    assert desk.execution(by.id)["entry"] == by.entry, "it is not queued a second time"


@pytest.mark.failure(23)
@pytest.mark.parametrize("later", ["at once", "after the end"])
def test_a_second_answer_has_no_effect_and_returns_the_first(desk: Desk, later: str) -> None:
    one = desk.parked("ok", FAR)
    _, at, *_ = desk.answer(one, "ok")
    if later == "after the end":
        desk.finish(desk.deliver())
    with desk.unchanged():
        assert desk.answer(one, "ok") == [b"same", at, b"ann"]
        assert desk.answer(one, "ok", b"\xc2", "d2") == [b"other", at, b"ann"]
        assert desk.answer(one, "ok", early=True) == [b"same", at, b"ann"]


@pytest.mark.failure(23)
def test_answers_that_nothing_waits_for_are_refused(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a step")
    desk.backoff(by, "a retry")
    desk.suspend(by, "ok")
    desk.suspend(by, "ok too")
    desk.suspend(by, "decided")
    desk.answer(by.id, "decided")
    with desk.unchanged():
        for key in ("a step", "a retry", "never", ""):
            assert desk.answer(by.id, key) == [b"unknown", b"ok", b"ok too"], key
        assert desk.answer(by.id, "a step", early=True) == [b"unknown", b"ok", b"ok too"]
        assert desk.answer(by.id, "", early=True) == [b"unknown", b"ok", b"ok too"]
        assert desk.answer(new_id(), "ok") == [b"missing"]
        assert desk.answer(new_id(), "ok", early=True) == [b"missing"]


@pytest.mark.failure(23)
def test_an_answer_after_the_deadline_times_the_wait_out(desk: Desk) -> None:
    one = desk.parked("ok", 1)
    deadline = desk.record(one, "ok")[4]
    while desk.now() < deadline:
        pass
    assert desk.answer(one, "ok") == [b"expired", deadline]
    assert desk.record(one, "ok")[2] == b"expired"
    assert desk.execution(one)["status"] == b"queued"
    assert desk.events(one)[-1] == b"timeout_ok"
    with desk.unchanged():
        assert desk.answer(one, "ok") == [b"expired", deadline]


@pytest.mark.failure(23)
def test_an_answer_to_a_finished_execution_returns_how_it_ended(desk: Desk) -> None:
    one = desk.parked("ok")
    desk.cancel(one)
    done = desk.finished()
    with desk.unchanged():
        assert desk.answer(one, "ok") == [b"closed", b"cancelled"]
        assert desk.answer(one, "other") == [b"unknown"]
        assert desk.answer(done, "ok", early=True) == [b"closed", b"completed"]


@pytest.mark.failure(23)
def test_an_early_answer_is_kept_and_used_when_the_wait_opens(desk: Desk) -> None:
    by = desk.start()
    tag, at, who = desk.answer(by.id, "ok", b"\x05", early=True)
    assert (tag, who) == (b"kept", b"ann")
    assert list(desk.state.early[by.id.encode()]) == [b"ok"] and not desk.state.journals
    with desk.unchanged():
        assert desk.answer(by.id, "ok", b"\x05", early=True) == [b"kept", at, b"ann", b""]
        assert desk.answer(by.id, "ok", b"\x06", "d2", early=True) == [b"other", at, b"ann", b""]
        assert desk.answer(by.id, "ok") == [b"unknown"]
    changes, packed = desk.suspend(by, "ok", FAR)
    record = unpacked(packed)
    assert changes == 2 and record[2] == b"answered"
    assert record[6:10] == [b"\x05", b"d1", b"ann", b"client"]
    state = desk.state
    assert not state.early and not state.timers and not state.suspensions
    assert desk.events(f"ok/{by.id}") == [b"suspend", b"resume"]
    assert desk.events(by.id) == [b"suspend_ok", b"resume_ok"]
    with desk.unchanged():
        assert desk.answer(by.id, "ok", b"\x05")[0] == b"same"
        assert desk.park(by, "ok")[1] == b"ok"


# --- timeouts ---------------------------------------------------------------------------


def test_a_timeout_decides_and_wakes(desk: Desk) -> None:
    one = desk.parked("ok", FAR)
    deadline = desk.record(one, "ok")[4]
    assert desk.fire()[:2] == [0, 0]
    desk.make_due(f"s{one} ok")
    assert desk.fire() == [1, 0, -1]
    assert desk.record(one, "ok")[2] == b"expired"
    assert desk.execution(one)["status"] == b"queued"
    assert desk.events(f"ok/{one}") == [b"suspend", b"timeout"]
    _, (kind, data) = desk.state.topics[one.encode()][-1]
    assert kind == b"timeout_ok" and msgpack.unpackb(data) == {"deadline": deadline}
    with desk.unchanged():
        assert desk.answer(one, "ok") == [b"expired", deadline]


@pytest.mark.failure(23)
@pytest.mark.parametrize("decided", ["answered", "closed", "forgotten"])
def test_a_late_timer_does_not_change_a_decided_wait(desk: Desk, decided: str) -> None:
    one = desk.parked("ok", FAR)
    if decided == "answered":
        desk.answer(one, "ok")
    else:
        desk.cancel(one)
    desk.do("ZADD", keys.WORKFLOWS, 2**50, "wf")
    before = desk.snapshot()
    member = f"s{one} {'never' if decided == 'forgotten' else 'ok'}"
    desk.do("ZADD", keys.TIMERS, 1, member)
    assert desk.fire() == [1, 0, -1]
    desk.do("DEL", keys.TIMER_LEADER)
    assert desk.snapshot() == before


@pytest.mark.failure(26)
def test_timers_fire_oldest_first_in_bounded_batches(desk: Desk) -> None:
    waiting = [desk.parked("ok", FAR) for _ in range(5)]
    for number, one in enumerate(reversed(waiting)):
        desk.do("ZADD", keys.TIMERS, number + 1, f"s{one} ok")
    assert desk.fire(limit=2) == [2, 0, 0]
    assert [desk.execution(one)["status"] for one in waiting] == [b"waiting"] * 3 + [b"queued"] * 2
    assert desk.fire(limit=2) == [2, 0, 0] and desk.fire(limit=2) == [1, 0, -1]
    assert desk.fire(limit=2) == [0, 0, -1]
    entries = desk.state.queues[b"default"].entries
    assert sorted(fields[b"id"] for fields in entries.values()) == sorted(one.encode() for one in waiting)


def test_forgetting_executions_is_bounded_too(desk: Desk) -> None:
    for _ in range(5):
        desk.retention_ends(desk.finished())
    assert [desk.fire(limit=2)[1] for _ in range(4)] == [2, 2, 1, 0]
    assert desk.state.executions == {}


def test_one_worker_at_a_time_is_the_timer_leader(desk: Desk) -> None:
    desk.make_due(f"s{desk.parked('ok', FAR)} ok")
    assert desk.run("fire_timers", "w1", 60_000, 0, 0) == [0, 0, 0, [], []]
    assert 0 < desk.state.ttl[keys.TIMER_LEADER] <= 60_000
    with desk.unchanged():
        assert desk.fire(worker="w2") == [-1]
    assert desk.fire(worker="w1") == [1, 0, -1]
    desk.do("DEL", keys.TIMER_LEADER)
    assert desk.fire(worker="w2") == [0, 0, -1]


def test_the_timer_leader_learns_when_the_next_timer_is_due(desk: Desk) -> None:
    desk.parked("ok", FAR)
    fired, forgotten, pause = desk.fire()
    assert (fired, forgotten) == (0, 0) and FAR - 60_000 < pause <= FAR


@pytest.mark.failure(30)
def test_a_damaged_record_does_not_stop_the_timers_of_others(desk: Desk) -> None:
    broken, sound = desk.parked("ok", FAR), desk.parked("ok", FAR)
    whole = desk.do("HGET", keys.JOURNAL + broken, "ok")
    desk.do("HSET", keys.JOURNAL + broken, "ok", whole[:20])
    desk.do("ZADD", keys.TIMERS, 1, f"s{broken} ok", 2, f"s{sound} ok", 3, "nonsense")
    assert desk.fire() == [3, 0, -1]
    assert desk.record(sound, "ok")[2] == b"expired"
    assert desk.cancel(broken) == [b"cancelled"]


# --- cancel -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "delivered", "put back", "waiting"])
def test_cancel_ends_an_execution_in_any_state(desk: Desk, state: str) -> None:
    one = desk.invoke()
    by = Activated(one, b"", "")
    if state != "queued":
        by = desk.deliver()
    if state == "put back":
        assert desk.run("put_back", "default", by.id, by.entry, FAR) == 1
    if state == "waiting":
        desk.suspend(by, "ok", FAR)
        desk.backoff(by, "b")
        assert desk.park(by, "ok", "b") == 0
    assert desk.cancel(one) == [b"cancelled"]
    fields = desk.execution(one)
    assert fields["status"] == b"cancelled" and fields["cancelled_by"] == b"bob"
    _, (kind, data) = desk.state.topics[one.encode()][-1]
    assert kind == b"workflow_finish"
    assert msgpack.unpackb(data) == {"status": "cancelled", "cancelled_by": "bob"}
    with desk.unchanged():
        assert desk.cancel(one) == [b"cancelled"], "the reply of the first may have been lost"
        assert desk.cancel(one, by="ann") == [b"finished", b"cancelled"]


def test_cancel_notifies_the_worker_and_the_watchers(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w1") as w1, Subscriber(desk.url, desk.prefix, "me") as me:
        by = desk.start()
        by.owner = "w1:abc"
        desk.write(by, "a")
        desk.run("watch_execution", by.id, "me")
        desk.cancel(by.id, by="")
        assert w1.received(1) == [[b"cancelled", by.id.encode(), by.entry]]
        assert me.received(1) == [[b"done", by.id.encode(), b"cancelled", b"cancelled_by", b""]]


@pytest.mark.failure(36)
def test_cancel_of_another_run_changes_nothing(desk: Desk) -> None:
    one = desk.parked("ok")
    with desk.unchanged():
        assert desk.cancel(one, run=2) == [b"run", b"1"]
        assert desk.cancel(new_id()) == [b"missing"]
    done = desk.finished()
    with desk.unchanged():
        assert desk.cancel(done) == [b"finished", b"completed"]
