"""Queues with limits: who holds a slot, who waits, and in what order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Activated, Desk, new_id, packed
from tests.invariants.state import relations_of

SEMAPHORE = "narrow"


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def invoke(desk: Desk, limit: int = 1, semaphore: str = SEMAPHORE, **options: Any) -> str:
    """Start an execution whose semaphore is in its own partition."""
    return desk.invoke(queue=SEMAPHORE, semaphore=semaphore, limit=limit, near=True, **options)


def start(desk: Desk, **options: Any) -> Activated:
    """An activation of a new execution that holds a slot."""
    one = invoke(desk, **options)
    by = desk.deliver(queue=SEMAPHORE)
    assert by.id == one
    return by


def holders(desk: Desk, semaphore: str = SEMAPHORE) -> set[str]:
    """The executions that hold a slot."""
    state, name = desk.state, semaphore.encode()
    return {one.decode() for one in state.slots.get(name, {}).keys() - state.waiters.get(name, {}).keys()}


def waiters(desk: Desk, semaphore: str = SEMAPHORE) -> list[str]:
    """The waiters in order."""
    rows = desk.state.waiters.get(semaphore.encode(), {})
    return [one.decode() for one in sorted(rows, key=lambda one: rows[one])]


def entries(desk: Desk) -> list[str]:
    """The queued and running executions in order."""
    queue = desk.state.queues.get(SEMAPHORE.encode())
    return [] if queue is None else [fields[b"id"].decode() for fields in queue.entries.values()]


def version(desk: Desk, execution_id: str) -> int:
    return relations_of(desk.state.executions[execution_id.encode()]).slot


# --- slots and waiters ------------------------------------------------------------------


def test_the_limit_is_runnable_and_the_others_wait(desk: Desk) -> None:
    made = [invoke(desk, limit=2) for _ in range(4)]
    assert entries(desk) == made[:2] and holders(desk) == set(made[:2]) and waiters(desk) == made[2:]
    state = desk.state
    assert set(state.slots[SEMAPHORE.encode()].values()) == {b"1"}
    for one in made:
        relations = relations_of(state.executions[one.encode()])
        assert (relations.semaphore, relations.limit, relations.near, relations.slot) == (
            SEMAPHORE.encode(),
            2,
            True,
            1,
        )
        fields = desk.execution(one)
        assert fields["status"] == b"queued" and fields["queue"] == SEMAPHORE.encode()
        assert ("entry" in fields) == (one in made[:2])
    assert state.timers == state.errands == {}


Leave = Callable[[Desk, Activated], object]


def park(desk: Desk, by: Activated) -> None:
    desk.suspend(by, "ok")
    assert desk.park(by, "ok") == 0


def lose(desk: Desk, by: Activated) -> None:
    assert desk.requeue("w1", by.entry, lost=True, most=1, queue=SEMAPHORE) == [0, 1, 0]


def put_back(desk: Desk, by: Activated) -> None:
    assert desk.run("put_back", SEMAPHORE, by.id, by.entry, FAR) == 1


def time_out(desk: Desk, by: Activated) -> None:
    desk.make_due("t" + by.id)
    assert desk.fire()[0] == 1


def auto_retry_later(desk: Desk, by: Activated) -> None:
    assert desk.auto_retry(by, delay=FAR) == 2


LEAVES: list[Leave] = [
    *(park, lose, put_back, time_out, auto_retry_later),
    lambda desk, by: desk.finish(by),
    lambda desk, by: desk.finish(by, "failed"),
    lambda desk, by: desk.cancel(by.id),
]


@pytest.mark.parametrize("leave", LEAVES)
def test_a_released_slot_goes_to_the_first_waiter(desk: Desk, leave: Leave) -> None:
    by = start(desk, timeout=FAR)
    second, third = invoke(desk, input=b"second"), invoke(desk)
    leave(desk, by)
    assert entries(desk) == [second] and holders(desk) == {second} and waiters(desk) == [third]
    (entry,) = desk.state.queues[SEMAPHORE.encode()].entries.values()
    assert entry == {b"id": second.encode(), b"workflow": b"wf", b"run": b"1", b"input": b"second"}
    assert version(desk, by.id) == 2


@pytest.mark.failure(6)
@pytest.mark.parametrize("lost", [False, True])
def test_a_requeue_keeps_the_slot(desk: Desk, lost: bool) -> None:
    by = start(desk)
    second = invoke(desk)
    assert desk.requeue("w1", by.entry, lost=lost, queue=SEMAPHORE) == [1, 0, 0]
    assert entries(desk) == [by.id] and holders(desk) == {by.id} and waiters(desk) == [second]
    assert version(desk, by.id) == 1


def test_waiters_are_served_in_order(desk: Desk) -> None:
    made = [invoke(desk) for _ in range(6)]
    served = []
    for _ in made:
        by = desk.deliver(queue=SEMAPHORE)
        served.append(by.id)
        desk.finish(by)
    assert served == made
    assert not desk.state.slots and not desk.state.waiters


def test_a_clock_that_goes_back_lets_nobody_jump_the_queue(desk: Desk) -> None:
    invoke(desk)
    second = invoke(desk)
    later = (desk.now() + FAR) * 1000
    desk.do("ZADD", keys.WAITERS + SEMAPHORE, later, second)
    third, fourth = invoke(desk), invoke(desk)
    assert waiters(desk) == [second, third, fourth]


@pytest.mark.parametrize("how", ["cancel", "time out"])
def test_a_waiter_that_ends_leaves_the_waiters(desk: Desk, how: str) -> None:
    by = start(desk)
    second, third, fourth = (invoke(desk, timeout=FAR) for _ in range(3))
    if how == "cancel":
        assert desk.cancel(third) == [b"cancelled"]
    else:
        desk.make_due("t" + third)
        desk.fire()
    assert waiters(desk) == [second, fourth] and holders(desk) == {by.id}
    assert third.encode() not in desk.state.slots[SEMAPHORE.encode()]
    desk.finish(by)
    assert entries(desk) == [second]


def test_a_suspended_execution_holds_no_slot_and_rejoins_at_the_end(desk: Desk) -> None:
    by = start(desk)
    desk.suspend(by, "ok")
    assert desk.park(by, "ok") == 0
    assert not desk.state.slots
    second, third = invoke(desk), invoke(desk)
    assert desk.answer(by.id, "ok")[0] == b"accepted"
    assert entries(desk) == [second] and waiters(desk) == [third, by.id]
    assert desk.execution(by.id)["status"] == b"queued" and version(desk, by.id) == 3
    desk.cancel(third)
    desk.finish(desk.deliver(queue=SEMAPHORE))
    (entry,) = desk.state.queues[SEMAPHORE.encode()].entries.values()
    assert entry[b"id"] == by.id.encode() and entry[b"input"] == b"in"
    records = msgpack.unpackb(entry[b"journal"], raw=True)
    assert dict(zip(records[::2], records[1::2], strict=True)) == desk.state.journals[by.id.encode()]


def test_a_woken_execution_with_a_free_slot_is_runnable_at_once(desk: Desk) -> None:
    by = start(desk, limit=2)
    invoke(desk, limit=2)
    park(desk, by)
    desk.answer(by.id, "ok")
    (_, entry) = desk.state.queues[SEMAPHORE.encode()].entries.values()
    assert entry[b"id"] == by.id.encode() and b"journal" in entry


def test_a_put_back_execution_requests_a_slot_after_its_delay(desk: Desk) -> None:
    by = start(desk)
    put_back(desk, by)
    assert not desk.state.slots
    other = invoke(desk)
    desk.make_due("p" + by.id)
    assert desk.fire()[0] == 1
    assert entries(desk) == [other] and waiters(desk) == [by.id] and desk.state.timers == {}
    desk.finish(desk.deliver(queue=SEMAPHORE))
    assert entries(desk) == [by.id]


@pytest.mark.parametrize("when", ["delay", "at"])
def test_a_delayed_start_takes_no_slot_before_its_time(desk: Desk, when: str) -> None:
    later: dict[str, Any] = {when: FAR if when == "delay" else desk.now() + FAR}
    one = invoke(desk, **later)
    assert not desk.state.slots and list(desk.state.timers) == [b"p" + one.encode()]
    assert "entry" not in desk.execution(one)
    first = start(desk)
    desk.make_due("p" + one)
    desk.fire()
    assert waiters(desk) == [one] and desk.state.timers == {}
    desk.finish(first)
    assert entries(desk) == [one]


def test_a_new_run_goes_behind_the_other_waiters(desk: Desk) -> None:
    by = start(desk)
    second = invoke(desk)
    assert desk.auto_retry(by) == 2
    assert entries(desk) == [second] and waiters(desk) == [by.id]
    failing = desk.deliver(queue=SEMAPHORE)
    desk.finish(failing, "failed", packed([1, "ValueError", "no", ""]))
    assert entries(desk) == [by.id]
    assert desk.retry(second) == [b"retried", 2]
    assert waiters(desk) == [second]


# --- which limit applies ----------------------------------------------------------------


def test_without_a_known_limit_there_is_no_semaphore(desk: Desk) -> None:
    made = [desk.invoke(queue=SEMAPHORE, semaphore=SEMAPHORE, near=True) for _ in range(3)]
    assert entries(desk) == made and not desk.state.slots
    assert relations_of(desk.state.executions[made[0].encode()]).semaphore is None


def test_a_limit_published_by_workers_applies(desk: Desk) -> None:
    desk.do("HSET", keys.LIMITS, SEMAPHORE, 2)
    made = [
        desk.invoke(queue=SEMAPHORE, semaphore=SEMAPHORE, near=True),
        invoke(desk, limit=1),
        invoke(desk, limit=5),
    ]
    assert entries(desk) == made[:2] and waiters(desk) == made[2:]
    assert [relations_of(desk.state.executions[one.encode()]).limit for one in made] == [2, 2, 2]


def test_a_raised_limit_admits_waiters_at_the_next_change(desk: Desk) -> None:
    made = [invoke(desk) for _ in range(5)]
    desk.do("HSET", keys.LIMITS, SEMAPHORE, 3)
    last = invoke(desk)
    assert entries(desk) == made[:3] and waiters(desk) == [*made[3:], last]


def test_a_lowered_limit_admits_nobody_until_enough_slots_are_free(desk: Desk) -> None:
    activations = [start(desk, limit=3) for _ in range(3)]
    waiting = invoke(desk, limit=3)
    desk.do("HSET", keys.LIMITS, SEMAPHORE, 1)
    for by in activations[:2]:
        desk.finish(by)
        assert waiters(desk) == [waiting]
    desk.finish(activations[2])
    assert entries(desk) == [waiting]


def test_at_most_a_hundred_waiters_are_admitted_at_once(desk: Desk) -> None:
    made = [invoke(desk) for _ in range(103)]
    desk.do("HSET", keys.LIMITS, SEMAPHORE, 1000)
    desk.finish(desk.deliver(queue=SEMAPHORE))
    assert entries(desk) == made[1:101] and waiters(desk) == made[101:]
    newest = invoke(desk)
    assert entries(desk) == [*made[1:], newest]


def test_each_concurrency_key_has_its_own_semaphore_with_the_queues_limit(desk: Desk) -> None:
    desk.do("HSET", keys.LIMITS, SEMAPHORE, 1)
    first, second = (invoke(desk, semaphore=f"{SEMAPHORE}\0{who}") for who in ("ann", "bob"))
    third = invoke(desk, semaphore=f"{SEMAPHORE}\0ann")
    assert entries(desk) == [first, second]
    assert waiters(desk, f"{SEMAPHORE}\0ann") == [third] and waiters(desk, f"{SEMAPHORE}\0bob") == []
    assert not desk.state.waiters.get(SEMAPHORE.encode())


# --- a semaphore in another partition ---------------------------------------------------


@pytest.fixture
def home(desk: Desk) -> Iterator[Desk]:
    """The partition of `FAR_SEMAPHORE`, in a namespace of two; `desk` is the other one."""
    desk.do("HSET", keys.META, "partitions", 2)
    with Desk(desk.url, desk.namespace, 1) as home:
        yield home


FAR_SEMAPHORE = next(name for name in map(str, itertools.count()) if keys.partition_of(name, 2) == 1)


def invoke_far(desk: Desk, limit: int = 1, **options: Any) -> str:
    return desk.invoke(semaphore=FAR_SEMAPHORE, limit=limit, near=False, **options)


def slot_request(desk: Desk, execution_id: str) -> tuple[int, bool]:
    """The version of an execution's slot request, and whether it wants a slot."""
    semaphore, limit, version, wanted = desk.run("read_slot_request", execution_id)
    assert (semaphore, limit) == (FAR_SEMAPHORE.encode(), 1)
    return version, bool(wanted)


