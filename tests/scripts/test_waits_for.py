"""wait: durable waits for a time or an event."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Activated, Desk, Subscriber, branch, step, subscriber


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def unpacked(reply: Any) -> Any:
    return msgpack.unpackb(reply, raw=True)


def waiting(desk: Desk) -> Activated:
    """An execution parked at the wait "pause"."""
    by = desk.start()
    desk.wait(by, "pause", FAR)
    assert desk.park(by, "pause") == 0
    return by


# --- times ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["for", "until"])
def test_a_wait_for_a_time_sets_its_timer(desk: Desk, how: str) -> None:
    by = desk.start()
    before = desk.now()
    ms, until = (FAR, "") if how == "for" else ("", before + FAR)
    reply = desk.run("open_wait", *by.fence, "a pause", ms, until, "", "", "", "", "workflow_start", b"\x80")
    after = desk.now()
    assert reply[0] == 1 and unpacked(reply[1]) == desk.record(by.id, "a pause")
    version, kind, status, opened, due, *rest = desk.record(by.id, "a pause")
    assert (version, kind, status) == (1, b"wait", b"open")
    assert rest == [b"", b"", b"", b"", b"", 0, b""]
    assert before <= opened <= after and due == (opened if how == "for" else before) + FAR
    state = desk.state
    assert state.timers == {f"w{by.id} a pause".encode(): due}
    assert msgpack.unpackb(desk.execution(by.id)["waits"]) == ["a pause"]
    assert desk.execution(by.id)["owner"] == by.owner.encode()
    assert state.suspensions == {} and desk.events(by.id) == [b"workflow_start"]


@pytest.mark.failure(16)
@pytest.mark.parametrize("decided", [False, True])
def test_a_repeated_wait_keeps_the_first_time(desk: Desk, decided: bool) -> None:
    by = desk.start()
    desk.wait(by, "pause", FAR)
    if decided:
        desk.make_due(f"w{by.id} pause")
        desk.fire()
        by.known += 1
    with desk.unchanged():
        changes, record = desk.wait(by, "pause", 2 * FAR, topic="news", subscriber=subscriber(by, "pause"))
    assert changes == by.known and unpacked(record) == desk.record(by.id, "pause")


def test_a_wait_at_the_key_of_a_step_returns_its_record(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    with desk.unchanged():
        _, record = desk.wait(by, "a", FAR)
    assert unpacked(record)[1] == b"step"


@pytest.mark.parametrize("when", [{"ms": 0}, {"until": 1}])
def test_a_time_in_the_past_is_over_at_once(desk: Desk, when: dict[str, Any]) -> None:
    by = desk.start()
    before = desk.now()
    _, record = desk.wait(by, "pause", **when)
    assert unpacked(record)[2] == b"over" and before <= unpacked(record)[10] <= desk.now()
    assert desk.state.timers == {} and "waits" not in desk.execution(by.id)
    with desk.unchanged():
        assert desk.park(by, "pause")[1] == b"pause"


def test_a_finished_wait_wakes_its_execution(desk: Desk) -> None:
    by = waiting(desk)
    before = desk.record(by.id, "pause")
    assert desk.fire()[0] == 0
    desk.make_due(f"w{by.id} pause")
    at = desk.now()
    assert desk.fire() == [1, 0, -1]
    record = desk.record(by.id, "pause")
    assert record[2] == b"over" and at <= record[10] <= desk.now()
    assert [*record[:2], *record[3:10], record[11]] == [*before[:2], *before[3:10], before[11]]
    fields = desk.execution(by.id)
    assert fields["status"] == b"queued" and "waits" not in fields
    entry = desk.state.queues[b"default"].entries[fields["entry"]]
    carried = msgpack.unpackb(entry[b"journal"], raw=True)
    assert dict(zip(carried[::2], carried[1::2], strict=True)) == desk.state.journals[by.id.encode()]


def test_a_finished_wait_reaches_an_active_execution(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w1") as w1:
        by = desk.start()
        by.owner = "w1:abc"
        desk.wait(by, "pause", FAR)
        desk.make_due(f"w{by.id} pause")
        desk.fire()
        (notice,) = w1.received(1)
    assert notice[:3] == [b"wake", by.id.encode(), b"pause"]
    assert unpacked(notice[3]) == desk.record(by.id, "pause")


@pytest.mark.failure(23)
def test_a_wait_for_a_time_cannot_be_answered(desk: Desk) -> None:
    by = waiting(desk)
    with desk.unchanged():
        assert desk.answer(by.id, "pause") == [b"unknown"]
        assert desk.answer(by.id, "pause", early=True) == [b"unknown"]
        assert desk.run("list_suspensions", "-inf", 9, "", 9, 9) == [b"", []]


# --- events -----------------------------------------------------------------------------


def test_a_wait_for_an_event_subscribes(desk: Desk) -> None:
    by = desk.start()
    last = desk.publish("news")
    desk.wait_for_event(by, "it then", "news", FAR)
    desk.wait_for_event(by, "other", "quiet")
    state, entry = desk.state, by.entry.decode()
    assert state.subs == {
        b"news": {f"w{entry} {by.id} it then".encode(): last},
        b"quiet": {f"w{entry} {by.id} other".encode(): b"0-0"},
    }
    record = desk.record(by.id, "it then")
    assert record[5:7] == [b"news", f"w{entry} {by.id} it then".encode()]
    assert state.timers == {f"w{by.id} it then".encode(): record[4]}, "the other has no timeout"
    assert desk.record(by.id, "other")[4] == 0


@pytest.mark.failure(16)
def test_a_repeated_wait_for_an_event_keeps_its_position_in_the_topic(desk: Desk) -> None:
    by = desk.start()
    desk.wait_for_event(by, "it", "news")
    desk.do("XADD", keys.TOPIC + "news", "*", "e", b"\x01")
    desk.do("PEXPIRE", keys.TOPIC + "news", FAR)
    with desk.unchanged():
        desk.wait_for_event(by, "it", "news")


def test_the_timeout_of_an_event_ends_the_subscription(desk: Desk) -> None:
    by = desk.start()
    desk.wait_for_event(by, "it", "news", FAR)
    assert desk.park(by, "it") == 0
    desk.make_due(f"w{by.id} it")
    assert desk.fire() == [1, 0, -1]
    assert desk.record(by.id, "it")[2] == b"expired"
    assert desk.execution(by.id)["status"] == b"queued" and desk.state.subs == {}
    desk.publish("news")
    assert desk.record(by.id, "it")[2] == b"expired"


# --- abandoned waits --------------------------------------------------------------------


def test_park_closes_the_waits_that_the_code_gave_up(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", FAR)
    desk.wait(by, "pause", FAR)
    desk.wait_for_event(by, "it", "news", FAR)
    desk.backoff(by, "call")
    desk.spawn(by, "kids", 1)
    desk.write(by, "again", step(b"", "retry"))
    desk.write(by, "done")
    desk.suspend(by, "still", 0)
    given_up = ["ask", "pause", "it", "call", "kids", "again", "done", "never"]
    assert desk.park(by, "still", given_up=given_up) == 0
    statuses = [desk.record(by.id, key)[2] for key in given_up[:-1]]
    assert statuses == [b"closed"] * 3 + [b"abandoned", b"closed", b"abandoned", b"ok"]
    assert desk.record(by.id, "still")[2] == b"open"
    state = desk.state
    assert not state.timers and not state.subs
    assert list(state.suspensions) == [f"{by.id} still".encode()]
    assert state.executions[keys.child_id(by.id, "kids", 0).encode()][b"status"] == b"queued", (
        "it has not ended"
    )
    assert desk.answer(by.id, "ask") == [b"closed", b"waiting"]


def test_a_park_that_finds_a_decision_still_closes_the_waits_given_up(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask")
    desk.wait(by, "pause", FAR)
    desk.answer(by.id, "ask")
    reply = desk.park(by, "ask", given_up=["pause"])
    assert reply[1:] == [b"ask", desk.state.journals[by.id.encode()][b"ask"]]
    assert desk.record(by.id, "pause")[2] == b"closed"
    assert desk.execution(by.id)["status"] == b"queued"


def test_park_stores_the_workflow_state(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask")
    assert desk.park(by, "ask", state=b"\x81\x01") == 0
    assert desk.execution(by.id)["state"] == b"\x81\x01"
    desk.answer(by.id, "ask")
    later = desk.deliver()
    desk.suspend(later, "more")
    assert desk.park(later, "more") == 0
    assert desk.execution(by.id)["state"] == b"\x81\x01", "an unchanged state is not sent"


@pytest.mark.parametrize("how", ["finish", "cancel"])
def test_the_end_closes_every_kind_of_wait(desk: Desk, how: str) -> None:
    by = desk.start()
    desk.wait(by, "pause", FAR)
    desk.wait_for_event(by, "it", "news")
    if how == "finish":
        desk.finish(by)
    else:
        desk.cancel(by.id)
    assert [desk.record(by.id, key)[2] for key in ("pause", "it")] == [b"closed", b"closed"]
    assert not desk.state.timers and not desk.state.subs


# --- events of another partition --------------------------------------------------------


@pytest.fixture
def home(desk: Desk) -> Iterator[Desk]:
    """The partition of `FAR_TOPIC`, in a namespace of two; `desk` is the other one."""
    desk.do("HSET", keys.META, "partitions", 2)
    with Desk(desk.url, desk.namespace, 1) as home:
        yield home


FAR_TOPIC = next(name for name in map(str, itertools.count()) if keys.partition_of(name, 2) == 1)


def wait_far(desk: Desk, home: Desk, by: Activated, **options: Any) -> str:
    """Wait at "it then" for an event of the far topic; returns the subscriber."""
    member = subscriber(by, "it then", "f")
    home.run("subscribe", FAR_TOPIC, member)
    desk.wait(by, "it then", FAR, topic=FAR_TOPIC, subscriber=member, **options)
    return member


Close = Callable[[Desk, Activated], object]


def time_out(desk: Desk, by: Activated) -> None:
    desk.make_due(f"w{by.id} it then")
    desk.fire()


CLOSES: dict[str, Close] = {
    "timeout": time_out,
    "cancel": lambda desk, by: desk.cancel(by.id),
    "finish": lambda desk, by: desk.finish(by),
}


@pytest.mark.parametrize("how", CLOSES)
def test_a_subscription_in_another_partition_is_ended_by_an_errand(desk: Desk, home: Desk, how: str) -> None:
    by = desk.start()
    member = wait_far(desk, home, by)
    assert desk.state.subs == {} and desk.state.errands == {}
    CLOSES[how](desk, by)
    assert list(desk.state.errands) == [f"u{len(FAR_TOPIC)} {FAR_TOPIC}{member}".encode()]
    assert home.state.subs == {FAR_TOPIC.encode(): {member.encode(): b"0-0"}}


def test_a_wait_too_late_for_its_race_ends_its_subscription(desk: Desk, home: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", race=branch("race", "ask", "ask"))
    desk.answer(by.id, "ask")
    member = wait_far(desk, home, by, race=branch("race", "event", "it then"))
    assert desk.record(by.id, "it then")[2] == b"closed"
    assert list(desk.state.errands) == [f"u{len(FAR_TOPIC)} {FAR_TOPIC}{member}".encode()]


def test_deliver_decides_and_wakes(desk: Desk, home: Desk) -> None:
    by = desk.start()
    member = wait_far(desk, home, by)
    assert desk.park(by, "it then") == 0
    entry = home.publish(FAR_TOPIC, "kind", b"\xc4\x01\x00")
    assert list(home.state.errands) == [b"w" + FAR_TOPIC.encode(), f"s1 {FAR_TOPIC}{member}".encode()]
    before = desk.now()
    assert desk.run("deliver_event", member, entry, "kind", b"\xc4\x01\x00") == 1
    record = desk.record(by.id, "it then")
    assert record[2] == b"event" and record[7:10] == [entry, b"kind", b"\xc4\x01\x00"]
    assert before <= record[10] <= desk.now()
    assert desk.execution(by.id)["status"] == b"queued"
    assert desk.state.timers == desk.state.errands == {}, "the errand that delivered it ends the subscription"
    with desk.unchanged():
        assert desk.run("deliver_event", member, b"9-9", "kind", b"\x01") == 0


def test_deliver_tells_an_opening_wait_from_one_that_will_not_open(desk: Desk, home: Desk) -> None:
    by = desk.start()
    member = subscriber(by, "it then", "f")
    with desk.unchanged():
        assert desk.run("deliver_event", member, b"1-1", "e", b"\x01") == -1
        other = Activated(by.id, b"1-1", "")
        assert desk.run("deliver_event", subscriber(other, "it then", "f"), b"1-1", "e", b"\x01") == 0
    desk.write(by, "it then")
    with desk.unchanged():
        assert desk.run("deliver_event", member, b"1-1", "e", b"\x01") == 0
    desk.finish(by)
    with desk.unchanged():
        assert desk.run("deliver_event", subscriber(by, "more", "f"), b"1-1", "e", b"\x01") == 0


def test_deliver_to_a_subscription_of_an_earlier_activation_decides_nothing(desk: Desk, home: Desk) -> None:
    by = desk.start()
    stale = subscriber(Activated(by.id, b"1-1", ""), "it then", "f")
    wait_far(desk, home, by)
    with desk.unchanged():
        assert desk.run("deliver_event", stale, b"1-1", "e", b"\x01") == 0


@pytest.mark.failure(23)
def test_an_event_after_the_deadline_times_the_wait_out(desk: Desk, home: Desk) -> None:
    by = desk.start()
    member = subscriber(by, "it then", "f")
    home.run("subscribe", FAR_TOPIC, member)
    desk.wait(by, "it then", 1, topic=FAR_TOPIC, subscriber=member)
    due = desk.record(by.id, "it then")[4]
    while desk.now() < due:
        pass
    assert desk.run("deliver_event", member, b"1-1", "e", b"\x01") == 0
    assert desk.record(by.id, "it then")[2] == b"expired"
