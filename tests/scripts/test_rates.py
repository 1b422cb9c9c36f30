"""take_requests: the rate of a caller that all servers count together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import Desk

HOUR = 3_600_000_000  # us
TENTH = HOUR // 10


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def take(desk: Desk, wanted: int, caller: str = "ann") -> list[int]:
    """Take requests at ten an hour: [how many were taken, us to wait]."""
    taken: list[int] = desk.run("take_requests", caller, TENTH, HOUR, wanted)
    return taken


def test_a_burst_is_shared_by_all_who_take_of_it(desk: Desk) -> None:
    assert [take(desk, 4), take(desk, 4), take(desk, 4)] == [[4, 0], [4, 0], [2, 0]]
    taken, wait = take(desk, 1)
    assert taken == 0 and 0 < wait <= TENTH
    assert take(desk, 1, "bob") == [1, 0]


def test_a_refused_request_counts_nothing(desk: Desk) -> None:
    take(desk, 10)
    before = desk.do("GET", keys.RATE + "ann")
    assert take(desk, 1)[0] == 0
    assert desk.do("GET", keys.RATE + "ann") == before


def test_time_gives_requests_back(desk: Desk) -> None:
    take(desk, 10)
    paid = int(desk.do("GET", keys.RATE + "ann"))
    desk.do("SET", keys.RATE + "ann", paid - 3 * TENTH)
    assert take(desk, 10) == [3, 0]
    desk.do("SET", keys.RATE + "ann", paid - 30 * TENTH)
    assert take(desk, 100)[0] == 10


@pytest.mark.failure(32)
def test_a_caller_is_forgotten_when_the_requests_are_paid_off(desk: Desk) -> None:
    take(desk, 2)
    assert 0 < desk.do("PTTL", keys.RATE + "ann") <= 2 * TENTH // 1000 + 1