def request_slot(home: Desk, execution_id: str, version: int) -> bool:
    return bool(home.run("acquire_or_release_slot", FAR_SEMAPHORE, 1, execution_id, version, 1, FAR))


def release_slot(home: Desk, execution_id: str, version: int) -> None:
    assert home.run("acquire_or_release_slot", FAR_SEMAPHORE, 1, execution_id, version, 0, 0) == 0


def finish_errand(desk: Desk, errand: str) -> None:
    due = desk.do("ZSCORE", keys.ERRANDS, errand)
    assert desk.run("finish_errand", errand, due, "", "") == 1


def resolve_request(desk: Desk, home: Desk, execution_id: str) -> None:
    """Run the errand of an execution as a worker does."""
    version, wanted = slot_request(desk, execution_id)
    if not wanted or (
        request_slot(home, execution_id, version) and not desk.run("grant_slot", execution_id, version)
    ):
        release_slot(home, execution_id, version)
    finish_errand(desk, "l" + execution_id)


def test_an_execution_requests_a_slot_in_another_partition_by_an_errand(desk: Desk, home: Desk) -> None:
    one = invoke_far(desk)
    assert list(desk.state.errands) == [b"l" + one.encode()] and "entry" not in desk.execution(one)
    assert slot_request(desk, one) == (1, True)
    before = home.now()
    assert request_slot(home, one, 1)
    assert home.state.slots == {FAR_SEMAPHORE.encode(): {one.encode(): b"1"}}
    due = home.state.errands[f"h1 {FAR_SEMAPHORE}".encode()]
    assert before + FAR <= due <= home.now() + FAR
    assert desk.run("grant_slot", one, 1) == 1
    entry = desk.execution(one)["entry"]
    assert desk.state.queues[b"default"].entries[entry][b"input"] == b"in"
    with desk.unchanged():
        assert request_slot(home, one, 1), "repeated, the answer is the same"
        assert desk.run("grant_slot", one, 1) == 1
    finish_errand(desk, "l" + one)


