"""publish, list and inbox; names of every kind; and each script stays within its own keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from polos_redis import PolosClient, events
from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys, scripts
from polos_redis.state.executions import STORED_STATUSES
from tests.harness.desk import FAR, RETENTION, Desk, branch, new_id, packed, step, subscriber

ODD: list[str | bytes] = [
    "{x}",
    "}{",
    "a:b:c",
    "a b",
    " ",
    "a\nb",
    "a\0b",
    "a/b",
    "0" * 32,
    "s" + "0" * 32 + " k",
    "*?[a]",
    "%s%d",
    "ä€😀",
    b"\xfe\xff\x00\x80",  # none starts with 0xff, which marks a child's result
    "k" * 1024,
]


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


# --- publish ----------------------------------------------------------------------------


@pytest.mark.failure(32)
def test_a_free_topic_expires_after_its_last_event(desk: Desk) -> None:
    entry = desk.publish("news", "e", b"\x01")
    assert desk.state.topics == {b"news": [(entry, [b"e", b"\x01"])]}
    desk.do("PEXPIRE", keys.TOPIC + "news", 5_000)
    desk.publish("news", "e", b"\x02")
    assert RETENTION - 60_000 < desk.state.ttl[keys.TOPIC + "news"] <= RETENTION


def test_old_events_of_a_free_topic_are_trimmed(desk: Desk) -> None:
    for _ in range(500):  # trimmed by whole nodes of the stream
        desk.do("XADD", keys.TOPIC + "news", "1-*", "e", b"\x01")
    desk.publish("news", "e", b"\x02")
    assert len(desk.events("news")) < 100


@pytest.mark.failure(32)
def test_an_executions_own_topic_lasts_as_long_as_the_execution(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    for topic in (by.id, f"ok/{by.id}"):
        desk.run("publish", topic, by.id, 5, "e", b"\x01", "")
        assert desk.state.ttl[keys.TOPIC + topic] == -1
    desk.finish(by)
    for topic in (by.id, f"ok/{by.id}"):
        before = desk.state.ttl[keys.TOPIC + topic]
        desk.run("publish", topic, by.id, 5, "e", b"\x01", "")
        assert RETENTION - 60_000 < desk.state.ttl[keys.TOPIC + topic] <= before
        desk.do("DEL", keys.TOPIC + topic)
        desk.run("publish", topic, by.id, 5, "e", b"\x01", "")
        assert RETENTION - 60_000 < desk.state.ttl[keys.TOPIC + topic] <= RETENTION


@pytest.mark.failure(32)
def test_another_topic_named_after_an_execution_still_expires(desk: Desk) -> None:
    by = desk.start()
    desk.run("publish", f"progress/{by.id}", by.id, 5, "e", b"\x01", "")
    desk.finish(by)
    assert RETENTION - 60_000 < desk.state.ttl[keys.TOPIC + f"progress/{by.id}"] <= RETENTION


@pytest.mark.failure(32)
def test_a_suspensions_topic_that_was_written_to_before_lasts_with_the_suspension(desk: Desk) -> None:
    by = desk.start()
    topic = f"ok/{by.id}"
    desk.run("publish", topic, by.id, 5, "e", b"\x01", "")
    desk.suspend(by, "ok")
    assert desk.state.ttl[keys.TOPIC + topic] == -1
    assert desk.events(topic) == [b"e", b"suspend"]


@pytest.mark.failure(32)
def test_events_of_a_child_whose_root_is_forgotten_leave_no_permanent_key(desk: Desk) -> None:
    parent = desk.start()
    root, child = parent.id, desk.child(parent, status="started")
    desk.finish(parent)
    desk.retention_ends(root)
    desk.fire()
    assert keys.TOPIC + root not in desk.state.ttl
    desk.write(child, "a")
    desk.suspend(child, "ok", FAR)
    desk.answer(child.id, "ok")
    desk.finish(child)
    assert 0 < desk.state.ttl[keys.TOPIC + root] <= RETENTION


# --- list -------------------------------------------------------------------------------


def inbox(desk: Desk, after: Any = "-inf", limit: int = 9, workflow: str = "") -> list[Any]:
    _, found = desk.run("list_suspensions", after, limit, workflow, 1000, 1 << 20)
    return list(found)


def test_list_returns_the_newest_first_in_complete_pages(desk: Desk) -> None:
    made = [
        desk.finished(workflow=f"w{n % 3}") if n % 2 else desk.parked(workflow=f"w{n % 3}") for n in range(11)
    ]
    made.append(desk.invoke(workflow="w1"))
    found, before = [], None
    while True:
        before, page = desk.listed(*STORED_STATUSES, before=before, limit=4)
        found += page
        if before is None:
            break
    assert [row[0].decode() for row in found] == made[::-1]
    last = desk.execution(made[-2])
    fields = ("workflow", "status", "created", "started", "finished")
    assert found[1] == [
        made[-2].encode(),
        *(last.get(field) for field in fields),
        None,
        None,
        last["created"],
    ]


def test_list_says_when_a_delayed_execution_starts(desk: Desk) -> None:
    by = desk.start()
    assert desk.run("put_back", "default", by.id, by.entry, FAR) == 1
    ((_, _, status, *_, starts, _, _),) = desk.listed("queued")[1]
    assert (status, starts) == (b"queued", desk.do("ZSCORE", keys.TIMERS, "p" + by.id))


def test_list_by_workflow_and_status(desk: Desk) -> None:
    one, two = desk.parked(workflow="a"), desk.parked(workflow="a:b")
    done = desk.finished(workflow="a")
    assert [row[0].decode() for row in desk.listed(*STORED_STATUSES, workflow="a")[1]] == [done, one]
    assert [row[0].decode() for row in desk.listed("waiting")[1]] == [two, one]
    assert desk.listed(*STORED_STATUSES, workflow="c") == desk.listed("failed") == (None, [])


# --- inbox ------------------------------------------------------------------------------


def test_inbox_returns_the_oldest_first_in_complete_pages(desk: Desk) -> None:
    by = desk.start(workflow="many")
    waits = [(by.id, f"k {n}") for n in range(7)]
    for _, key in waits:
        desk.suspend(by, key)
    waits.append((desk.parked("ok"), "ok"))
    desk.answer(by.id, "k 3")
    waits.remove((by.id, "k 3"))
    found, after = [], "-inf"
    while page := inbox(desk, after, 3):
        found += page
        after = page[-1][3]
    assert [(row[0].decode(), row[1].decode()) for row in found] == waits
    assert found[0][2] == b"many"
    assert found[0][4] == desk.do("HGET", keys.JOURNAL + by.id, "k 0")


# --- names ------------------------------------------------------------------------------


def raw(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


@pytest.mark.failure(21)
def test_any_two_step_keys_are_kept_apart(desk: Desk) -> None:
    by = desk.start()
    for number, key in enumerate(ODD):
        desk.suspend(by, raw(key), FAR, b"\x01" * (number + 1))
    desk.check()
    desk.park(by, *(raw(key) for key in ODD))
    assert [row[:2] for row in inbox(desk, limit=99)] == [[by.id.encode(), raw(key)] for key in ODD]
    for number, key in enumerate(ODD):
        member = b"s" + by.id.encode() + b" " + raw(key)
        if number % 3 == 0:
            desk.make_due(member)
            assert desk.fire()[0] == 1
        elif number % 3 == 1:
            assert desk.answer(by.id, raw(key))[0] == b"accepted"
        status = (b"expired", b"answered", b"open")[number % 3]
        assert desk.record(by.id, raw(key))[2] == status
        assert desk.record(by.id, raw(key))[5] == b"\x01" * (number + 1)
        desk.check()
        topic = desk.events(raw(key) + b"/" + by.id.encode())
        assert topic == [b"suspend", *([b"timeout"], [b"resume"], [])[number % 3]]
    desk.cancel(by.id)


@pytest.mark.failure(21)
@pytest.mark.parametrize("name", ODD, ids=repr)
def test_workflows_queues_and_topics_may_have_any_name(desk: Desk, name: str | bytes) -> None:
    one = desk.finished(workflow=raw(name))
    assert desk.listed(*STORED_STATUSES, workflow=raw(name)) == desk.listed(*STORED_STATUSES)
    assert desk.listed(*STORED_STATUSES)[1][0][:2] == [one.encode(), raw(name)]
    desk.publish(raw(name), raw(name))
    assert desk.events(raw(name)) == [raw(name)]


@pytest.mark.failure(21)
async def test_a_nul_in_a_step_key_does_not_mark_a_child(desk: Desk) -> None:
    by = desk.start(retention=FAR)
    child = desk.child(by)
    for one in (by, child):
        desk.suspend(one, "a\0b")
        desk.finish(one, value=b"\xc0")
    async with PolosClient(desk.url, desk.namespace, partitions=1) as client:
        found = [event async for event in events.stream_workflow(client, "wf", child.id)]
    assert [(event.event_type, event.metadata["execution_id"]) for event in found] == [
        ("workflow_start", by.id),
        *((kind, one.id) for one in (by, child) for kind in ("suspend_a\0b", "workflow_finish")),
    ]


def test_values_are_kept_byte_for_byte(desk: Desk) -> None:
    value = bytes(range(256)) * 4096
    by = desk.start(input=value)
    assert desk.run("load", by.id, by.entry, by.owner)[0] == value
    desk.suspend(by, "ok", 0, value)
    desk.answer(by.id, "ok", value)
    record = desk.record(by.id, "ok")
    assert record[5] == record[6] == value
    desk.finish(by, value=value)
    assert desk.run("watch_execution", by.id, "")[1] == value


# --- own keys only ----------------------------------------------------------------------


def test_every_script_declares_itself_and_describes_itself() -> None:
    for script in scripts.ALL:
        assert script.source.startswith(b"#!lua"), script.name
        assert b"\n--" not in script.source, "comments are not sent to Redis"


@pytest.mark.failure(22)
def test_a_user_limited_to_one_partitions_keys_can_run_every_script(desk: Desk) -> None:
    user = f"limited-{desk.namespace}"
    desk.connection.do(
        *("ACL", "SETUSER", user, "on", ">secret", "resetkeys", f"~{desk.prefix}*", f"&{desk.prefix}*"),
        *("+@all", "-@dangerous", "+ping"),
    )
    try:
        desk.connection.do("AUTH", user, "secret")
        ran = Recorder(desk)
        by = desk.start(consumer="w1")
        desk.run("load", by.id, by.entry, by.owner)
        desk.write(by, "a")
        desk.answer(by.id, "early", early=True)
        desk.suspend(by, "early")
        desk.suspend(by, "ok", FAR)
        desk.give_up(by, "early")
        desk.backoff(by, "b")
        desk.run("watch_execution", by.id, "me")
        desk.run("read_journal", by.id, "0", 9, 9)
        desk.run("read_audit", by.id, 0, 9, 9)
        desk.park(by, "ok", "b")
        inbox(desk)
        desk.answer(by.id, "ok")
        desk.make_due(f"b{by.id} b")
        desk.fire()
        desk.requeue("w1", desk.deliver("w1").entry, lost=True)
        later = desk.deliver("w1")
        desk.run("put_back", "default", later.id, later.entry, FAR)
        desk.make_due("p" + by.id)
        desk.fire()
        desk.finish(desk.deliver("w1"))
        desk.publish("news", "e", b"\x01")
        desk.listed("completed")
        desk.listed("queued", "waiting")
        desk.listed("running")
        desk.run("read_statuses", 9, by.id)
        desk.run("follow", by.id, 1000)
        desk.run("drop_early", by.id, "ok", "d1")
        desk.note_starts(desk.start())
        noting = desk.start()
        desk.run("note_span", noting.id, noting.entry, noting.owner, b"origin")
        desk.run("namespace_stats", 1, "wf", "default")
        desk.run("take_requests", "somebody", 1000, 2000, 1)
        desk.run("confirm", 1000)
        desk.run("repair", "queue", "default", "0", 9)
        desk.cancel(desk.invoke())
        desk.cancel(desk.stuck())
        desk.invoke()
        unserved = desk.deliver("w1")
        desk.run("reserve", "default", unserved.id, unserved.entry, "default\0\0wf")
        desk.run("close_stream", "default\0\0wf", 9)
        desk.run("serve", "default\0\0wf", "w1", 9)
        desk.run("leave_stream", "default\0\0wf", "w1")
        desk.run("prune_consumer", "default", "w1", "")
        desk.run("renew_lease", "w1", b"\x80")
        assert desk.run("check_commands", packed([["GET", desk.prefix + "timer_leader"]])) == [[], []]
        desk.run("create_group", "other")
        desk.run("publish_definition", "limit", "narrow", 3)
        compose(desk)
        desk.run("delete_execution", desk.finished())
        desk.run("claim_notifications", "webhook", 9, FAR)
        desk.run("notification_sent", "webhook", f"{by.id} ok", 1, "")
        continued = desk.start(queue="further")
        desk.note_progress(continued, "a")
        desk.continue_as_new(continued)
        desk.fork(records={"a": step()})
        assert ran.names == {script.name for script in scripts.ALL}
        with pytest.raises(Exception, match=r"NOPERM|ACL|permission"):
            desk.connection.do("EVAL", scripts.WATCH_EXECUTION.source, 1, "polos:{other:0}:", by.id, "")
    finally:
        desk.connection.do("AUTH", "default", "")
        desk.connection.do("ACL", "DELUSER", user)


def compose(desk: Desk) -> None:
    """Everything that relates executions to each other and to semaphores, topics and schedules."""
    by = desk.start(consumer="w1", semaphore="narrow", limit=1, near=True, timeout=FAR)
    desk.wait_for_event(by, "it", "news", race=branch("race", "it", "it"))
    desk.choose(by, "race", "other", "it", "it")
    desk.wait_for_event(by, "it again", "news")
    desk.publish("news", once="n1")
    child = desk.child(by, semaphore="narrow", limit=2, near=True)
    desk.suspend(child, "ask")
    desk.auto_retry(child)
    desk.finish(by, "failed")
    desk.retry(by.id)
    desk.cancel(by.id, run=2)
    desk.run("read_slot_request", by.id)
    desk.run("acquire_or_release_slot", "narrow", 1, "far", 1, 1, FAR)
    desk.run("read_slot_holders", "narrow", "0")
    desk.run("acquire_or_release_slot", "narrow", 1, "far", 1, 0, 0)
    desk.run("grant_slot", by.id, 1)
    desk.run("subscribe", "news", "twf")
    desk.run("unsubscribe", "news", "nobody")
    desk.run("deliver_event", subscriber(by, "it", "f"), "1-1", "e", b"\x01")
    desk.run("trigger_workflow", "news", "wf", "0-0", "1-1", 0, new_id(), b"in", RETENTION, "")
    desk.run("advance_subscription", "news", "twf", "1-1", "")
    desk.run("start_errand", "enews", 0, "one", 3, 0, FAR)
    desk.run("fail_errand", "enews", 0, "one", 3, 1, FAR, "no")
    desk.run("retry_errand", "enews")
    desk.run("finish_errand", "enews", 0, "", "")
    desk.run("change_schedule", "s1", "", "", "", "", "", "", "", "")
    desk.run("read_schedule", "s1")
    desk.fire()


class Recorder:
    """Records which scripts a desk runs."""

    def __init__(self, desk: Desk) -> None:
        self.names: set[str] = set()
        run = desk.run

        def recorded(script: str, *args: Any) -> Any:
            self.names.add(script)
            return run(script, *args)

        desk.run = recorded  # type: ignore[method-assign]
