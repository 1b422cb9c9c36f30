"""Races: the script that resolves a wait also decides its race and closes the other waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import AUDIT_MS, FAR, SHOWN_DIGEST, Activated, Desk, Race, branch, packed


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def inside(*races: tuple[str, str, *tuple[str, ...]]) -> Race:
    """A wait inside branches of several calls, which decides no race. Each is (race, branch, step keys
    ...)."""
    return b"", packed([list(one) for one in races])


def status(desk: Desk, by: Activated, key: str) -> bytes:
    found: bytes = desk.record(by.id, key)[2]
    return found


def winner(desk: Desk, by: Activated, race: str = "race") -> bytes | None:
    """The winning branch; None while the race is open."""
    record = desk.record(by.id, race)
    assert (record[2] == b"won") == bool(record[4]) == bool(record[5])
    return record[4] or None


def members(desk: Desk, by: Activated, race: str = "race") -> dict[bytes, bytes]:
    flat = desk.record(by.id, race)[6]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def opened(desk: Desk) -> Activated:
    """A race of every kind of wait; each branch is named after its step key."""
    by = desk.start()
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    desk.wait(by, "pause", FAR, race=branch("race", "pause", "pause"))
    desk.wait_for_event(by, "it", "news", FAR, race=branch("race", "it", "it"))
    desk.spawn(by, "kid", race=branch("race", "kid", "kid"))
    return by


WAITS = ("ask", "pause", "it", "kid")


# --- joining ----------------------------------------------------------------------------


def test_an_opening_wait_joins_its_race(desk: Desk) -> None:
    before = desk.now()
    by = opened(desk)
    version, kind, is_, at, won, decided, _ = desk.record(by.id, "race")
    assert (version, kind, is_, won, decided) == (1, b"race", b"open", b"", 0)
    assert before <= at <= desk.now()
    assert members(desk, by) == {key.encode(): key.encode() for key in WAITS}
    assert desk.record(by.id, "ask")[13] == desk.record(by.id, "pause")[11] == b"race"
    assert desk.record(by.id, "it")[11] == desk.record(by.id, "kid")[8] == b"race"
    assert int(desk.state.journals[by.id.encode()][b""]) == 8


@pytest.mark.failure(16)
def test_a_repeated_wait_joins_once(desk: Desk) -> None:
    by = opened(desk)
    with desk.unchanged():
        desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
        desk.wait(by, "pause", FAR, race=branch("race", "pause", "pause"))
        desk.wait_for_event(by, "it", "news", FAR, race=branch("race", "it", "it"))
        desk.spawn(by, "kid", race=branch("race", "kid", "kid"))


def test_a_branch_joins_with_the_steps_it_has_started_before(desk: Desk) -> None:
    by = desk.start()
    desk.write(by, "a")
    desk.suspend(by, "ask", race=inside(("race", "both", "a", "ask")))
    assert members(desk, by) == {b"a": b"both", b"ask": b"both"}
    desk.suspend(by, "more", race=inside(("race", "both", "a", "ask", "more")))
    assert members(desk, by) == {b"a": b"both", b"ask": b"both", b"more": b"both"}


# --- winning ----------------------------------------------------------------------------

Decide = Callable[[Desk, Activated], object]


def time_out(member: str) -> Decide:
    def decide(desk: Desk, by: Activated) -> None:
        desk.make_due(member.format(by.id))
        assert desk.fire()[0] == 1

    return decide


def deliver_too_late(desk: Desk, by: Activated) -> None:
    """The suspension's deadline passes, and an answer arrives before the timer fires."""
    record = desk.record(by.id, "ask")
    record[4] = 1
    desk.do("HSET", keys.JOURNAL + by.id, "ask", packed(record))
    assert desk.answer(by.id, "ask") == [b"expired", 1]


def end_of_child(how: str) -> Decide:
    def decide(desk: Desk, by: Activated) -> None:
        child = desk.deliver()
        if how == "cancelled":
            desk.cancel(child.id)
        else:
            desk.finish(child, how)

    return decide


DECIDE: dict[str, tuple[str, bytes, Decide]] = {
    "answer": ("ask", b"answered", lambda desk, by: desk.answer(by.id, "ask")),
    "timeout": ("ask", b"expired", time_out("s{} ask")),
    "late answer": ("ask", b"expired", deliver_too_late),
    "time": ("pause", b"over", time_out("w{} pause")),
    "event": ("it", b"event", lambda desk, by: desk.publish("news")),
    "no event": ("it", b"expired", time_out("w{} it")),
    "child": ("kid", b"done", end_of_child("completed")),
    "failed child": ("kid", b"done", end_of_child("failed")),
    "cancelled child": ("kid", b"done", end_of_child("cancelled")),
}