def test_a_waiter_from_another_partition_is_admitted_by_an_errand(desk: Desk, home: Desk) -> None:
    first, second = invoke_far(desk), invoke_far(desk)
    for one in (first, second):
        resolve_request(desk, home, one)
    assert "entry" not in desk.execution(second)
    assert waiters(home, FAR_SEMAPHORE) == [second]
    by = desk.deliver()
    assert desk.finish(by) == 0
    assert slot_request(desk, first) == (2, False)
    resolve_request(desk, home, first)
    grant = f"a{second} 1 1 {FAR_SEMAPHORE}"
    assert set(home.state.errands) == {grant.encode(), f"h1 {FAR_SEMAPHORE}".encode()}
    assert holders(home, FAR_SEMAPHORE) == {second}
    assert desk.run("grant_slot", second, 1) == 1
    finish_errand(home, grant)
    assert desk.finish(desk.deliver()) == 0
    resolve_request(desk, home, second)
    assert not home.state.slots and home.state.errands == {}, "nobody is left to look at"


def test_an_execution_that_no_longer_wants_a_slot_is_not_admitted(desk: Desk, home: Desk) -> None:
    one = invoke_far(desk)
    assert request_slot(home, one, 1)
    desk.cancel(one)
    with desk.unchanged():
        assert desk.run("grant_slot", one, 1) == 0
        assert desk.run("grant_slot", new_id(), 1) == 0
    resolve_request(desk, home, one)
    assert not home.state.slots


