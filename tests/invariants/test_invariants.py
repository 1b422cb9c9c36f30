"""The invariants report everything that is broken by hand, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.journal import result_name
from tests.harness.desk import FAR, Desk, branch, packed
from tests.invariants.state_invariants import check

ME = "f" * 32  # the execution that is broken
QUEUE, EXEC, JOURNAL = keys.QUEUE + "default", keys.EXEC + ME, keys.JOURNAL + ME


@pytest.fixture
def desk(server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    """A desk whose namespace is emptied afterwards, since it was broken on purpose."""
    with Desk(server.url, namespace) as desk:
        yield desk
        desk.restore({})


def queued(desk: Desk) -> None:
    desk.invoke(ME)


def delivered(desk: Desk) -> None:
    desk.start(ME)


def put_back(desk: Desk) -> None:
    by = desk.start(ME)
    assert desk.run("put_back", "default", by.id, by.entry, FAR) == 1


def waiting(desk: Desk) -> None:
    desk.parked("ok then", FAR, execution_id=ME)


def stuck(desk: Desk) -> None:
    desk.stuck("ok then", FAR, execution_id=ME)


def backing_off(desk: Desk) -> None:
    by = desk.start(ME)
    desk.backoff(by, "b")
    assert desk.park(by, "b") == 0


def finished(desk: Desk) -> None:
    by = desk.start(ME)
    desk.suspend(by, "closed at the end", FAR)
    desk.finish(by)


def scheduled(desk: Desk) -> None:
    stored = msgpack.packb({"paused": False, "next": FAR})
    assert desk.run("change_schedule", "s1", "", stored, FAR, "", "", "", "", "") == 1


def triggered(desk: Desk) -> None:
    desk.run("subscribe", "news", "twf")
    desk.publish("news")


def with_run_timeout(desk: Desk) -> None:
    desk.invoke(ME, timeout=FAR)


def awaiting_time(desk: Desk) -> None:
    by = desk.start(ME)
    desk.wait(by, "pause", FAR)
    assert desk.park(by, "pause") == 0


def awaiting_event(desk: Desk) -> None:
    by = desk.start(ME)
    desk.wait_for_event(by, "it", "news")
    assert desk.park(by, "it") == 0


def racing(desk: Desk) -> None:
    by = desk.start(ME)
    desk.suspend(by, "one", race=branch("race", "one", "one"))
    desk.wait(by, "two", FAR, race=branch("race", "two", "two"))


def parent(desk: Desk) -> None:
    by = desk.start(ME)
    desk.suspend(desk.child(by), "ask")
    assert desk.park(by, "kid") == 0


def ended_parent(desk: Desk) -> None:
    by = desk.start(ME, timeout=FAR)
    desk.child(by)
    desk.make_due("t" + ME)
    desk.fire()


def child_result(desk: Desk) -> None:
    by = desk.start(ME)
    desk.finish(desk.child(by))


def holder(desk: Desk) -> None:
    desk.invoke(ME, semaphore="narrow", limit=1, near=True)


def waiter(desk: Desk) -> None:
    desk.invoke(semaphore="narrow", limit=1, near=True)
    holder(desk)


def new_run(desk: Desk) -> None:
    by = desk.start(ME)
    desk.finish(by, "failed")
    assert desk.retry(ME) == [b"retried", 2]


PREPARED = (
    *(queued, delivered, put_back, waiting, stuck, backing_off, finished, scheduled, triggered),
    *(
        with_run_timeout,
        awaiting_time,
        awaiting_event,
        racing,
        parent,
        ended_parent,
        child_result,
        holder,
        waiter,
        new_run,
    ),
)


def anything(desk: Desk) -> None:
    """An execution in every other state, and everything beside executions."""
    for prepare in PREPARED:
        before = desk.snapshot()
        prepare(desk)
        desk.check()
        desk.restore(before)
    desk.start(consumer="w1")
    desk.write(desk.start(consumer="w2"), "a")
    desk.parked("no deadline")
    desk.finished()
    desk.cancel(desk.parked("c", FAR))
    desk.answer(desk.start().id, "later", early=True)
    desk.publish("news")
    desk.fire()
    desk.do("HSET", keys.WORKERS, "w1", 3)
    desk.do("HSET", keys.SERVES, "w1", b"\x80")
    desk.do("HSET", keys.META, "partitions", 1)


def nothing(desk: Desk) -> None:
    pass


Break = Callable[[Desk], object]
BROKEN: list[tuple[Callable[[Desk], None], Break, str]] = [
    (queued, lambda d: d.do("HSET", EXEC, "status", "running"), "has the status running"),
    (queued, lambda d: d.do("HDEL", EXEC, "workflow"), "has no workflow"),
    (queued, lambda d: d.do("HDEL", EXEC, "entry"), f"timers has no row p{ME}"),
    (queued, lambda d: d.do("HSET", EXEC, "entry", "1-1"), "as entry 1-1, which is not in queue default"),
    (queued, lambda d: d.do("DEL", QUEUE), "which is not in queue default"),
    (queued, lambda d: d.do("ZADD", keys.TIMERS, FAR, "p" + ME), "that nothing waits for"),
    (queued, lambda d: d.do("HSET", EXEC, "continuing", 1), "has begun to continue as new"),
    (queued, lambda d: d.do("HSET", EXEC, "since", 2), "has run 1, and its journal begins with a later one"),
    (queued, lambda d: d.do("EXPIRE", EXEC, 1000), "has a TTL"),
    (queued, lambda d: d.do("DEL", EXEC), "stale entry"),
    (queued, lambda d: d.do("XADD", QUEUE, "*", "id", ME, "workflow", "wf"), "stale entry"),
    (queued, lambda d: d.do("XADD", QUEUE, "*", "id", "nobody"), "stale entry .* of nobody"),
    (queued, lambda d: d.do("EXPIRE", QUEUE, 1000), "queue:default has a TTL"),
    (queued, lambda d: d.do("ZREM", keys.INDEX + "all:wf", ME), "has no row in index all:wf"),
    (queued, lambda d: d.do("ZADD", keys.INDEX + "all:wf", 5, ME), "at 5, created"),
    (queued, lambda d: d.do("ZADD", keys.INDEX + "queued:wf", 5, ME), "which is queued"),
    (put_back, lambda d: d.do("ZREM", keys.INDEX + "queued:wf", ME), "has no row in index queued:wf"),
    (put_back, lambda d: d.do("ZADD", keys.INDEX + "queued:wf", 5, ME), "at 5, created"),
    (queued, lambda d: d.do("ZADD", keys.INDEX + "waiting:wf", 5, ME), "which is queued"),
    (queued, lambda d: d.do("ZADD", keys.INDEX + "failed:wf", 5, "nobody"), "nobody, which does not exist"),
    (queued, lambda d: d.do("ZREM", keys.WORKFLOWS, "wf"), "is not listed"),
    (queued, lambda d: d.do("ZADD", keys.INDEX + "ended:wf", 2**50, ME), "listed as one that has ended"),
    (delivered, lambda d: d.do("HSET", JOURNAL, "", 0, "a", b"\x97"), "counts 0 changes"),
    (put_back, lambda d: d.do("ZREM", keys.TIMERS, "p" + ME), "timers has no row"),
    (put_back, lambda d: d.do("HSET", EXEC, "owner", "w1:1"), "an owner but no entry"),
    (waiting, lambda d: d.do("HSET", EXEC, "entry", "1-1"), "waiting but has entry: 1-1"),
    (waiting, lambda d: d.do("HSET", EXEC, "owner", "w1:1"), "waiting but has owner: w1:1"),
    (waiting, lambda d: d.do("DEL", JOURNAL), "waiting for nothing"),
    (waiting, lambda d: d.do("HDEL", EXEC, "waits"), "not noted its wait ok then"),
    (waiting, lambda d: d.do("DEL", keys.SUSPENSIONS), f"suspensions has no row {ME} ok then"),
    (waiting, lambda d: d.do("ZADD", keys.SUSPENSIONS, 1, ME + " b"), f"suspensions has a row {ME} b"),
    (waiting, lambda d: d.do("DEL", keys.TIMERS), f"timers has no row s{ME} ok then"),
    (waiting, lambda d: d.do("ZADD", keys.TIMERS, 7, f"s{ME} ok then"), "ok then at 7, not"),
    (waiting, lambda d: d.do("ZADD", keys.TIMERS, 7, f"b{ME} ok then"), "that nothing waits for"),
    (waiting, lambda d: d.do("EXPIRE", keys.TOPIC + "ok then/" + ME, 1000), "has a TTL"),
    (waiting, lambda d: d.do("HSET", EXEC, "answers", 1), "waiting but has answers: 1"),
    (waiting, lambda d: d.do("HSET", EXEC, "stuck", "why"), "is waiting but its reason .* is why"),
    (stuck, lambda d: d.do("HDEL", EXEC, "stuck"), "is stuck but its reason .* is nothing"),
    (stuck, lambda d: d.do("HSET", EXEC, "entry", "1-1"), "stuck but has entry: 1-1"),
    (stuck, lambda d: d.do("HSET", EXEC, "owner", "w1:1"), "stuck but has owner: w1:1"),
    (stuck, lambda d: d.do("HSET", EXEC, "answers", 1), "stuck but has answers: 1"),
    (stuck, lambda d: d.do("XADD", QUEUE, "*", "id", ME, "workflow", "wf"), "stale entry .* which is stuck"),
    (stuck, lambda d: d.do("ZADD", keys.TIMERS, FAR, "p" + ME), "that nothing waits for"),
    (stuck, lambda d: d.do("DEL", keys.TIMERS), f"timers has no row s{ME} ok then"),
    (stuck, lambda d: d.do("DEL", keys.SUSPENSIONS), f"suspensions has no row {ME} ok then"),
    (stuck, lambda d: d.do("ZREM", keys.INDEX + "stuck:wf", ME), "has no row in index stuck:wf"),
    (stuck, lambda d: d.do("EXPIRE", EXEC, 1000), "has a TTL but its execution is stuck"),
    (backing_off, lambda d: d.do("DEL", keys.TIMERS), f"timers has no row b{ME} b"),
    (finished, lambda d: d.do("HDEL", EXEC, "finished"), "has no finish time"),
    (finished, lambda d: d.do("PERSIST", EXEC), "has no TTL and belongs to execution"),
    (finished, lambda d: d.do("PERSIST", JOURNAL), "has no TTL and belongs to execution"),
    (finished, lambda d: d.do("PERSIST", keys.TOPIC + ME), "has no TTL and belongs to execution"),
    (
        finished,
        lambda d: d.do("XADD", keys.TOPIC + "other/" + ME, "*", "e", "1"),
        "has no TTL and belongs to execution",
    ),
    (finished, lambda d: d.do("ZADD", keys.TIMERS, 7, "s" + ME + " k"), "that nothing waits for"),
    (finished, lambda d: d.do("ZADD", keys.SUSPENSIONS, 7, ME + " k"), "that nothing waits for"),
    (finished, lambda d: d.do("ZREM", keys.INDEX + "ended:wf", ME), "has no row in index ended:wf"),
    (finished, lambda d: d.do("ZADD", keys.INDEX + "ended:wf", 7, ME), "its row in index ended:wf says 7"),
    (finished, lambda d: d.do("HSET", keys.EARLY + ME, "k", "v"), "still keeps early answers"),
    (finished, lambda d: d.do("ZADD", keys.ERRANDS, 7, f"y{ME} k"), "has the errand"),
    (finished, lambda d: d.do("HSET", JOURNAL, "k", _open("k")), "its wait k is open"),
    (finished, lambda d: d.do("DEL", EXEC), "gone before its time"),
    (scheduled, lambda d: d.do("DEL", keys.ERRANDS), "its errand says otherwise"),
    (scheduled, lambda d: d.do("DEL", keys.SCHEDULES), "for a missing schedule"),
    (
        scheduled,
        lambda d: d.do("HSET", keys.SCHEDULES, "s1", msgpack.packb({"paused": False, "next": None})),
        "has paused=False but its next tick is None",
    ),
    (scheduled, lambda d: d.do("ZADD", keys.ERRANDS, "inf", "ks1"), "was set aside but has not failed"),
    (nothing, lambda d: d.do("HSET", keys.ERRAND_FAILURES, "ks1", "v"), "has failed but is not stored"),
    (triggered, lambda d: d.do("DEL", keys.ERRANDS), "topic news has events for wf that nothing delivers"),
    (new_run, lambda d: d.do("HSET", EXEC, "finished", 1), "queued but has finished: 1"),
    (new_run, lambda d: d.do("HSET", EXEC, "error", "e"), "queued but has error: e"),
    (waiting, lambda d: d.do("HSET", EXEC, "attempts", 1), "waiting but has attempts: 1"),
    (delivered, lambda d: d.do("SREM", keys.QUEUES, "default"), "is listed or has a group, but not both"),
    (queued, lambda d: d.do("SADD", keys.QUEUES, "other"), "queue other is listed but does not exist"),
    (with_run_timeout, lambda d: d.do("ZREM", keys.TIMERS, "t" + ME), f"timers has no row t{ME}"),
    (queued, lambda d: d.do("ZADD", keys.TIMERS, FAR, "t" + ME), "that nothing waits for"),
    (queued, lambda d: d.do("ZADD", keys.TIMERS, FAR, "c" + ME), "that nothing waits for"),
    (awaiting_time, lambda d: d.do("ZADD", keys.TIMERS, 7, f"w{ME} pause"), "pause at 7, not"),
    (child_result, lambda d: d.do("HSET", EXEC, "waits", packed(["kid"])), "still notes its wait kid"),
    (awaiting_event, lambda d: d.do("DEL", keys.SUBS + "news"), "but has not subscribed"),
    (awaiting_event, lambda d: _change(d, "it", 2, "expired"), "no longer, but is still subscribed"),
    (
        awaiting_event,
        lambda d: d.do("HSET", keys.SUBS + "news", "w1-1 x y", "0-0"),
        "which does not wait",
    ),
    (
        awaiting_event,
        lambda d: d.do("HSET", keys.SUBS + "news", "f1-1 x y", "$"),
        "which is not a stream position",
    ),
    (nothing, lambda d: d.do("HSET", keys.SUBS + "news", "f1-1 x y", "0-0=1-1"), "but nothing delivers it"),
    (awaiting_event, lambda d: _change(d, "it", 6, "f1-1 x it"), "not in the partitions that says"),
    (racing, lambda d: _change(d, "one", 2, "answered"), "which is open, but its one is answered"),
    (racing, lambda d: _win(d), "won by two, but one is open"),
    (parent, lambda d: d.do("DEL", keys.CHILDREN + ME), "is not among the children of"),
    (parent, lambda d: d.do("SADD", keys.CHILDREN + ME, ME + ".ab"), "which is nothing"),
    (parent, lambda d: d.do("EXPIRE", keys.CHILDREN + ME, 1000), "has a TTL but is permanent"),
    (parent, lambda d: d.do("HDEL", EXEC, "relations"), "does not know of any"),
    (parent, lambda d: _change(d, "kid", 5, 2), "for 2 of 1 children; 1 of 1 have no result"),
    (parent, lambda d: _change(d, "kid", 2, "done"), "which is done, for 1 children"),
    (parent, lambda d: d.do("DEL", keys.EXEC + _child()), "for f{32}.* which does not go on"),
    (parent, lambda d: d.do("DEL", keys.BELOW + ME), "is not among those below"),
    (parent, lambda d: d.do("SADD", keys.BELOW + ME, "other k"), "have other k, which is not"),
    (parent, lambda d: d.do("DEL", keys.DESCENDANTS + ME), "is not among the descendants of"),
    (parent, lambda d: d.do("SADD", keys.DESCENDANTS + ME, "other"), "have other, which is not"),
    (parent, lambda d: d.do("EXPIRE", keys.DESCENDANTS + ME, 1000), "has a TTL but its execution is waiting"),
    (parent, lambda d: d.do("EXPIRE", keys.BELOW + ME, 1000), "has a TTL but its execution is waiting"),
    (ended_parent, lambda d: d.do("DEL", keys.TIMERS), "was ended but nothing ends its children"),
    (child_result, lambda d: d.do("HDEL", JOURNAL, result_name(_child())), "1 of 1 have no result"),
    (
        holder,
        lambda d: d.do("DEL", keys.SLOTS + "narrow"),
        "has an entry but no slot of semaphore narrow",
    ),
    (holder, lambda d: d.do("HSET", keys.SLOTS + "narrow", ME, 7), "at version 7, which is at 1"),
    (holder, lambda d: d.do("HSET", keys.SLOTS + "narrow", "x", 1), "x, which does not exist"),
    (
        holder,
        lambda d: d.do("HSET", keys.SLOTS + "narrow", "x", 1),
        "2 executions with a slot, 1 allowed",
    ),
    (
        holder,
        lambda d: d.do("HSET", EXEC, "status", "waiting"),
        "semaphore narrow has f{32}, which is waiting",
    ),
    (holder, lambda d: d.do("HDEL", EXEC, "entry"), "with a slot, which has no entry"),
    (queued, lambda d: d.do("HSET", keys.SLOTS + "other", ME, 1), "which is of another semaphore"),
    (queued, lambda d: d.do("ZADD", keys.ERRANDS, FAR, "l" + ME), "is in no semaphore but has an errand"),
    (waiter, lambda d: d.do("ZREM", keys.WAITERS + "narrow", ME), f"timers has no row p{ME}"),
    (waiter, lambda d: d.do("HDEL", keys.SLOTS + "narrow", ME), "does not know its version"),
    (waiter, lambda d: d.do("HSET", EXEC, "entry", "1-1"), "among the waiters, which has an entry"),
    (waiter, lambda d: d.do("ZADD", keys.TIMERS, 7, "p" + ME), "among the waiters, which starts later"),
    (waiter, lambda d: _all_but_me(d), "has waiters, but only 0 slots taken of 1"),
    (nothing, lambda d: d.do("SET", keys.ONCE + "n", "1-1"), "belongs to no execution"),
    (nothing, lambda d: d.do("HSET", JOURNAL, "", 1), "has no TTL and belongs to no execution"),
    (nothing, lambda d: d.do("HSET", keys.EARLY + ME, "k", "v"), "has no TTL and belongs to no execution"),
    (nothing, lambda d: d.do("XADD", keys.TOPIC + "old news", "*", "e", "1"), "belongs to no execution"),
    (nothing, lambda d: d.do("SET", keys.TIMER_LEADER, "w1"), "belongs to no execution"),
    (nothing, lambda d: d.do("SET", "lock", "w1"), "lock is not a key of ours"),
    (nothing, lambda d: d.do("SET", "lock:1", "w1", "EX", 100), "lock:1 is not a key of ours"),
    (nothing, lambda d: d.do("SET", JOURNAL, "w1", "EX", 100), "is a string, not a hash"),
]


def _child() -> str:
    return keys.child_id(ME, "kid", 0)


def _change(desk: Desk, key: str, position: int, value: str | int) -> None:
    """Change an item of a journal record."""
    record = desk.record(ME, key)
    record[position] = value
    desk.do("HSET", JOURNAL, key, packed(record))


def _win(desk: Desk) -> None:
    _change(desk, "race", 2, "won")
    _change(desk, "race", 4, "two")


def _all_but_me(desk: Desk) -> None:
    """Take the slots of all others away without admitting a waiter."""
    for one in desk.do("HKEYS", keys.SLOTS + "narrow"):
        if one != ME.encode():
            desk.do("HDEL", keys.SLOTS + "narrow", one)


def _open(key: str) -> bytes:
    packed: bytes = msgpack.packb([1, "suspend", "open", 1, 0, "", "", "", "", "", 0, "", ""])
    return packed


def test_a_sound_state_has_no_violations(desk: Desk) -> None:
    anything(desk)
    check(desk.url, desk.namespace)


@pytest.mark.parametrize(("prepare", "corrupt", "violation"), BROKEN, ids=[row[2] for row in BROKEN])
def test_every_violation_is_reported(
    desk: Desk, prepare: Callable[[Desk], None], corrupt: Break, violation: str
) -> None:
    anything(desk)
    prepare(desk)
    check(desk.url, desk.namespace)
    corrupt(desk)
    with pytest.raises(AssertionError, match=violation):
        check(desk.url, desk.namespace)


def test_a_delivered_entry_that_nobody_holds_is_a_lost_execution(desk: Desk) -> None:
    desk.start(ME, consumer="w1")
    check(desk.url, desk.namespace)
    desk.connection.do("XGROUP", "DELCONSUMER", desk.prefix + QUEUE, keys.GROUP, "w1")
    with pytest.raises(AssertionError, match=r"is lost: its entry .* pending for nobody"):
        check(desk.url, desk.namespace)


def test_a_pending_entry_that_was_deleted_is_reported(desk: Desk) -> None:
    by = desk.start(ME)
    desk.do("XDEL", QUEUE, by.entry)
    with pytest.raises(AssertionError, match="pending that was deleted"):
        check(desk.url, desk.namespace)


def test_a_namespace_is_not_a_pattern(desk: Desk) -> None:
    with Desk(desk.url, desk.namespace + "*") as other:
        other.do("SET", "lock", 1)
        check(desk.url, desk.namespace)
        desk.do("SET", "lock", 1)
        other.do("DEL", "lock")
        check(other.url, other.namespace)
