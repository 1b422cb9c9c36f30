"""repair: after any part of any script's writes, every execution goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Activated, Desk
from tests.harness.server_log import commands, log_file

QUEUE = "narrow"
NEAR: dict[str, Any] = {"queue": QUEUE, "semaphore": QUEUE, "limit": 1, "near": True}
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


def auto_retry(desk: Desk) -> Change:
    by = desk.start()
    desk.write(by, "a")
    return lambda: desk.auto_retry(by)


def put_back(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.run("put_back", "default", by.id, by.entry, FAR)


def requeue(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.requeue("w1", by.entry, lost=True)


def requeue_for_the_last_time(desk: Desk) -> Change:
    by = desk.start()
    return lambda: desk.requeue("w1", by.entry, lost=True, most=1)


TRANSITIONS = [
    *(invoke, invoke_later, invoke_with_a_free_slot, invoke_without_a_free_slot),
    *(write_the_first_step, suspend, wait, back_off, park, park_with_a_waiter),
    *(answer, answer_without_a_free_slot, answer_while_it_runs),
    *(fire_a_timeout, fire_a_start, fire_a_retry, fire_a_run_timeout, cancel, cancel_a_running_one),
    *(finish, finish_with_a_waiter, start_a_child, finish_a_child, retry, auto_retry),
    *(put_back, requeue, requeue_for_the_last_time),
]


# --- half of it -----------------------------------------------------------------------------


def halves(desk: Desk, server: EmbeddedServer, change: Change) -> Iterator[str]:
    """Bring the store into each state in which only the first writes of a change have been applied."""
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
        yield f"{count} of {len(writes)}: {writes[count - 1]}" if count else "nothing"


def repair(desk: Desk, rows: int = 100) -> list[tuple[str, str]]:
    """Look through the whole partition once; returns what was wrong."""
    state, found = desk.state, []
    tables = [("queue", name) for name in state.listed_queues]
    tables += [(status, name) for status in ("queued", "waiting") for name in (*state.workflows, b"")]
    for kind, name in [*tables, ("suspensions", b"")]:
        cursor = b"0"
        while True:
            cursor, _, flat = desk.run("repair", kind, name, cursor, rows)
            found += zip(flat[::2], flat[1::2], strict=True)
            if cursor == b"0":
                break
    return [(one.decode(), what.decode()) for one, what in found]


@pytest.mark.failure(43)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_after_half_a_change_every_execution_goes_on(
    desk: Desk, logged: EmbeddedServer, transition: Callable[[Desk], Change]
) -> None:
    from tests.invariants.state_invariants import violations

    for which in halves(desk, logged, transition(desk)):
        before = violations(desk.namespace, desk.connection)
        wrong = repair(desk)
        after = violations(desk.namespace, desk.connection)
        again = repair(desk)
        print(which[:120])
        print("   before", before, "\n   wrong", wrong, "\n   AFTER", after, "\n   again", again)