def test_a_slot_of_an_earlier_version_does_not_count(desk: Desk, home: Desk) -> None:
    one = invoke_far(desk)
    resolve_request(desk, home, one)
    by = desk.deliver()
    desk.suspend(by, "ok")
    desk.park(by, "ok")
    desk.answer(one, "ok")
    assert slot_request(desk, one) == (3, True)
    with desk.unchanged():
        assert desk.run("grant_slot", one, 1) == 0
    resolve_request(desk, home, one)
    assert home.state.slots == {FAR_SEMAPHORE.encode(): {one.encode(): b"3"}}
    assert "entry" in desk.execution(one)


def test_a_delayed_request_undoes_no_newer_one(desk: Desk, home: Desk) -> None:
    one = invoke_far(desk)
    resolve_request(desk, home, one)
    by = desk.deliver()
    desk.suspend(by, "ok")
    desk.park(by, "ok")
    desk.answer(one, "ok")
    resolve_request(desk, home, one)
    with desk.unchanged():
        release_slot(home, one, 2)
        assert request_slot(home, one, 1)
    assert home.state.slots == {FAR_SEMAPHORE.encode(): {one.encode(): b"3"}}


def test_a_delayed_start_requests_no_slot_yet(desk: Desk, home: Desk) -> None:
    one = invoke_far(desk, delay=FAR)
    assert desk.state.errands == {} and slot_request(desk, one) == (0, False)
    with desk.unchanged():
        assert desk.run("grant_slot", one, 0) == 0
    desk.make_due("p" + one)
    desk.fire()
    assert slot_request(desk, one) == (1, True)
    resolve_request(desk, home, one)
    assert "entry" in desk.execution(one)