@pytest.mark.parametrize("how", DECIDE)
@pytest.mark.parametrize("parked", [False, True])
def test_resolving_a_wait_decides_its_race_and_closes_the_others(desk: Desk, how: str, parked: bool) -> None:
    by = opened(desk)
    if parked:
        assert desk.park(by, *WAITS) == 0
    first, became, decide = DECIDE[how]
    before = desk.now()
    decide(desk, by)
    assert winner(desk, by) == first.encode()
    assert before <= desk.record(by.id, "race")[5] <= desk.now()
    assert {key: status(desk, by, key) for key in WAITS} == dict.fromkeys(WAITS, b"closed") | {first: became}
    state = desk.state
    assert not state.timers and not state.suspensions and not state.subs
    assert state.executions[by.id.encode()][b"status"] == b"queued"
    waits = msgpack.unpackb(state.executions[by.id.encode()][b"waits"])
    assert waits == ["ask"], "the end finds its topic by this"
    topic = [] if first != "ask" else [b"resume"] if became == b"answered" else [b"timeout"]
    assert desk.events(f"ask/{by.id}") == [b"suspend", *topic], "closing emits no event"


@pytest.mark.failure(23)
def test_nothing_after_the_winner_has_an_effect(desk: Desk) -> None:
    by = opened(desk)
    kid = desk.deliver()
    desk.answer(by.id, "ask")
    desk.publish("news")
    desk.fire()
    desk.finish(kid)
    assert [status(desk, by, key) for key in WAITS] == [b"answered", b"closed", b"closed", b"closed"]
    assert winner(desk, by) == b"ask"


@pytest.mark.failure(23)
def test_an_answer_just_too_late_is_refused(desk: Desk) -> None:
    by = opened(desk)
    desk.publish("news")
    with desk.unchanged():
        assert desk.answer(by.id, "ask") == [b"closed", b"queued"]
        assert desk.answer(by.id, "ask", early=True) == [b"closed", b"queued"]


def test_an_early_answer_wins_as_its_wait_opens(desk: Desk) -> None:
    by = desk.start()
    desk.wait(by, "pause", FAR, race=branch("race", "pause", "pause"))
    desk.answer(by.id, "ask", early=True)
    changes, _ = desk.suspend(by, "ask", race=branch("race", "ask", "ask"))
    assert changes == int(desk.state.journals[by.id.encode()][b""])
    assert winner(desk, by) == b"ask" and status(desk, by, "pause") == b"closed"


