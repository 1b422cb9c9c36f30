"""Listings are bounded, whatever has been started, and their pages miss nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.executions import STATUSES
from tests.harness.desk import Desk, new_id

MOST_WORKFLOWS = 1000


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def listed(
    desk: Desk, before: Any, limit: int, workflow: str, statuses: tuple[str, ...]
) -> tuple[Any, list[Any]]:
    names = [workflow] if workflow else desk.do("SMEMBERS", keys.WORKFLOWS)
    cursor, rows = desk.run(
        "list_executions", before, limit, workflow, "", len(statuses), *statuses, *names, ""
    )
    return cursor, rows


def read_by(desk: Desk, *call: Any) -> dict[str, int]:
    """The commands of Redis that a script call takes, by name."""

    def counts() -> dict[str, int]:
        stats = desk.connection.do("INFO", "commandstats").decode()
        return {name: int(calls) for name, calls in re.findall(r"cmdstat_([\w|]+):calls=(\d+)", stats)}

    before = counts()
    desk.run(*call)
    return {
        name: calls - before.get(name, 0) for name, calls in counts().items() if calls != before.get(name)
    }


# --- executions -------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    made=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(STATUSES), st.booleans()), max_size=60),
    limit=st.integers(1, 9),
    workflow=st.sampled_from(["", "w0", "w1", "none"]),
    statuses=st.lists(st.sampled_from(STATUSES), min_size=1, unique=True).map(tuple),
)
def test_pages_have_every_execution_once_newest_first(
    made: list[tuple[int, str, bool]], limit: int, workflow: str, statuses: tuple[str, ...], desk: Desk
) -> None:
    desk.connection.do("FLUSHALL")
    expected = []
    for created, (number, status, shared) in enumerate(made, 1_000_000):
        name, one = f"w{number}", new_id()
        desk.do("ZADD", f"{keys.INDEX}{status}:{'' if shared else name}", created, one)
        desk.do("SADD", keys.WORKFLOWS, name)
        desk.do("HSET", keys.EXEC + one, "workflow", name, "status", status)
        if status in statuses and workflow in ("", name):
            expected.append(one.encode())
    found, cursor = [], "+inf"
    while cursor:
        cursor, page = listed(desk, cursor, limit, workflow, statuses)
        assert len(page) <= limit
        found += [row[0] for row in page]
    assert found == expected[::-1]
    desk.connection.do("FLUSHALL")


@pytest.mark.failure(52)
@pytest.mark.threat(13)
def test_a_page_reads_few_rows_however_they_are_spread(desk: Desk) -> None:
    for number in range(400):
        desk.do("SADD", keys.WORKFLOWS, f"w{number % 40}")
        for repeat in range(5 if number % 40 else 60):
            one = f"{number}-{repeat}"
            desk.do("ZADD", f"{keys.INDEX}completed:w{number % 40}", 100 * number + repeat, one)
            desk.do("HSET", keys.EXEC + one, "workflow", "w", "status", "completed")
    names = [f"w{number}" for number in range(40)]
    for limit in (1, 50, 1000):
        took = read_by(desk, "list_executions", "+inf", limit, "", "", 1, "completed", *names)
        assert took["hmget"] == limit
        assert took["zrevrangebyscore"] <= 40 * 12
    desk.connection.do("FLUSHALL")


@pytest.mark.threat(13)
def test_ids_beyond_the_most_share_an_index(desk: Desk) -> None:
    desk.do("SADD", keys.WORKFLOWS, *(f"w{number}" for number in range(MOST_WORKFLOWS - 1)))
    last, beyond, known = (desk.invoke(workflow=name) for name in ("last", "beyond", "w0"))
    assert set(desk.state.index) == {(b"queued", b"last"), (b"queued", b""), (b"queued", b"w0")}
    desk.check()
    assert desk.do("SCARD", keys.WORKFLOWS) == MOST_WORKFLOWS
    for workflow, one in (("last", last), ("beyond", beyond), ("w0", known)):
        assert [row[0].decode() for row in listed(desk, "+inf", 9, workflow, STATUSES)[1]] == [one]
    by = _delivered(desk, beyond)
    desk.write(by, "a")
    desk.suspend(by, "ok")
    desk.park(by, "ok")
    assert desk.state.index[b"waiting", b""].keys() == {beyond.encode()}
    desk.check()
    desk.answer(beyond, "ok")
    desk.check()
    desk.finish(_delivered(desk, beyond))
    assert desk.state.index[b"completed", b""].keys() == {beyond.encode()}
    desk.check()
    desk.run("delete_execution", beyond)
    desk.check()
    assert (b"completed", b"") not in desk.state.index


def _delivered(desk: Desk, one: str) -> Any:
    while (by := desk.deliver()).id != one:
        pass
    return by


def test_an_id_is_forgotten_with_its_last_execution(desk: Desk) -> None:
    one, two = desk.finished(workflow="a"), desk.finished(workflow="a")
    desk.run("delete_execution", one)
    assert desk.state.workflows == {b"a"}
    desk.run("delete_execution", two)
    assert desk.state.workflows == set()


def test_rows_of_executions_that_expired_unnoticed_are_removed_together(desk: Desk) -> None:
    gone = [desk.finished(workflow=f"w{number % 3}") for number in range(30)]
    for one in gone:
        desk.do("DEL", keys.EXEC + one, keys.JOURNAL + one, keys.TOPIC + one)
        desk.do("ZADD", keys.EXPIRY, 1, one)
    took = read_by(desk, "fire_timers", "leader", 1000, 100, 0)
    assert took["zrem"] <= 30 + 4 * 3  # from expiry one by one, from each index at once
    assert desk.state.index == {}


# --- suspensions ------------------------------------------------------------------------


def pages(
    desk: Desk, limit: int, workflow: str = "", rows: int = 1000, bytes: int = 1 << 20
) -> list[list[Any]]:
    found, cursor = [], "-inf"
    while cursor:
        cursor, page = desk.run("list_suspensions", cursor, limit, workflow, rows, bytes)
        found.append(page)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    made=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=30),
    limit=st.integers(1, 9),
    workflow=st.sampled_from(["", "a", "none"]),
    rows=st.integers(1, 9),
    size=st.integers(0, 60),
)
def test_pages_have_every_suspension_once_oldest_first(
    made: list[tuple[str, int]], limit: int, workflow: str, rows: int, size: int, desk: Desk
) -> None:
    desk.connection.do("FLUSHALL")
    expected = []
    for opened, (name, length) in enumerate(made, 1_000_000):
        one = new_id()
        desk.do("HSET", keys.EXEC + one, "workflow", name, "status", "waiting")
        desk.do("ZADD", f"{keys.INDEX}waiting:{name}", opened, one)
        desk.do("HSET", keys.JOURNAL + one, "k", "r" * length)
        desk.do("ZADD", keys.SUSPENSIONS, opened, f"{one} k")
        if workflow in ("", name):
            expected.append(one.encode())
    found = pages(desk, limit, workflow, rows, size)
    assert [row[0] for page in found for row in page] == expected
    for page in found:
        assert len(page) <= limit and sum(len(row[4]) for row in page[:-1]) <= size
    desk.connection.do("FLUSHALL")


@pytest.mark.threat(13)
def test_a_workflow_without_open_suspensions_reads_none(desk: Desk) -> None:
    for _ in range(20):
        desk.parked(workflow="busy")
    took = read_by(desk, "list_suspensions", "-inf", 9, "nothing", 1000, 1 << 20)
    assert "zrangebyscore" not in took and "hmget" not in took
    desk.invoke(workflow="nothing")
    took = read_by(desk, "list_suspensions", "-inf", 9, "nothing", 15, 1 << 20)
    assert took["hmget"] == 15


@pytest.mark.threat(13)
def test_large_records_end_a_page(desk: Desk) -> None:
    for _ in range(5):
        desk.suspend(desk.start(), "ok", 0, b"\xc6" + (400_000).to_bytes(4, "big") + b"x" * 400_000)
    assert [len(page) for page in pages(desk, 100)] == [3, 2]