def test_an_execution_without_a_semaphore_makes_no_errand(desk: Desk) -> None:
    by = desk.start(timeout=FAR)
    desk.suspend(by, "ok")
    desk.park(by, "ok")
    desk.answer(by.id, "ok")
    desk.finish(desk.deliver())
    assert desk.state.errands == {} and version(desk, by.id) == 0


def test_an_execution_without_a_semaphore_has_no_slot_request(desk: Desk) -> None:
    plain = desk.invoke()
    with desk.unchanged():
        assert desk.run("read_slot_request", plain) is None
        assert desk.run("read_slot_request", new_id()) is None


def test_holders_from_other_partitions_are_listed_in_pages(desk: Desk, home: Desk) -> None:
    with desk.unchanged():
        assert home.run("read_slot_holders", FAR_SEMAPHORE, "0") is None
    made = [invoke_far(desk, limit=1000) for _ in range(300)]
    for one in made:
        home.run("acquire_or_release_slot", FAR_SEMAPHORE, 1000, one, 1, 1, FAR)
    near = home.invoke(semaphore=FAR_SEMAPHORE, limit=1000, near=True)
    found: dict[bytes, bytes] = {}
    cursor, pages = b"0", 0
    while pages == 0 or cursor != b"0":
        cursor, flat = home.run("read_slot_holders", FAR_SEMAPHORE, cursor)
        found |= dict(zip(flat[::2], flat[1::2], strict=True))
        pages += 1
    assert found == {one.encode(): b"1" for one in made} and pages > 1
    assert near.encode() in home.state.slots[FAR_SEMAPHORE.encode()]


def test_a_waiter_holds_no_slot(desk: Desk, home: Desk) -> None:
    first, second = invoke_far(desk), invoke_far(desk)
    for one in (first, second):
        resolve_request(desk, home, one)
    assert home.run("read_slot_holders", FAR_SEMAPHORE, "0") == [b"0", [first.encode(), b"1"]]


# --- errands ----------------------------------------------------------------------------


def test_a_renewed_errand_is_not_removed_as_done(desk: Desk, home: Desk) -> None:
    one = invoke_far(desk)
    fired = desk.run("fire_timers", "leader", 60_000, 100, 0)
    name, due = fired[3]
    assert name == b"l" + one.encode()
    desk.cancel(one)
    with desk.unchanged():
        assert desk.run("finish_errand", name, due, "", "") == 0
        assert desk.run("finish_errand", name, due, 1000, "") == 0
    resolve_request(desk, home, one)
    with desk.unchanged():
        assert desk.run("finish_errand", name, due, "", "") == 0


def test_an_errand_is_postponed(desk: Desk) -> None:
    desk.do("ZADD", "errands", 17, "zsomething")
    assert desk.state.errands == {b"zsomething": 17.0}
    assert desk.run("fire_timers", "leader", 60_000, 100, 0)[3] == [b"zsomething", b"17"]
    before = desk.now()
    assert desk.run("finish_errand", "zsomething", 17, FAR, "") == 1
    assert before + FAR <= desk.state.errands[b"zsomething"] <= desk.now() + FAR
    assert desk.run("fire_timers", "leader", 60_000, 100, 0)[3] == []


def test_errands_are_listed_oldest_first_in_bounded_batches(desk: Desk) -> None:
    for due in (3, 1, 2):
        desk.do("ZADD", "errands", due, f"z{due}")
    assert desk.run("fire_timers", "leader", 60_000, 2, 0)[3][::2] == [b"z1", b"z2"]
