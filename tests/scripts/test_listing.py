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
from polos_redis.state.executions import FINISHED, STORED_STATUSES
from tests.harness.desk import FAR, Desk, new_id

MOST_WORKFLOWS = 1000


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


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


def visit(desk: Desk, *statuses: str, limit: int, workflow: str = "", rows: int = 2000) -> list[list[Any]]:
    """All rows of a listing, a page at a time."""
    found, before = [], None
    while True:
        before, page = desk.listed(*statuses, before=before, limit=limit, workflow=workflow, rows=rows)
        assert len(page) <= limit
        found += page
        if before is None:
            return found


def add(desk: Desk, name: str, status: str, created: int, shared: bool = False) -> bytes:
    """Write an execution as its transitions would leave it; a queued one has an entry of that time if that is
    even."""
    one, index = new_id(), "" if shared else name
    fields: dict[str, Any] = {"workflow": name, "status": status, "created": created}
    if shared:
        fields["index"] = ""
    if status == "queued" and created % 2 == 0:
        entry = f"{created // 1000}-{created % 1000}"
        fields["entry"] = entry
        desk.do("SADD", keys.QUEUES, f"q{created % 3}")
        desk.do("XADD", f"{keys.QUEUE}q{created % 3}", entry, "id", one, "workflow", name, "run", 1)
    elif status != "completed":
        desk.do("ZADD", f"{keys.INDEX}{status}:{index}", created, one)
    if status in FINISHED:
        desk.do("ZADD", f"{keys.INDEX}ended:{index}", created, one)
    desk.do("ZADD", f"{keys.INDEX}all:{index}", created, one)
    desk.do("ZADD", keys.WORKFLOWS, 0, index)
    desk.do("HSET", keys.EXEC + one, *(word for pair in fields.items() for word in pair))
    return one.encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    made=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(STORED_STATUSES), st.booleans(), st.integers(0, 3)),
        max_size=60,
    ),
    limit=st.integers(1, 9),
    workflow=st.sampled_from(["", "w0", "w1", "none"]),
    statuses=st.sampled_from(
        [STORED_STATUSES, *((one,) for one in STORED_STATUSES), ("completed", "waiting")]
    ),
    rows=st.sampled_from([1, 7, 2000]),
)
def test_pages_have_every_execution_once_newest_first(
    made: list[tuple[int, str, bool, int]],
    limit: int,
    workflow: str,
    statuses: tuple[str, ...],
    rows: int,
    desk: Desk,
) -> None:
    desk.connection.do("FLUSHALL")
    expected, created = [], 1_000_000
    for number, status, shared, later in made:
        created += later if status != "queued" else 6  # a stream has one entry of a time, in order
        one = add(desk, f"w{number}", status, created, shared)
        if status in statuses and workflow in ("", f"w{number}"):
            expected.append((created, one))
    found = visit(desk, *statuses, limit=limit, workflow=workflow, rows=rows)
    assert [(int(row[3]), row[0]) for row in found] == sorted(expected, reverse=True)
    desk.connection.do("FLUSHALL")


@pytest.mark.failure(52)
@pytest.mark.threat(13)
def test_a_page_reads_few_rows_however_they_are_spread(desk: Desk) -> None:
    for number in range(400):
        for repeat in range(5 if number % 40 else 60):
            add(desk, f"w{number % 40}", "failed", 100 * number + repeat)
    names = [f"w{number}" for number in range(40)]
    for statuses in (("failed",), STORED_STATUSES):
        for limit in (1, 50, 1000):
            args = ("+inf", "", limit, "", "", 2000, len(statuses), len(names), *statuses, *names)
            took = read_by(desk, "list_executions", *args)
            assert took["hmget"] == limit
            assert took["zrevrange"] <= 40 * 12
    desk.connection.do("FLUSHALL")


