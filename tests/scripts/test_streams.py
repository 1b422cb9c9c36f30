"""An execution's stream: it exists once somebody follows it, or once its journal does not say all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Activated, Desk, packed, step

Events = list[tuple[bytes, Any]]


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def follow(desk: Desk, execution_id: str) -> Any:
    return desk.run("follow", execution_id, 60_000)


def told(desk: Desk, execution_id: str) -> Events:
    """What a follower reads from the beginning: types and data."""
    follow(desk, execution_id)
    return [
        (kind, msgpack.unpackb(data, raw=True))
        for _, flat in desk.state.topics[execution_id.encode()]
        for kind, data in zip(flat[::2], flat[1::2], strict=True)
    ]


def has_stream(desk: Desk, execution_id: str) -> bool:
    return execution_id.encode() in desk.state.topics


def timed(key_took: float, value: bytes = b"\x01") -> bytes:
    """A step's record that says how long it took, without its time."""
    packed_record: bytes = msgpack.packb([1, "step", "ok", 1, key_took, value, 0], use_bin_type=False)
    return packed_record[:-1]


# --- who creates it ---------------------------------------------------------------------


def test_an_execution_that_nobody_follows_has_no_stream(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    desk.note_starts(by, "b")
    desk.wait(by, "nap", 1)
    desk.make_due(f"w{by.id} nap")
    desk.fire()
    desk.write(by, "b")
    desk.finish(by)
    assert not has_stream(desk, by.id) and "stream" not in desk.execution(by.id)


def failed_attempt(desk: Desk, by: Activated) -> Any:
    return desk.write(by, "f", step(b"", "retry"), "step_finish", b"\x80")


WHAT_THE_JOURNAL_DOES_NOT_SAY: dict[str, Callable[[Desk, Activated], Any]] = {
    "a failed attempt": failed_attempt,
    "a retry that waits": lambda desk, by: desk.backoff(by, "f"),
    "a suspension": lambda desk, by: desk.suspend(by, "ok"),
    "a child": lambda desk, by: desk.child(by),
    "an event of its own": lambda desk, by: desk.write(by, "", b"", "text_delta", b"\x01"),
    "a published event": lambda desk, by: desk.publish(by.id, "news", of=by.id),
    "a subscription": lambda desk, by: desk.run("subscribe", by.id, "twf"),
    "a failed end": lambda desk, by: desk.finish(by, "failed", packed([1, "E", "no", ""])),
    "a cancellation": lambda desk, by: desk.cancel(by.id),
    "a further run": lambda desk, by: desk.auto_retry(by),
    "being stuck": lambda desk, by: desk.stick(by),
    "a lost worker": lambda desk, by: desk.requeue("w1", by.entry),
    "being followed": lambda desk, by: follow(desk, by.id),
}


@pytest.mark.parametrize("what", WHAT_THE_JOURNAL_DOES_NOT_SAY)
def test_what_the_journal_does_not_say_creates_the_stream_with_all_before_it(desk: Desk, what: str) -> None:
    by = desk.start()
    desk.write(by, "a")
    desk.note_starts(by, "b")
    assert not has_stream(desk, by.id)
    WHAT_THE_JOURNAL_DOES_NOT_SAY[what](desk, by)
    assert has_stream(desk, by.id)
    before: Events = [
        (b"workflow_start", {b"workflow_id": b"wf", b"execution_id": by.id.encode()}),
        (b"step_start", {b"step_key": b"a", b"attempt": 1}),
        (b"step_finish", {b"step_key": b"a", b"attempt": 1, b"status": b"ok"}),
        (b"step_start", {b"step_key": b"b", b"attempt": 1}),
    ]
    now = told(desk, by.id)
    assert now[: len(before)] == before
    assert [kind for kind, _ in now].count(b"workflow_start") == 1
    assert len(now) > len(before) or what in ("a child", "a subscription", "a lost worker", "being followed")
    assert not desk.state.writers


def test_the_first_write_tells_the_start_once(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    other = desk.start()
    follow(desk, other.id)
    desk.write(other, "a")
    failing = desk.start()
    desk.finish(failing, "failed", packed([1, "E", "no", ""]))
    assert [kind for kind, _ in told(desk, other.id)] == [b"workflow_start", b"step_start", b"step_finish"]
    assert [kind for kind, _ in told(desk, failing.id)] == [b"workflow_finish"]  # as the desk tells no start
    assert [kind for kind, _ in told(desk, by.id)] == [b"suspend_ok"]


@pytest.mark.parametrize("way", ["many records", "a large journal"])
def test_a_long_history_is_told_before_it_is_asked_for(desk: Desk, way: str) -> None:
    by = desk.start()
    for number in range(99 if way == "many records" else 5):
        desk.write(by, f"s{number}")
        assert not has_stream(desk, by.id)
    large = "l" if way == "a large journal" else ""
    assert desk.run("write_step", *by.fence, "last", step(), "s" + large) > 0
    assert has_stream(desk, by.id) and not desk.state.writers
    by.known += 1
    desk.write(by, "after")
    assert len(told(desk, by.id)) == 1 + 2 * (101 if way == "many records" else 7)


# --- following --------------------------------------------------------------------------


def test_following_is_idempotent_and_its_ids_are_the_same_when_it_is_told_again(desk: Desk) -> None:
    by = desk.start()
    for number in range(20):
        desk.write(by, f"s{number}")
    desk.finish(by, value=b"\xa3end")
    assert follow(desk, by.id) == 1
    first = desk.state.topics[by.id.encode()]
    with desk.unchanged():
        assert follow(desk, by.id) == 1
    for half in (False, True):
        if not half:
            desk.do("DEL", keys.TOPIC + by.id)
        desk.do("HDEL", keys.EXEC + by.id, "stream")
        assert follow(desk, by.id) == 1
        assert desk.state.topics[by.id.encode()] == first
    assert [kind for kind, _ in told(desk, by.id)][-1] == b"workflow_finish"
    assert told(desk, by.id)[-1][1] == {b"status": b"completed", b"result": b"end"}
    ids = [tuple(map(int, entry.split(b"-"))) for entry, _ in first]
    assert ids == sorted(set(ids))
    of_its_execution = desk.state.ttl[keys.EXEC + by.id]
    assert 0 <= of_its_execution - 60_000 - desk.state.ttl[keys.TOPIC + by.id] < 1_000


@pytest.mark.parametrize("status", ["queued", "starts later", "waiting", "running"])
def test_a_follower_gets_what_comes_later(desk: Desk, status: str) -> None:
    if status == "starts later":
        one = desk.invoke(delay=FAR)
    elif status == "queued":
        one = desk.invoke()
    else:
        by = desk.start()
        one = by.id
        desk.wait(by, "nap", FAR)
        if status == "waiting":
            assert desk.park(by, "nap") == 0
    follow(desk, one)
    before = told(desk, one)
    assert has_stream(desk, one) and [kind for kind, _ in before] in ([], [b"workflow_start"])
    if status == "starts later":
        desk.make_due("p" + one)
        desk.fire()
    elif status == "waiting":
        desk.make_due(f"w{one} nap")
        desk.fire()
    if status != "running":
        by = desk.deliver()
    desk.write(by, "a")
    desk.finish(by)
    after = told(desk, one)
    assert [kind for kind, _ in after[-3:]] == [b"step_start", b"step_finish", b"workflow_finish"]
    assert [kind for kind, _ in after].count(b"workflow_start") == 1


def test_a_follower_gets_the_starts_that_are_noted_once(desk: Desk) -> None:
    by = desk.start()
    follow(desk, by.id)
    desk.note_starts(by, "a", first=True)
    steps = packed([("a", 1, 0, True), ("b", 1, 0, False)])
    assert desk.run("note_starts", *by.fence, steps, 0) == 0
    assert [(kind, data.get(b"step_key")) for kind, data in told(desk, by.id)] == [
        (b"workflow_start", None),
        (b"step_start", b"a"),
        (b"step_start", b"b"),
    ]


def test_one_can_follow_an_execution_before_it_is_there(desk: Desk) -> None:
    one = "ab" * 16
    assert follow(desk, one) == 0
    assert 0 < desk.state.ttl[keys.TOPIC + one] <= 60_000
    desk.do("PEXPIRE", keys.TOPIC + one, 5)
    assert follow(desk, one) == 0
    assert desk.state.ttl[keys.TOPIC + one] > 5_000


@pytest.mark.parametrize("options", [{}, {"delay": FAR}, {"queue": "other"}])
def test_who_follows_before_it_is_there_gets_everything(desk: Desk, options: dict[str, Any]) -> None:
    one = "ab" * 16
    follow(desk, one)
    desk.publish(one, "early", of=one)
    desk.invoke(one, **options)
    assert desk.state.ttl[keys.TOPIC + one] == -1
    if options.get("delay"):
        desk.make_due("p" + one)
        desk.fire()
    by = desk.deliver(queue=options.get("queue", "default"))
    desk.write(by, "a")
    assert [kind for kind, _ in told(desk, one)] == [
        b"early",
        *(b"workflow_start", b"step_start", b"step_finish"),
    ]


def test_following_a_child_is_following_its_root(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    child = desk.child(by)
    desk.write(child, "b")
    desk.finish(child)
    kinds = [kind for kind, _ in told(desk, by.id)]
    mark = b"\0" + child.id.encode()
    assert kinds == [
        *(b"workflow_start", b"step_start", b"step_finish"),
        *(kind + mark for kind in (b"workflow_start", b"step_start", b"step_finish", b"workflow_finish")),
    ]


def test_a_long_step_starts_before_what_ended_while_it_ran(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "short", timed(20))
    desk.write(by, "long", timed(400))
    desk.write(by, "shorter", timed(1))
    assert [(kind, data.get(b"step_key")) for kind, data in told(desk, by.id)[1:]] == [
        (b"step_start", b"long"),
        (b"step_start", b"short"),
        (b"step_finish", b"short"),
        (b"step_finish", b"long"),
        (b"step_start", b"shorter"),
        (b"step_finish", b"shorter"),
    ]


def test_a_history_is_in_order(desk: Desk) -> None:
    """Whatever steps took: each starts before it finishes, and finishes come in the order of the journal."""

    @given(st.lists(st.floats(0, 500), min_size=1, max_size=8))
    def check(steps: list[float]) -> None:
        by = desk.start()
        for number, took in enumerate(steps):
            desk.write(by, f"s{number}", timed(took))
        desk.finish(by)
        history = told(desk, by.id)
        assert history[0][0] == b"workflow_start" and history[-1][0] == b"workflow_finish"
        finished = [data[b"step_key"] for kind, data in history if kind == b"step_finish"]
        assert finished == [b"s%d" % number for number in range(len(steps))]
        for key in finished:
            of_it = [kind for kind, data in history if data.get(b"step_key") == key]
            assert of_it == [b"step_start", b"step_finish"]

    check()


# --- the direct writer ------------------------------------------------------------------


def written(desk: Desk) -> Activated:
    by = desk.start()
    desk.write(by, "a")
    assert desk.state.writers == {by.id.encode(): by.owner.encode()}
    return by


def time_out(desk: Desk, by: Activated) -> None:
    desk.make_due("t" + by.id)
    desk.fire()


def take_over(desk: Desk, by: Activated) -> Any:
    desk.requeue("w1", by.entry)
    other = desk.deliver("w2")
    assert desk.run("load", other.id, other.entry, other.owner)


ENDS: dict[str, Callable[[Desk, Activated], Any]] = {
    "finished": lambda desk, by: desk.finish(by),
    "failed": lambda desk, by: desk.finish(by, "failed", packed([1, "E", "no", ""])),
    "cancelled": lambda desk, by: desk.cancel(by.id),
    "timed out": time_out,
    "stuck": lambda desk, by: desk.stick(by),
    "parked": lambda desk, by: (desk.wait(by, "nap", FAR), desk.park(by, "nap")),
    "requeued": lambda desk, by: desk.requeue("w1", by.entry),
    "lost": lambda desk, by: desk.requeue("w1", by.entry, lost=True),
    "taken over": take_over,
    "put back": lambda desk, by: desk.run("put_back", "default", by.id, by.entry, FAR),
    "put back for a reason": lambda desk, by: desk.run("put_back", "default", by.id, by.entry, FAR, "?"),
    "retried": lambda desk, by: desk.auto_retry(by),
}


@pytest.mark.failure(3)
@pytest.mark.parametrize("end", ENDS)
def test_a_late_write_of_a_direct_writer_changes_nothing(desk: Desk, end: str) -> None:
    """A step's record that was delayed on the wire comes when its activation has lost the execution."""
    by = desk.start(timeout=FAR)
    desk.write(by, "a")
    assert by.id.encode() in desk.state.writers
    late = (*by.fence, "late", step(), "s")
    ENDS[end](desk, by)
    assert by.id.encode() not in desk.state.writers
    with desk.unchanged():
        assert desk.run("write_step", *late) == -1


def test_a_direct_write_takes_three_commands(desk: Desk) -> None:
    by = written(desk)
    before = calls(desk)
    desk.write(by, "b")
    counted = {name: count - before.get(name, 0) for name, count in calls(desk).items()}
    inside = {name: count for name, count in counted.items() if count and name in ("hmget", "time", "hset")}
    assert inside == {"hmget": 1, "time": 1, "hset": 1}


def calls(desk: Desk) -> dict[str, int]:
    """How often each command was called so far, by clients and scripts."""
    lines = desk.connection.do("INFO", "commandstats").decode().splitlines()
    pairs = [line.removeprefix("cmdstat_").split(":calls=") for line in lines if ":calls=" in line]
    return {name.lower(): int(rest.partition(",")[0]) for name, rest in pairs}


def test_a_direct_writer_notices_a_journal_that_went_back(desk: Desk) -> None:
    by = written(desk)
    by.known += 1
    with desk.unchanged():
        assert desk.write(by, "b") == -2
    desk.do("DEL", keys.JOURNAL + by.id)
    with desk.unchanged():
        assert desk.write(by, "b") == -2


def test_a_repeated_direct_write_changes_nothing(desk: Desk) -> None:
    by = written(desk)
    first = by.fence
    desk.write(by, "b", step(b"first"))
    with desk.unchanged():
        assert desk.run("write_step", *first, "b", step(b"second"), "s") == 2
