"""Listings restricted to the trees of some workflows: complete over their pages, and nothing else in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.executions import STORED_STATUSES
from tests.harness.desk import Desk, new_id, packed

WORKFLOWS = "abc"


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    trees=st.lists(
        st.tuples(st.sampled_from(WORKFLOWS), st.lists(st.sampled_from(WORKFLOWS), max_size=4)), max_size=10
    ),
    roots=st.sets(st.sampled_from([*WORKFLOWS, "unknown"]), min_size=1),
    workflow=st.sampled_from(["", *WORKFLOWS]),
    limit=st.integers(1, 5),
)
def test_pages_have_what_has_such_a_root(
    trees: list[tuple[str, list[str]]], roots: set[str], workflow: str, limit: int, desk: Desk
) -> None:
    desk.connection.do("FLUSHALL")
    listed, waiting, score = [], [], 1_000_000
    for root_workflow, children in trees:
        root = new_id()
        for number, name in enumerate([root_workflow, *children]):
            one, score = f"{root}.{number}" if number else root, score + 1
            desk.do("HSET", keys.EXEC + one, "workflow", name, "status", "waiting")
            desk.do("ZADD", f"{keys.INDEX}all:{name}", score, one)
            desk.do("ZADD", f"{keys.INDEX}waiting:{name}", score, one)
            desk.do("ZADD", keys.SUSPENSIONS, score, f"{one} k")
            if root_workflow in roots and workflow in ("", name):
                waiting.append(one.encode())
                if workflow or name in roots:
                    listed.append(one.encode())
    for statuses in (("waiting",), STORED_STATUSES):
        found, before = [], None
        while True:
            before, rows = desk.listed(
                *statuses, before=before, limit=limit, workflow=workflow, roots=sorted(roots)
            )
            found += [row[0] for row in rows]
            if before is None:
                break
        assert found == listed[::-1]
    found, cursor = [], "-inf"
    while cursor:
        cursor, page = desk.run(
            "list_suspensions", cursor, limit, workflow, limit, 1 << 20, packed(sorted(roots))
        )
        assert len(page) <= limit
        found += [row[0] for row in page]
    assert found == waiting
    desk.connection.do("FLUSHALL")


def test_a_child_of_a_forgotten_root_is_in_no_ones_list(desk: Desk) -> None:
    child = f"{new_id()}.1"
    desk.do("HSET", keys.EXEC + child, "workflow", "a", "status", "waiting")
    for what in ("all", "waiting"):
        desk.do("ZADD", f"{keys.INDEX}{what}:a", 5, child)
    desk.do("ZADD", keys.SUSPENSIONS, 5, f"{child} k")
    assert desk.listed("waiting", workflow="a", roots=["a"]) == (None, [])
    assert desk.run("list_suspensions", "-inf", 9, "", 9, 9, packed(["a"])) == [b"", []]
    assert len(desk.listed("waiting", workflow="a")[1]) == 1
    desk.connection.do("FLUSHALL")