@pytest.mark.threat(13)
@pytest.mark.parametrize("status", ["waiting", "failed", "cancelled"])
def test_completed_ones_are_found_behind_any_number_of_others(desk: Desk, status: str) -> None:
    done = [add(desk, "wf", "completed", created) for created in range(1, 4)]
    script = f"""
      for created = 10, 30009 do
        redis.call('ZADD', KEYS[1] .. 'index:all:wf', created, created)
        redis.call('ZADD', KEYS[1] .. 'index:{status}:wf', created, created)
      end"""
    desk.connection.do("EVAL", script, 1, desk.prefix)
    args = ("+inf", "", 9, "wf", "", 2000, 1, 2, "completed", "wf", "")
    took = read_by(desk, "list_executions", *args)
    assert sum(calls for name, calls in took.items() if name not in ("info", "eval")) < 150
    assert [row[0] for row in desk.listed("completed", workflow="wf")[1]] == done[::-1]
    desk.connection.do("FLUSHALL")


@pytest.mark.threat(13)
def test_a_page_ends_behind_many_queued_ones(desk: Desk) -> None:
    """They are in no index of their own: a page looks at a bounded number of them."""
    done = add(desk, "wf", "completed", 1)
    for created in range(10, 4010, 2):
        add(desk, "wf", "queued", 1000 * created)
    before, page = desk.listed("completed", workflow="wf", limit=9, rows=500)
    assert page == [] and before is not None
    assert [row[0] for row in visit(desk, "completed", workflow="wf", limit=9, rows=500)] == [done]
    desk.connection.do("FLUSHALL")


def test_a_stale_entry_is_not_listed(desk: Desk) -> None:
    stale, by = desk.finished(), desk.start()
    desk.do("XADD", f"{keys.QUEUE}default", "*", "id", by.id, "workflow", "wf", "run", 1)
    desk.do("XADD", f"{keys.QUEUE}default", "*", "id", stale, "workflow", "wf", "run", 1)
    assert [row[0].decode() for row in desk.listed("queued", "running")[1]] == [by.id]
    desk.connection.do("FLUSHALL")


@pytest.mark.threat(13)
def test_ids_beyond_the_most_share_an_index(desk: Desk) -> None:
    known = [word for number in range(MOST_WORKFLOWS - 1) for word in (FAR, f"w{number}")]
    desk.do("ZADD", keys.WORKFLOWS, *known)
    last, beyond, first = (desk.invoke(workflow=name) for name in ("last", "beyond", "w0"))
    assert set(desk.state.index) == {(b"all", b"last"), (b"all", b""), (b"all", b"w0")}
    desk.check()
    assert desk.do("ZCARD", keys.WORKFLOWS) == MOST_WORKFLOWS + 1, "and the empty name"
    for workflow, one in (("last", last), ("beyond", beyond), ("w0", first)):
        assert [row[0].decode() for row in desk.listed(*STORED_STATUSES, workflow=workflow)[1]] == [one]
    by = _delivered(desk, beyond)
    desk.write(by, "a")
    desk.suspend(by, "ok")
    desk.park(by, "ok")
    assert desk.state.index[b"waiting", b""].keys() == {beyond.encode()}
    desk.check()
    desk.answer(beyond, "ok")
    desk.check()
    desk.finish(_delivered(desk, beyond))
    assert desk.state.index[b"ended", b""].keys() == {beyond.encode()}
    desk.check()
    desk.run("delete_execution", beyond)
    desk.check()
    assert not {what for what, name in desk.state.index if name == b""} and b"" not in desk.state.workflows


def _delivered(desk: Desk, one: str) -> Any:
    while (by := desk.deliver()).id != one:
        pass
    return by


def test_an_id_is_forgotten_with_its_last_execution(desk: Desk) -> None:
    one, two = desk.finished(workflow="a"), desk.finished(workflow="a")
    desk.run("delete_execution", one)
    assert desk.state.workflows.keys() == {b"a"}
    desk.run("delete_execution", two)
    assert desk.state.workflows == {}


def test_rows_of_executions_that_expired_unnoticed_are_removed_together(desk: Desk) -> None:
    gone = [desk.finished(workflow=f"w{number % 3}") for number in range(30)]
    for one in gone:
        for kind in (keys.EXEC, keys.JOURNAL, keys.TOPIC):
            desk.do("DEL", kind + one)
        desk.retention_ends(one)
    took = read_by(desk, "fire_timers", "leader", 1000, 100, 0)
    assert took["zrem"] <= 5 * 3  # from each index at once
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
        desk.do("ZADD", f"{keys.INDEX}all:{name}", opened, one)
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
