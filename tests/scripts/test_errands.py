"""Attempts at an errand: counted before they are made, one at a time after a failure, set aside at last."""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Desk, new_id
from tests.scripts.test_decisions import ANN, YES, audit

ERRAND = "enews"
LONGEST = 1_000_000


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        desk.do("ZADD", keys.ERRANDS, 1, ERRAND)
        yield desk
        desk.do("ZREM", keys.ERRANDS, ERRAND)
        desk.do("HDEL", keys.ERRAND_FAILURES, ERRAND)


def start(
    desk: Desk, attempt: str, *, errand: str = ERRAND, due: Any = None, most: int = 3, alone: bool = True
) -> Any:
    due = desk.do("ZSCORE", keys.ERRANDS, errand) if due is None else due
    return desk.run("start_errand", errand, due, attempt, most, int(alone), FAR)


def fail(desk: Desk, attempt: str, *, errand: str = ERRAND, most: int = 3, first: Any = 1000) -> Any:
    due = desk.do("ZSCORE", keys.ERRANDS, errand)
    return desk.run("fail_errand", errand, due, attempt, most, first, LONGEST, "no")


def finish(desk: Desk, delay: Any = "", attempt: str = "") -> Any:
    return desk.run("finish_errand", ERRAND, desk.do("ZSCORE", keys.ERRANDS, ERRAND), delay, attempt)


def attempts(desk: Desk, errand: str = ERRAND) -> list[Any] | None:
    """The number of attempts, the latest one, and why it failed."""
    packed = desk.do("HGET", keys.ERRAND_FAILURES, errand)
    if packed is None:
        return None
    version, count, attempt, ms, reason, *until = msgpack.unpackb(packed)
    assert version == 1
    assert desk.now() - 60_000 < ms <= desk.now() and all(ms <= one for one in until)
    return [count, attempt, reason]


def is_aside(desk: Desk, errand: str = ERRAND) -> bool:
    return isinf(float(desk.do("ZSCORE", keys.ERRANDS, errand)))


def seen(desk: Desk, running: int = 0) -> set[str]:
    """The errands that the timer leader is given."""
    flat = desk.run("fire_timers", "leader", 60_000, 1, running)[3]
    return {name.decode() for name in flat[::2]}


def test_an_attempt_counts_before_it_is_made(desk: Desk) -> None:
    tag, due = start(desk, "one")
    assert tag == b"started" and due == desk.do("ZSCORE", keys.ERRANDS, ERRAND)
    assert attempts(desk) == [1, "one", "the worker that ran it died, was stopped or was blocked"]
    assert seen(desk) == set(), "no other worker makes it meanwhile"
    assert float(due) > desk.now()


def test_a_repeated_start_counts_once(desk: Desk) -> None:
    due = desk.do("ZSCORE", keys.ERRANDS, ERRAND)
    first = start(desk, "one", due=due)
    assert start(desk, "one", due=due) == first
    assert attempts(desk)[:2] == [1, "one"]  # type: ignore[index]


@pytest.mark.parametrize("due", ["0", "", "17.5"])
def test_an_errand_noted_again_or_gone_is_not_started(desk: Desk, due: str) -> None:
    assert start(desk, "one", due=due) == [b"changed"]
    assert start(desk, "one", errand="egone", due=due) == [b"changed"]
    assert attempts(desk) is attempts(desk, "egone") is None


def test_one_that_failed_before_starts_only_alone(desk: Desk) -> None:
    start(desk, "one", alone=False)
    assert start(desk, "two", alone=False) == [b"failed before"]
    assert attempts(desk)[0] == 1  # type: ignore[index]
    assert start(desk, "two", alone=True)[0] == b"started"
    assert attempts(desk)[0] == 2  # type: ignore[index]


def test_a_worker_that_dies_each_time_has_it_set_aside(desk: Desk) -> None:
    for attempt in ("one", "two", "three"):
        assert start(desk, attempt)[0] == b"started"
    died = b"the worker that ran it died, was stopped or was blocked"
    assert start(desk, "four") == [b"set aside", 3, died]
    assert is_aside(desk) and seen(desk) == set()
    assert start(desk, "five")[0] == b"set aside"


def test_the_delay_grows_with_each_failure_up_to_the_longest(desk: Desk) -> None:
    for number, delay in enumerate((1000, 5000, 25_000, 125_000, 625_000, LONGEST, LONGEST), 1):
        start(desk, str(number), most=99)
        assert fail(desk, str(number), most=99) == [b"later", delay, number]
        due = float(desk.do("ZSCORE", keys.ERRANDS, ERRAND))
        assert abs(due - desk.now() - delay) < 60_000
    assert attempts(desk) == [7, "7", "no"]


def test_after_the_last_attempt_it_is_set_aside(desk: Desk) -> None:
    for attempt in ("one", "two"):
        start(desk, attempt)
        assert fail(desk, attempt)[0] == b"later"
    start(desk, "three")
    assert fail(desk, "three") == [b"set aside", 0, 3]
    assert fail(desk, "three") == [b"set aside", 0, 3], "its reply was lost"
    assert is_aside(desk)