def test_a_time_in_the_past_wins_as_its_wait_opens(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", race=branch("race", "ask", "ask"))
    changes, _ = desk.wait(by, "pause", until=1, race=branch("race", "pause", "pause"))
    assert changes == int(desk.state.journals[by.id.encode()][b""])
    assert winner(desk, by) == b"pause" and status(desk, by, "ask") == b"closed"


def test_completed_children_win_when_spawned_again(desk: Desk) -> None:
    by = desk.start()
    desk.spawn(by, "kid")
    desk.finish(by, "failed")
    desk.finish(desk.deliver())
    desk.retry(by.id)
    next_run = desk.deliver()
    next_run.known = 1
    desk.suspend(next_run, "ask", race=branch("race", "ask", "ask"))
    desk.spawn(next_run, "kid", race=branch("race", "kid", "kid"))
    assert winner(desk, by) == b"kid" and status(desk, by, "ask") == b"closed"


def test_a_wait_inside_a_branch_of_several_calls_decides_nothing(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "first", race=inside(("race", "both", "first")))
    desk.suspend(by, "other", race=branch("race", "other", "other"))
    desk.answer(by.id, "first")
    assert winner(desk, by) is None and status(desk, by, "other") == b"open"


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_the_end_of_the_execution_leaves_the_race_open(desk: Desk, end: str) -> None:
    by = opened(desk)
    if end == "finish":
        desk.finish(by)
    else:
        desk.cancel(by.id)
    assert winner(desk, by) is None
    assert {status(desk, by, key) for key in WAITS} == {b"closed"}


# --- too late for a race ----------------------------------------------------------------


def started(desk: Desk, by: Activated) -> Any:
    """How many children of the step "kid" have started."""
    return desk.record(by.id, "kid")[6]


def test_no_more_children_start_once_another_branch_has_won(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    desk.spawn(by, "kid", 2, total=5, race=branch("race", "kid", "kid"))
    desk.answer(by.id, "ask")
    assert status(desk, by, "kid") == b"closed"
    with desk.unchanged():
        _, record = desk.spawn(by, "kid", 2, first=2, total=5, race=branch("race", "kid", "kid"))
    assert record == desk.state.journals[by.id.encode()][b"kid"]
    assert started(desk, by) == len(desk.state.children[by.id.encode()]) == 2


def test_a_child_that_nobody_waits_for_starts_whoever_has_won(desk: Desk) -> None:
    """Its call had passed the gate before; the race only learns that it belongs to a losing branch."""
    by = desk.start()
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    desk.answer(by.id, "ask")
    desk.spawn(by, "kid", 1, status="started", race=(b"", branch("race", "code", "step", "kid")[1]))
    assert status(desk, by, "kid") == b"started" and started(desk, by) == 1
    assert members(desk, by) == {b"ask": b"ask", b"step": b"code", b"kid": b"code"}


def test_a_race_that_is_chosen_belongs_to_the_branch_around_it(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    around = branch("race", "code", "inner", "quick")[1]
    desk.choose(by, "inner", "quick", "quick", "quick", races=around)
    assert members(desk, by) == {b"ask": b"ask", b"inner": b"code", b"quick": b"code"}
    desk.answer(by.id, "ask")
    with desk.unchanged():
        desk.choose(by, "inner", "slow", races=around)


def test_a_wait_in_a_decided_race_is_closed_from_the_start(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "first", race=branch("race", "first", "first"))
    desk.answer(by.id, "first")
    desk.answer(by.id, "ask", early=True)
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    desk.wait(by, "pause", FAR, race=branch("race", "pause", "pause"))
    desk.wait_for_event(by, "it", "news", FAR, race=branch("race", "it", "it"))
    desk.spawn(by, "kid", race=branch("race", "kid", "kid"))
    desk.backoff(by, "call", races=branch("race", "call", "call")[1])
    assert [status(desk, by, key) for key in (*WAITS, "call")] == [b"closed"] * 4 + [b"abandoned"]
    assert started(desk, by) == 0, "the child that never started does not count"
    assert winner(desk, by) == b"first"
    assert members(desk, by) == {key.encode(): key.encode() for key in ("first", *WAITS, "call")}
    state = desk.state
    assert not state.timers and not state.suspensions and not state.subs and not state.children
    assert list(state.executions) == [by.id.encode()], "no child is started"
    assert f"ask/{by.id}".encode() not in state.topics
    assert int(state.journals[by.id.encode()][b""]) == by.known


def test_a_suspension_in_a_decided_race_still_emits_pending_events(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "first", race=branch("race", "first", "first"))
    desk.answer(by.id, "first")
    late = branch("race", "ask", "ask")
    arguments = ("ask", 0, b"\x80", *late, SHOWN_DIGEST, AUDIT_MS, "")
    desk.run("suspend", *by.fence, *arguments, "event_data", b"\x80")
    assert desk.events(by.id)[-1] == b"event_data" and status(desk, by, "ask") == b"closed"


def test_the_winning_branch_can_still_open_waits(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "one", race=inside(("race", "both", "one")))
    desk.choose(by, "race", "both")
    desk.suspend(by, "two", race=inside(("race", "both", "one", "two")))
    assert status(desk, by, "two") == b"open" and winner(desk, by) == b"both"


# --- choose -----------------------------------------------------------------------------


def test_choose_journals_the_winner_and_closes_the_waits_of_other_branches(desk: Desk) -> None:
    by = opened(desk)
    desk.backoff(by, "call")
    desk.suspend(by, "deep", FAR)
    desk.write(by, "done")
    before = desk.now()
    others = ("call", "slow", "deep", "slow", "done", "slow", "never", "slow")
    changes, record = desk.choose(by, "race", "quick", *others)
    assert msgpack.unpackb(record, raw=True) == desk.record(by.id, "race")
    assert changes == int(desk.state.journals[by.id.encode()][b""])
    assert winner(desk, by) == b"quick" and before <= desk.record(by.id, "race")[5] <= desk.now()
    found = [status(desk, by, key) for key in (*WAITS, "call", "deep", "done")]
    assert found == [b"closed"] * 4 + [b"abandoned", b"closed", b"ok"]
    waits = {key.encode(): key.encode() for key in WAITS}
    assert members(desk, by) == waits | {key.encode(): b"slow" for key in others[::2]}
    assert not desk.state.timers and not desk.state.suspensions and not desk.state.subs


def test_choose_without_any_wait_creates_the_race(desk: Desk) -> None:
    by = desk.start()
    desk.choose(by, "race", "quick")
    assert winner(desk, by) == b"quick" and members(desk, by) == {}


@pytest.mark.failure(24)
def test_choose_yields_to_a_wait_resolved_before(desk: Desk) -> None:
    by = opened(desk)
    desk.answer(by.id, "ask")
    with desk.unchanged():
        changes, record = desk.choose(by, "race", "quick", "deep", "slow")
    assert msgpack.unpackb(record, raw=True)[4] == b"ask"
    assert changes == int(desk.state.journals[by.id.encode()][b""])


@pytest.mark.failure(16)
def test_a_repeated_choose_changes_nothing(desk: Desk) -> None:
    by = opened(desk)
    desk.suspend(by, "deep")
    first = desk.choose(by, "race", "quick", "deep", "slow")
    with desk.unchanged():
        assert desk.choose(by, "race", "quick", "deep", "slow") == first


def test_choosing_the_winner_again_closes_waits_the_store_did_not_know(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", race=branch("race", "ask", "ask"))
    desk.suspend(by, "deep", FAR)
    desk.answer(by.id, "ask")
    by.known += 2
    desk.choose(by, "race", "ask", "deep", "slow")
    assert status(desk, by, "deep") == b"closed" and winner(desk, by) == b"ask"
    assert status(desk, by, "ask") == b"answered"


def test_choose_at_the_key_of_something_else_returns_its_record(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "race")
    with desk.unchanged():
        _, record = desk.choose(by, "race", "quick")
    assert msgpack.unpackb(record, raw=True)[1:3] == [b"suspend", b"open"]


# --- nested races ------------------------------------------------------------------------


def nested(desk: Desk) -> Activated:
    """outer: "ask" or "both"; both: a race between "left" and "right"."""
    by = desk.start()
    desk.suspend(by, "ask", FAR, race=branch("outer", "ask", "ask"))
    for name in ("left", "right"):
        races = packed([["inner", name, name], ["outer", "both", "inner", name]])
        desk.suspend(by, name, FAR, race=(b"inner", races))
    return by


def test_a_wait_of_an_inner_race_decides_only_that_race(desk: Desk) -> None:
    by = nested(desk)
    desk.answer(by.id, "left")
    assert winner(desk, by, "inner") == b"left" and winner(desk, by, "outer") is None
    assert [status(desk, by, key) for key in ("ask", "left", "right")] == [b"open", b"answered", b"closed"]


def test_the_outer_race_closes_the_waits_of_the_inner_one(desk: Desk) -> None:
    by = nested(desk)
    desk.answer(by.id, "ask")
    assert winner(desk, by, "outer") == b"ask" and winner(desk, by, "inner") is None
    assert [status(desk, by, key) for key in ("ask", "left", "right")] == [b"answered", b"closed", b"closed"]


def test_a_wait_of_an_inner_race_can_be_too_late_for_the_outer_one(desk: Desk) -> None:
    by = nested(desk)
    desk.answer(by.id, "ask")
    races = packed([["inner", "third", "third"], ["outer", "both", "inner", "third"]])
    desk.suspend(by, "third", race=(b"inner", races))
    assert status(desk, by, "third") == b"closed"
    assert winner(desk, by, "inner") is None and winner(desk, by, "outer") == b"ask"
    assert members(desk, by, "inner")[b"third"] == b"third"
    assert members(desk, by, "outer")[b"third"] == b"both"


def test_a_damaged_member_does_not_stop_the_others(desk: Desk) -> None:
    by = opened(desk)
    whole: Any = desk.do("HGET", keys.JOURNAL + by.id, "pause")
    desk.do("HSET", keys.JOURNAL + by.id, "pause", whole[:20])
    desk.answer(by.id, "ask")
    assert winner(desk, by) == b"ask" and status(desk, by, "it") == b"closed"
    assert desk.state.timers == {}


# --- long branches ----------------------------------------------------------------------

MANY = 9000  # more than Lua's unpack returns


def test_a_wait_joins_a_race_behind_any_number_of_steps(desk: Desk) -> None:
    by = desk.start()
    started = (*(f"step {number}" for number in range(MANY)), "pause")
    desk.wait(by, "pause", FAR, race=inside(("race", "long", *started)))
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    assert len(members(desk, by)) == MANY + 2
    desk.answer(by.id, "ask")
    assert winner(desk, by) == b"ask" and status(desk, by, "pause") == b"closed"


def test_a_branch_of_any_number_of_steps_wins(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    started = [part for number in range(MANY) for part in (f"step {number}", "long")]
    desk.choose(by, "race", "long", *started)
    assert winner(desk, by) == b"long" and status(desk, by, "ask") == b"closed"
    assert len(members(desk, by)) == MANY + 1
