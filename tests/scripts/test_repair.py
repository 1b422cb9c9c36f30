"""repair: after any part of any script's writes, every execution goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Activated, Desk, step
from tests.harness.server_log import commands, log_file
from tests.invariants.state_invariants import violations

QUEUE = "narrow"
NEAR: dict[str, Any] = {"queue": QUEUE, "semaphore": QUEUE, "limit": 1, "near": True}
PINNED = (keys.reserved_stream("default", "wf", "2"), "2")
Change = Callable[[], Any]


@pytest.fixture(scope="module")
def logged(every_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server whose log has a command as soon as its reply comes."""
    folder = tmp_path_factory.mktemp("logged")
    with EmbeddedServer(folder, binary=every_binary, config={"appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def desk(logged: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(logged.url, namespace) as desk:
        desk.connection.do("FLUSHALL")
        for queue in ("default", QUEUE):
            desk.run("create_group", queue)
        yield desk
        desk.connection.do("FLUSHALL")


# --- every transition, prepared up to the script in question ------------------------------


def invoke(desk: Desk) -> Change:
    return desk.invoke


def invoke_later(desk: Desk) -> Change:
    return lambda: desk.invoke(delay=FAR, timeout=FAR)


def invoke_with_a_free_slot(desk: Desk) -> Change:
    return lambda: desk.invoke(**NEAR)


def invoke_without_a_free_slot(desk: Desk) -> Change:
    desk.invoke(**NEAR)
    return lambda: desk.invoke(**NEAR)


def write_the_first_step(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.write(by, "a")


def suspend(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.suspend(by, "ok", FAR)


def wait(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.wait(by, "nap", FAR)


def back_off(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.backoff(by, "a")


def park(desk: Desk) -> Change:
    by = desk.start()
    desk.suspend(by, "ok", FAR)
    return lambda: desk.park(by, "ok")


def park_with_a_waiter(desk: Desk) -> Change:
    by = desk.start(**NEAR)
    desk.suspend(by, "ok", FAR)
    desk.invoke(**NEAR)
    return lambda: desk.park(by, "ok")


def answer(desk: Desk) -> Change:
    one = desk.parked(timeout=FAR)
    return lambda: desk.answer(one, "ok")


def answer_without_a_free_slot(desk: Desk) -> Change:
    one = desk.parked(timeout=FAR, **NEAR)
    desk.invoke(**NEAR)
    return lambda: desk.answer(one, "ok")


def answer_while_it_runs(desk: Desk) -> Change:
    by = desk.start()
    desk.suspend(by, "ok", FAR)
    return lambda: desk.answer(by.id, "ok")


def fire_a_timeout(desk: Desk) -> Change:
    one = desk.parked(timeout=FAR)
    desk.make_due(f"s{one} ok")
    return desk.fire


def fire_a_start(desk: Desk) -> Change:
    one = desk.invoke(delay=FAR)
    desk.make_due(f"p{one}")
    return desk.fire


def fire_a_retry(desk: Desk) -> Change:
    by = desk.start()
    desk.backoff(by, "a")
    desk.park(by, "a")
    desk.make_due(f"b{by.id} a")
    return desk.fire


def fire_a_run_timeout(desk: Desk) -> Change:
    by = desk.start(timeout=FAR)
    desk.make_due(f"t{by.id}")
    return desk.fire


def cancel(desk: Desk) -> Change:
    one = desk.parked(timeout=FAR)
    return lambda: desk.cancel(one)


def cancel_a_running_one(desk: Desk) -> Change:
    by = desk.start()
    desk.suspend(by, "ok", FAR)
    return lambda: desk.cancel(by.id)


def finish(desk: Desk) -> Change:
    by = desk.start()
    desk.write(by, "a")
    return lambda: desk.finish(by)


def finish_with_a_waiter(desk: Desk) -> Change:
    by = desk.start(**NEAR)
    desk.invoke(**NEAR)
    return lambda: desk.finish(by)


def start_a_child(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.spawn(by, "kid")


def finish_a_child(desk: Desk) -> Change:
    by = desk.start()
    child = desk.child(by)
    desk.park(by, "kid")
    return lambda: desk.finish(child)


def retry(desk: Desk) -> Change:
    by = desk.start()
    desk.write(by, "a")
    desk.finish(by, "failed")
    return lambda: desk.retry(by.id)


def fork(desk: Desk, **options: Any) -> Change:
    records = {"a": step() + b"\x01", "b": step() + b"\x02"}
    return lambda: desk.fork(records=records, timeout=FAR, **options)


def fork_with_a_free_slot(desk: Desk) -> Change:
    return fork(desk, **NEAR)


def fork_without_a_free_slot(desk: Desk) -> Change:
    desk.invoke(**NEAR)
    return fork(desk, **NEAR)


def auto_retry(desk: Desk) -> Change:
    by = desk.start()
    desk.write(by, "a")
    return lambda: desk.auto_retry(by)


def continue_as_new(desk: Desk) -> Change:
    by = desk.start(timeout=FAR)
    desk.write(by, "a")
    desk.suspend(by, "ok")
    desk.answer(by.id, "ok")
    return lambda: desk.continue_as_new(by)


def continue_a_child_as_new(desk: Desk) -> Change:
    by = desk.start()
    child = desk.child(by)
    desk.park(by, "kid")
    desk.suspend(child, "ok")
    desk.answer(child.id, "ok")
    desk.spawn(child, "stray", status="started")
    return lambda: desk.continue_as_new(child)


def continue_as_new_with_a_waiter(desk: Desk) -> Change:
    by = desk.start(**NEAR)
    desk.invoke(**NEAR)
    return lambda: desk.continue_as_new(by)


def continue_one_of_a_version_as_new(desk: Desk) -> Change:
    _, stream = reserved(desk)
    by = desk.deliver(queue=stream)
    desk.write(by, "a")
    return lambda: desk.continue_as_new(by)


def load_a_version(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.load(by, "2")


def finish_the_last_of_a_version(desk: Desk) -> Change:
    by = desk.start()
    desk.load(by, "2")
    return lambda: desk.finish(by)


def cancel_one_of_two_of_a_version(desk: Desk) -> Change:
    for _ in range(2):
        by = desk.start()
        desk.load(by, "2")
    return lambda: desk.cancel(by.id)


def retry_one_of_a_version(desk: Desk) -> Change:
    by = desk.start()
    desk.load(by, "2")
    desk.finish(by, "failed")
    return lambda: desk.retry(by.id)


def put_back(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.run("put_back", "default", by.id, by.entry, FAR)


def reserved(desk: Desk, **options: Any) -> tuple[str, str]:
    """An execution on the reserved stream of version 2: its id, and the stream."""
    queue = options.get("queue", "default")
    stream = keys.reserved_stream(queue, "wf", "2")
    by = desk.start(**options)
    assert desk.run("reserve", queue, by.id, by.entry, stream, "2") == 1
    return by.id, stream


def unserved(desk: Desk, **options: Any) -> tuple[str, str]:
    one, stream = reserved(desk, **options)
    assert desk.run("close_stream", stream, 10) == 0
    return one, stream


def reserve(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.run("reserve", "default", by.id, by.entry, keys.reserved_stream("default", "wf"))


def pin(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.run("reserve", "default", by.id, by.entry, *PINNED)


def close_stream(desk: Desk, **options: Any) -> Change:
    _, stream = reserved(desk, **options)
    return lambda: desk.run("close_stream", stream, 10)


def close_stream_with_a_waiter(desk: Desk) -> Change:
    change = close_stream(desk, **NEAR)
    desk.invoke(**NEAR)
    return change


def serve(desk: Desk, **options: Any) -> Change:
    _, stream = unserved(desk, **options)
    return lambda: desk.run("serve", stream, "w1", 10)


def serve_without_a_free_slot(desk: Desk) -> Change:
    change = serve(desk, **NEAR)
    desk.invoke(**NEAR)
    return change


def cancel_an_unserved_one(desk: Desk) -> Change:
    one, _ = unserved(desk)
    return lambda: desk.cancel(one)


def answer_one_that_is_not_served(desk: Desk) -> Change:
    _, stream = unserved(desk)
    assert desk.run("serve", stream, "w1", 10) == 0
    by = desk.deliver(queue=stream)
    desk.suspend(by, "ok")
    assert desk.park(by, "ok") == 0
    assert desk.run("prune_consumer", stream, "w1", "") == 1
    assert desk.run("close_stream", stream, 10) == 0
    return lambda: desk.answer(by.id, "ok")


def requeue(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.requeue("w1", by.entry, lost=True)


def requeue_for_the_last_time(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.requeue("w1", by.entry, lost=True, most=1)


def failing(desk: Desk) -> Activated:
    """An activation that has failed, with an open wait."""
    by = desk.start()
    desk.write(by, "a", step(b"", "failed"))
    desk.suspend(by, "ok", FAR)
    return by


def stick(desk: Desk) -> Change:
    by = failing(desk)
    return lambda: desk.stick(by)


def unstick(desk: Desk) -> Change:
    by = failing(desk)
    desk.stick(by)
    return lambda: desk.retry(by.id)


def pause(desk: Desk) -> Change:
    by = failing(desk)
    return lambda: desk.pause(by)


def retry_a_paused_one(desk: Desk) -> Change:
    by = failing(desk)
    desk.pause(by)
    return lambda: desk.retry(by.id)


def pause_after_the_last_loss(desk: Desk) -> Change:
    by = failing(desk)
    return lambda: desk.requeue("w1", by.entry, lost=True, most=1, pausing={"wf": True})


TRANSITIONS = [
    *(invoke, invoke_later, invoke_with_a_free_slot, invoke_without_a_free_slot),
    *(write_the_first_step, suspend, wait, back_off, park, park_with_a_waiter),
    *(answer, answer_without_a_free_slot, answer_while_it_runs),
    *(fire_a_timeout, fire_a_start, fire_a_retry, fire_a_run_timeout, cancel, cancel_a_running_one),
    *(finish, finish_with_a_waiter, start_a_child, finish_a_child, retry, auto_retry),
    *(fork, fork_with_a_free_slot, fork_without_a_free_slot),
    *(continue_as_new, continue_a_child_as_new, continue_as_new_with_a_waiter),
    continue_one_of_a_version_as_new,
    *(load_a_version, finish_the_last_of_a_version, cancel_one_of_two_of_a_version, retry_one_of_a_version),
    *(put_back, requeue, requeue_for_the_last_time),
    *(reserve, pin, close_stream, close_stream_with_a_waiter, serve, serve_without_a_free_slot),
    *(cancel_an_unserved_one, answer_one_that_is_not_served),
    *(stick, unstick, pause, retry_a_paused_one, pause_after_the_last_loss),
]


# --- half of it -----------------------------------------------------------------------------


def halves(desk: Desk, server: EmbeddedServer, change: Change) -> Iterator[tuple[int, list[list[bytes]]]]:
    """Bring the store into each state in which only the first writes of a change have been applied; yields
    their number and all its writes."""
    before = desk.snapshot()
    size = log_file(server.data_dir).stat().st_size
    change()
    log = log_file(server.data_dir).read_bytes()[size:]
    writes = [one for one in commands(log) if one[0].upper() not in (b"MULTI", b"EXEC", b"SELECT")]
    assert writes
    for count in range(len(writes) + 1):
        desk.restore(before)
        for reply in desk.connection.together([tuple(one) for one in writes[:count]]):
            assert not isinstance(reply, Exception), reply
        yield count, writes


# What is left is harmless: it goes away by itself, or is only for people to read.
LEFT = re.compile(
    r"timers has a row [sbtw]\S+( \w+)? that nothing waits for"  # dropped when it is due
    r"|timers has [st]\S+( ok)? at 1, not \d+"  # the test made it due
    r"|execution \S+ still notes its wait \w+, which is decided and has no topic"
    r"|execution \S+ has the child \S+, which is nothing"  # its parent starts it again
    r"|execution \S+ has ok (answered|expired|closed), but its audit says \[\]"
    r"|audit:\S+ has no TTL and belongs to no execution"
    r"|execution \S+ is not to have a stream, and has one"  # it is told anew by whoever needs it
    r"|execution \S+ is to have a stream, and has none"  # its first event creates it
)


@pytest.mark.failure(43)
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_after_half_a_change_every_execution_goes_on(
    desk: Desk, logged: EmbeddedServer, transition: Callable[[Desk], Change], rows: int
) -> None:
    whole = 0
    for count, writes in halves(desk, logged, transition(desk)):
        broken = violations(desk.namespace, desk.connection)
        found = desk.repair(rows)
        left = [one for one in violations(desk.namespace, desk.connection) if not LEFT.fullmatch(one)]
        assert not left, f"after {count} of {len(writes)} writes, repaired: {found}"
        assert not desk.repair(rows), "one pass is enough"
        if count in (0, len(writes)):
            assert not found, f"nothing was wrong: {broken}"
            whole += 1
    assert whole == 2


@pytest.mark.failure(43)
def test_half_an_invoke_runs(desk: Desk, logged: EmbeddedServer) -> None:
    one = ""

    def change() -> None:
        nonlocal one
        one = desk.invoke()

    for count, _ in halves(desk, logged, change):
        desk.repair()
        if one.encode() in desk.state.executions:
            assert desk.deliver().id == one, f"after {count} writes"
            assert not desk.read_entries("w1")


@pytest.mark.failure(43)
def test_half_of_the_last_childs_end_wakes_the_parent(desk: Desk, logged: EmbeddedServer) -> None:
    by = desk.start()
    desk.spawn(by, "kids", 2)
    first, second = desk.deliver(), desk.deliver()
    desk.park(by, "kids")
    desk.finish(first)
    for count, writes in halves(desk, logged, lambda: desk.finish(second)):
        desk.repair()
        fields = desk.execution(second.id)
        if fields["status"] == b"completed":
            assert desk.execution(by.id)["status"] == b"queued", f"after {count} of {len(writes)} writes"
            assert desk.record(by.id, "kids")[2] == b"done"
        else:
            assert count == 0 and desk.execution(by.id)["status"] == b"waiting"


@pytest.mark.failure(43)
def test_a_slot_of_an_execution_that_does_not_want_it_is_released(desk: Desk) -> None:
    stray = desk.finished()
    desk.do("HSET", keys.SLOTS + QUEUE, stray, 9)
    waiter = desk.invoke(**NEAR)
    assert not desk.read_entries("w1", QUEUE)
    assert desk.repair() == [(stray, "it held a slot without being runnable")]
    assert desk.deliver(queue=QUEUE).id == waiter
    desk.check()