def test_a_kind_that_is_not_counted_first_is_counted_when_it_fails_and_never_set_aside(desk: Desk) -> None:
    for number in range(1, 9):
        assert fail(desk, "", most=0)[::2] == [b"later", number]
    assert not is_aside(desk) and attempts(desk)[0] == 8  # type: ignore[index]


def test_a_failure_of_an_earlier_attempt_changes_nothing(desk: Desk) -> None:
    start(desk, "one")
    start(desk, "two")
    before = desk.do("ZSCORE", keys.ERRANDS, ERRAND)
    assert fail(desk, "one") == [b"changed", 0, 2]
    assert desk.do("ZSCORE", keys.ERRANDS, ERRAND) == before


def test_one_noted_again_during_its_attempt_runs_again_at_once(desk: Desk) -> None:
    _, due = start(desk, "one")
    desk.do("ZADD", keys.ERRANDS, 5, ERRAND)
    assert desk.run("fail_errand", ERRAND, due, "one", 3, 1000, LONGEST, "no") == [b"changed", 0, 1]
    assert seen(desk) == {ERRAND} and attempts(desk) == [1, "one", "no"]


def test_a_success_forgets_the_failures(desk: Desk) -> None:
    start(desk, "one")
    fail(desk, "one")
    start(desk, "two")
    assert finish(desk, 1000) == 1
    assert attempts(desk) is None and desk.do("ZSCORE", keys.ERRANDS, ERRAND) is not None
    start(desk, "three")
    assert finish(desk) == 1
    assert attempts(desk) is None and desk.do("ZSCORE", keys.ERRANDS, ERRAND) is None


def test_an_attempt_that_redis_did_not_serve_does_not_count(desk: Desk) -> None:
    start(desk, "one")
    assert finish(desk, 0, "one") == 1
    assert attempts(desk) is None
    start(desk, "two")
    fail(desk, "two")
    start(desk, "three")
    assert finish(desk, 0, "three") == 1
    assert attempts(desk)[0] == 1  # type: ignore[index]
    finish(desk, 0, "three")
    assert attempts(desk)[0] == 1, "it is taken back once"  # type: ignore[index]


def test_a_person_has_one_tried_again(desk: Desk) -> None:
    assert desk.run("retry_errand", ERRAND) == 0
    for attempt in ("one", "two", "three"):
        start(desk, attempt)
        fail(desk, attempt)
    assert is_aside(desk)
    assert desk.run("retry_errand", ERRAND) == 1
    assert seen(desk) == {ERRAND} and attempts(desk) is None
    assert start(desk, "four", alone=False)[0] == b"started"


def test_errands_that_run_already_hide_no_others(desk: Desk) -> None:
    desk.do("ZADD", keys.ERRANDS, 2, "eother")
    assert seen(desk) == {ERRAND}
    assert seen(desk, running=1) == {ERRAND, "eother"}
    desk.do("ZREM", keys.ERRANDS, "eother")


def test_the_audit_says_that_an_early_answer_was_set_aside(desk: Desk) -> None:
    by = desk.start()
    errand = f"y{by.id} ok"
    desk.answer(by.id, "ok", YES, "yes", early=True)
    desk.suspend(by, "ok", FAR, policy=ANN)
    for attempt in ("one", "two", "three"):
        start(desk, attempt, errand=errand)
        fail(desk, attempt, errand=errand)
    fail(desk, "three", errand=errand)
    ((_, step, _, what, _, who, channel, _, _, answer),) = audit(desk, by.id)
    assert (step, what, who, channel, answer) == (b"ok", b"set aside", b"ann", b"client", YES)
    assert desk.record(by.id, "ok")[2] == b"open", "it can be answered otherwise"
    assert is_aside(desk, errand)


@pytest.mark.parametrize("ends", ["finish", "cancel"])
def test_the_end_of_an_execution_removes_its_failed_errands(desk: Desk, ends: str) -> None:
    by = desk.start()
    desk.answer(by.id, "ok", YES, "yes", early=True)
    desk.answer(by.id, "other", YES, "yes", early=True)
    desk.suspend(by, "ok", FAR, policy=ANN)
    start(desk, "one", errand=f"y{by.id} ok")
    if ends == "finish":
        desk.finish(by)
    else:
        desk.cancel(by.id)
    assert desk.state.errand_failures == {} and list(desk.state.errands) == [ERRAND.encode()]


def test_a_changed_schedule_has_all_its_attempts_again(desk: Desk) -> None:
    name = "schedule-" + new_id()[:8]
    desk.run("change_schedule", name, "", msgpack.packb({"paused": False, "next": 1}), 1, "", "", "", "", "")
    start(desk, "one", errand="k" + name)
    seen_as = desk.do("HGET", keys.SCHEDULES, name)
    desk.run("change_schedule", name, seen_as, "", "", "", "", "", "", "")
    assert desk.state.errand_failures == {}
