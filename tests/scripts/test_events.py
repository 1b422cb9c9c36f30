"""publish and its subscribers: which get an event at once, and which by an errand."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, RETENTION, Activated, Desk, Subscriber, subscriber


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def parked(desk: Desk, topic: str = "news", ms: int | str = "") -> Activated:
    """An execution parked at "it then", waiting for an event."""
    by = desk.start()
    desk.wait_for_event(by, "it then", topic, ms)
    assert desk.park(by, "it then") == 0
    return by


# --- publish once -----------------------------------------------------------------------


@pytest.mark.failure(16)
def test_an_event_with_a_name_is_published_once(desk: Desk) -> None:
    entry = desk.publish("news", once="n1")
    with desk.unchanged():
        assert desk.publish("news", "other", b"\x02", once="n1") == entry
        assert desk.publish("elsewhere", once="n1") == entry
    state = desk.state
    assert state.once == {b"n1": entry} and 0 < state.ttl[keys.ONCE + "n1"] <= RETENTION
    second = desk.publish("news", once="n2")
    assert [one for one, _ in state.topics[b"news"]] == [entry] and second > entry
    assert desk.publish("news") > second and desk.state.once.keys() == {b"n1", b"n2"}


def test_publishing_twice_under_a_name_resolves_one_wait(desk: Desk) -> None:
    first = parked(desk)
    entry = desk.publish("news", once="n1")
    assert desk.deliver().id == first.id
    second = parked(desk)
    assert desk.publish("news", once="n1") == entry
    assert desk.record(first.id, "it then")[2] == b"event"
    assert desk.record(second.id, "it then")[2] == b"open"


# --- waits ------------------------------------------------------------------------------


def test_an_event_resolves_its_waits_and_wakes_their_executions(desk: Desk) -> None:
    first, second, other = parked(desk, ms=FAR), parked(desk), parked(desk, "quiet")
    before = desk.now()
    entry = desk.publish("news", "kind", b"\xc4\x02\x00\xff")
    for by in (first, second):
        record = desk.record(by.id, "it then")
        assert record[2] == b"event" and record[7:10] == [entry, b"kind", b"\xc4\x02\x00\xff"]
        assert before <= record[10] <= desk.now()
        fields = desk.execution(by.id)
        assert fields["status"] == b"queued" and "waits" not in fields
    assert desk.record(other.id, "it then")[2] == b"open"
    state = desk.state
    assert list(state.subs) == [b"quiet"] and not state.timers and not state.errands
    carried = state.queues[b"default"].entries[desk.execution(first.id)["entry"]]
    journal = msgpack.unpackb(carried[b"journal"], raw=True)
    assert dict(zip(journal[::2], journal[1::2], strict=True)) == state.journals[first.id.encode()]


def test_an_event_reaches_an_active_execution(desk: Desk) -> None:
    with Subscriber(desk.url, desk.prefix, "w1") as w1:
        by = desk.start()
        by.owner = "w1:abc"
        desk.wait_for_event(by, "it then", "news")
        desk.publish("news")
        (notice,) = w1.received(1)
    assert notice[:3] == [b"wake", by.id.encode(), b"it then"]
    assert msgpack.unpackb(notice[3], raw=True) == desk.record(by.id, "it then")


def test_a_wait_receives_the_first_event_after_it_opened(desk: Desk) -> None:
    desk.publish("news", "before")
    by = parked(desk)
    desk.publish("news", "first")
    desk.publish("news", "second")
    assert desk.record(by.id, "it then")[8] == b"first"


def test_two_waits_of_one_execution_both_receive_the_event(desk: Desk) -> None:
    by = desk.start()
    desk.wait_for_event(by, "one", "news")
    desk.wait_for_event(by, "two", "news")
    desk.publish("news")
    assert [desk.record(by.id, key)[2] for key in ("one", "two")] == [b"event", b"event"]


@pytest.mark.failure(23)
def test_an_event_after_the_deadline_times_the_wait_out(desk: Desk) -> None:
    by = parked(desk, ms=1)
    due = desk.record(by.id, "it then")[4]
    while desk.now() < due:
        pass
    desk.publish("news")
    record = desk.record(by.id, "it then")
    assert record[2] == b"expired" and record[7:10] == [b"", b"", b""]
    assert desk.execution(by.id)["status"] == b"queued" and not desk.state.subs


def test_an_execution_can_wait_for_its_own_events_and_those_of_a_suspension(desk: Desk) -> None:
    by = desk.start()
    desk.wait_for_event(by, "own", by.id)
    desk.wait_for_event(by, "asked", f"ask/{by.id}")
    desk.publish(by.id, of=by.id)
    desk.publish(f"ask/{by.id}", of=by.id)
    assert [desk.record(by.id, key)[2] for key in ("own", "asked")] == [b"event", b"event"]


def test_a_subscription_without_its_execution_is_removed(desk: Desk) -> None:
    """A store that went back in time may have one without the other."""
    stale = subscriber(Activated("0" * 31 + "e", b"1-1", ""), "k")
    desk.do("HSET", keys.SUBS + "news", stale, "0-0")
    by = parked(desk)
    desk.publish("news")
    assert not desk.state.subs and desk.record(by.id, "it then")[2] == b"event"


def test_a_subscription_of_an_earlier_activation_resolves_nothing(desk: Desk) -> None:
    by = desk.start()
    desk.wait_for_event(by, "it then", "quiet")
    desk.do("HSET", keys.SUBS + "news", subscriber(Activated(by.id, b"1-1", ""), "it then"), "0-0")
    desk.publish("news")
    assert desk.record(by.id, "it then")[2] == b"open"
    assert list(desk.state.subs) == [b"quiet"]


@pytest.mark.failure(30)
def test_a_damaged_record_does_not_keep_the_event_from_others(desk: Desk) -> None:
    broken, sound = parked(desk), parked(desk)
    whole = desk.do("HGET", keys.JOURNAL + broken.id, "it then")
    desk.do("HSET", keys.JOURNAL + broken.id, "it then", whole[:20])
    desk.publish("news")
    assert desk.record(sound.id, "it then")[2] == b"event"
    assert desk.cancel(broken.id) == [b"cancelled"]


# --- delivery by errands ----------------------------------------------------------------


def errands(desk: Desk) -> list[bytes]:
    rows = desk.state.errands
    return sorted(rows, key=lambda one: rows[one])


@pytest.mark.failure(26)
def test_a_large_number_of_waits_is_resolved_by_an_errand(desk: Desk) -> None:
    by = desk.start()
    for number in range(100):
        desk.wait_for_event(by, f"k{number}", "news")
    other = parked(desk)
    entry = desk.publish("news")
    assert desk.record(other.id, "it then")[2] == b"open"
    members = desk.state.subs[b"news"].keys() - {b"g"}
    assert len(members) == 101
    assert errands(desk) == [b"wnews", b"enews"]
    for member in members:
        assert desk.run("deliver_event", member, entry, "e", b"\x01") == 1
    assert desk.state.subs == {b"news": {b"g": entry}}
    assert desk.run("advance_subscription", "news", "g", entry, "") == 1
    assert not desk.state.subs


def test_a_later_event_does_not_overtake_one_still_being_delivered(desk: Desk) -> None:
    by = desk.start()
    for number in range(101):
        desk.wait_for_event(by, f"k{number}", "news")
    first = desk.publish("news")
    for number in range(100):
        assert desk.run("deliver_event", subscriber(by, f"k{number}"), first, "e", b"\x01") == 1
    desk.publish("news")
    assert desk.record(by.id, "k100")[2] == b"open", "it has yet to receive the first event"
    assert b"wnews" in errands(desk)


def test_a_hundred_waits_are_resolved_at_once(desk: Desk) -> None:
    by = desk.start()
    for number in range(100):
        desk.wait_for_event(by, f"k{number}", "news")
    desk.publish("news")
    assert not desk.state.subs and not desk.state.errands


def test_a_triggered_workflow_receives_events_by_an_errand(desk: Desk) -> None:
    assert desk.run("subscribe", "news", "tworkflow") == b"0-0"
    by = parked(desk)
    desk.publish("news")
    assert errands(desk) == [b"enews"]
    assert desk.state.subs == {b"news": {b"tworkflow": b"0-0"}}, "it advances when the errand runs"
    assert desk.record(by.id, "it then")[2] == b"event"


def test_a_wait_in_another_partition_receives_the_first_event_by_an_errand(desk: Desk) -> None:
    member = "f1-1 " + "e" * 32 + " k"
    position = desk.publish("news", "before")
    desk.run("subscribe", "news", member)
    by = parked(desk)
    entry = desk.publish("news")
    check = b"s4 news" + member.encode()
    assert errands(desk) == [b"wnews", check]
    assert desk.state.subs == {b"news": {member.encode(): position + b"=" + entry}}
    assert desk.record(by.id, "it then")[2] == b"event"
    desk.publish("news", "second")
    assert errands(desk) == [b"wnews", check], "however many follow"
    assert desk.state.subs == {b"news": {member.encode(): position + b"=" + entry}}


def test_the_subscription_of_a_wait_in_another_partition_is_checked_a_minute_later(desk: Desk) -> None:
    member, before = "f1-1 " + "e" * 32 + " k", desk.now()
    check = b"s4 news" + member.encode()
    desk.run("subscribe", "news", member)
    due = desk.state.errands[check]
    assert before + 60_000 <= due <= desk.now() + 60_000
    desk.run("subscribe", "news", member)
    assert desk.state.errands == {check: due}, "a repeat changes nothing"
    desk.do("ZADD", keys.ERRANDS, 1, check)
    desk.run("fail_errand", check, 1, "", 0, 1, FAR, "no")
    assert desk.run("unsubscribe", "news", member) == 1
    assert (desk.state.errands, desk.state.errand_failures, desk.state.subs) == ({}, {}, {})
    assert desk.run("unsubscribe", "news", member) == 0


@pytest.mark.parametrize("member", ["tworkflow", "w1-1 " + "e" * 32 + " k"])
def test_only_the_subscriptions_of_waits_in_other_partitions_are_checked(desk: Desk, member: str) -> None:
    desk.run("subscribe", "news", member)
    assert desk.state.errands == {}
    desk.run("unsubscribe", "news", member)


def test_an_event_without_subscribers_makes_no_errand(desk: Desk) -> None:
    desk.publish("news")
    assert not desk.state.errands


def test_an_errand_notifies_the_timer_leader(desk: Desk) -> None:
    desk.fire(worker="w1")
    desk.run("subscribe", "news", "tworkflow")
    with Subscriber(desk.url, desk.prefix, "w1") as w1:
        desk.publish("news")
        assert w1.received(1) == [[b"errand", desk.prefix.encode()]]


# --- subscribe and advance --------------------------------------------------------------


def test_subscribe_starts_after_the_latest_event_and_keeps_its_position(desk: Desk) -> None:
    assert desk.run("subscribe", "news", "tone") == b"0-0"
    first = desk.publish("news")
    assert desk.run("subscribe", "news", "ttwo") == first
    desk.publish("news")
    with desk.unchanged():
        assert desk.run("subscribe", "news", "tone") == b"0-0"
        assert desk.run("subscribe", "news", "ttwo") == first
    assert desk.state.subs == {b"news": {b"tone": b"0-0", b"ttwo": first}}


def test_advance_moves_or_removes_a_subscriber_once(desk: Desk) -> None:
    desk.run("subscribe", "news", "tone")
    position = desk.publish("news")
    with desk.unchanged():
        assert desk.run("advance_subscription", "news", "tone", "1-1", position) == 0
        assert desk.run("advance_subscription", "news", "tother", "0-0", position) == 0
    assert desk.run("advance_subscription", "news", "tone", "0-0", position) == 1
    assert desk.state.subs == {b"news": {b"tone": position}}
    with desk.unchanged():
        assert desk.run("advance_subscription", "news", "tone", "0-0", "") == 0
    assert desk.run("advance_subscription", "news", "tone", position, "") == 1
    assert desk.state.subs == {}
