"""Marks: accepted answers that code need not reach: it left them, they are optional, or they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.decisions.audit import entry
from polos_redis.embedded import EmbeddedServer
from polos_redis.state import journal, keys
from polos_redis.state.journal import Mark, SuspensionRecord
from tests.harness.desk import AUDIT_MS, FAR, SHOWN_DIGEST, Activated, Desk, branch, new_id, packed, step

pytestmark = pytest.mark.failure(45)

ANSWER = b"\x81\xa8approved\xc2"


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def mark_of(desk: Desk, execution_id: str, key: str) -> tuple[str, str, str] | None:
    record = journal.parse(desk.state.journals[execution_id.encode()][key.encode()])
    assert isinstance(record, SuspensionRecord)
    return None if record.mark is None else (record.mark.kind, record.mark.by, record.mark.reason)


def answered(desk: Desk, by: Activated, *suspensions: str, **more: Any) -> None:
    """Suspensions that open in another millisecond than what comes before and after, and are answered."""
    for key in suspensions:
        desk.next_millisecond()
        desk.suspend(by, key, FAR, **more)
        assert desk.answer(by.id, key, ANSWER)[0] == b"accepted"
        desk.next_millisecond()


def audited(desk: Desk, execution_id: str) -> list[dict[str, Any]]:
    return [dict(entry(one)) for one in desk.do("LRANGE", keys.AUDIT + execution_id, 0, -1)]


LEFT = ("left", "", "")
OPTIONAL = ("optional", "", "")


# --- the record -------------------------------------------------------------------------


@given(
    st.sampled_from(["open", "answered", "expired", "closed"]),
    st.binary(max_size=40),
    st.sampled_from([(), (b"",), (b"\x80",)]),
    st.sampled_from([None, "left", "optional", "skipped"]),
)
def test_only_an_unmarked_answer_has_to_be_reached(
    status: str, answer: bytes, form: tuple[bytes, ...], mark: str | None
) -> None:
    array = [1, "suspend", status, 1, 0, b"\x80", answer, "", "ann", "cli", 2, "", "", "", "", 3, 1, *form]
    if mark is not None:
        array = [*array[:17], *(form or (b"",)), [mark, 5, "bob", "why"]]
    stored = msgpack.packb(array, use_bin_type=False)
    record = journal.parse(stored)
    assert isinstance(record, SuspensionRecord)
    assert record.mark == (None if mark is None else Mark(mark, 5, "bob", "why"))
    must = status == "answered" and mark is None
    assert journal.is_accepted(stored) is must
    assert journal.accepted({b"k": stored}) == ["k"] * must
    assert journal.asked({b"k": stored}) == ["k"] * (status == "open")


def test_an_answer_may_become_marked_and_nothing_else(desk: Desk) -> None:
    by = desk.start()
    answered(desk, by, "ok", form=b"\x80")
    before = desk.state.journals[by.id.encode()][b"ok"]
    desk.give_up(by, "ok")
    after = desk.state.journals[by.id.encode()][b"ok"]
    assert journal.may_become(before, after) and not journal.may_become(after, before)
    other = msgpack.unpackb(after, raw=True)
    other[6] = b"\xc3"
    assert not journal.may_become(before, msgpack.packb(other, use_bin_type=False))


# --- left -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["give_up", "park", "park that finds a decision"])
def test_what_code_has_given_up_is_closed_or_left(desk: Desk, how: str) -> None:
    by = desk.start()
    answered(desk, by, "answered", "seen")
    desk.suspend(by, "open", FAR)
    desk.suspend(by, "other")
    given_up = ["answered", "open", "never"]
    if how == "give_up":
        count = by.known
        assert desk.give_up(by, *given_up) == count + 2
        assert desk.execution(by.id)["status"] == b"queued"
    else:
        if how != "park":
            desk.answer(by.id, "other")
        desk.park(by, "other", given_up=given_up)
    assert desk.record(by.id, "open")[2] == b"closed"
    assert mark_of(desk, by.id, "answered") == LEFT and mark_of(desk, by.id, "seen") is None
    assert desk.record(by.id, "answered")[6] == ANSWER, "its answer stays"
    assert desk.answer(by.id, "answered", ANSWER)[0] == b"same"


def test_giving_up_is_fenced(desk: Desk) -> None:
    by = desk.start()
    answered(desk, by, "ok")
    ahead, other = Activated(by.id, by.entry, by.owner), Activated(by.id, by.entry, "w2:9")
    ahead.known = by.known + 2
    with desk.unchanged():
        assert desk.run("give_up", *ahead.fence, "ok") == -2
        assert desk.run("give_up", *other.fence, "ok") == -1


def test_giving_up_makes_the_activation_the_owner(desk: Desk) -> None:
    """It may be the first write of an activation whose journal was inlined."""
    by = desk.start()
    desk.suspend(by, "ok")
    desk.park(by, "ok")
    desk.answer(by.id, "ok")
    later = desk.deliver()
    desk.give_up(later, "ok")
    assert desk.execution(by.id)["owner"] == later.owner.encode()


def test_what_is_marked_stays_marked(desk: Desk) -> None:
    by = desk.start()
    answered(desk, by, "ok")
    desk.give_up(by, "ok")
    with desk.unchanged():
        desk.give_up(by, "ok")


# --- optional ---------------------------------------------------------------------------

both = pytest.mark.parametrize("how", ["auto_retry", "retry"])


def run_again(desk: Desk, by: Activated, how: str) -> None:
    if how == "auto_retry":
        assert desk.auto_retry(by) == 2
    else:
        assert desk.finish(by, "failed", packed([1, "E", "no", ""])) == 0
        assert desk.retry(by.id) == [b"retried", 2]


def marks(desk: Desk, by: Activated, *suspensions: str) -> list[Any]:
    return [mark_of(desk, by.id, key) for key in suspensions]


def fail_a_step(desk: Desk, by: Activated) -> None:
    desk.write(by, "x", step(status="failed"))


def expire(desk: Desk, by: Activated) -> None:
    desk.suspend(by, "x", FAR)
    desk.make_due(f"s{by.id} x")
    desk.fire()


def fail_a_child(desk: Desk, by: Activated) -> None:
    desk.finish(desk.child(by, "x"), "failed", packed([1, "E", "no", ""]))


def give_up_a_wait(desk: Desk, by: Activated) -> None:
    desk.suspend(by, "x", FAR)
    desk.give_up(by, "x")


@both
@pytest.mark.parametrize("happen", [fail_a_step, expire, fail_a_child, give_up_a_wait])
def test_what_was_asked_after_something_that_a_retry_drops_is_optional(
    desk: Desk, how: str, happen: Any
) -> None:
    """Its `except`, say, asked a person: the next run may not get there."""
    by = desk.start()
    answered(desk, by, "before")
    happen(desk, by)
    answered(desk, by, "after", "long after")
    desk.write(by, "end", step())
    by.known = 0
    run_again(desk, by, how)
    assert b"x" not in desk.state.journals[by.id.encode()]
    assert marks(desk, by, "before", "after", "long after") == [None, OPTIONAL, OPTIONAL]


@both
def test_what_was_asked_before_it_was_over_is_not_optional(desk: Desk, how: str) -> None:
    """It did not depend on how that would end."""
    by = desk.start()
    desk.suspend(by, "x", FAR)
    desk.spawn(by, "kid")
    answered(desk, by, "meanwhile")
    desk.make_due(f"s{by.id} x")
    desk.fire()
    desk.finish(desk.deliver(), "failed", packed([1, "E", "no", ""]))
    answered(desk, by, "after")
    by.known = 0
    run_again(desk, by, how)
    assert marks(desk, by, "meanwhile", "after") == [None, OPTIONAL]


@both
def test_a_retry_that_drops_nothing_makes_nothing_optional(desk: Desk, how: str) -> None:
    by = desk.start()
    desk.write(by, "a", step())
    answered(desk, by, "ok")
    desk.suspend(by, "default", FAR, default=b"\xc3")
    desk.make_due(f"s{by.id} default")
    desk.fire()
    answered(desk, by, "ok too")
    by.known = 0
    run_again(desk, by, how)
    assert marks(desk, by, "ok", "ok too") == [None, None]


@both
def test_the_losers_of_a_race_that_stays_are_not_run_again(desk: Desk, how: str) -> None:
    by = desk.start()
    for key in ("one", "two"):
        desk.suspend(by, key, FAR, race=branch("race", key, key))
    desk.answer(by.id, "two")
    assert desk.record(by.id, "one")[2] == b"closed"
    answered(desk, by, "after")
    by.known = 0
    run_again(desk, by, how)
    assert marks(desk, by, "two", "after") == [None, None]
    assert b"one" not in desk.state.journals[by.id.encode()]


@both
def test_a_race_whose_winner_runs_again_may_end_otherwise(desk: Desk, how: str) -> None:
    by = desk.start()
    desk.suspend(by, "ask", FAR, race=branch("race", "ask", "ask"))
    desk.write(by, "x", step(status="failed"))
    desk.choose(by, "race", "code", "x", "code")
    answered(desk, by, "after")
    by.known = 0
    run_again(desk, by, how)
    assert b"race" not in desk.state.journals[by.id.encode()]
    assert marks(desk, by, "after") == [OPTIONAL]


def test_nothing_depends_on_a_child_whose_end_code_has_not_learnt(desk: Desk) -> None:
    """The step waits for another child, and runs again."""
    by = desk.start()
    desk.spawn(by, "kids", 2)
    desk.finish(desk.deliver(), "failed", packed([1, "E", "no", ""]))
    answered(desk, by, "meanwhile")
    by.known = 0
    run_again(desk, by, "auto_retry")
    assert b"kids" not in desk.state.journals[by.id.encode()]
    assert marks(desk, by, "meanwhile") == [None]


@both
def test_what_is_left_stays_left(desk: Desk, how: str) -> None:
    by = desk.start()
    fail_a_step(desk, by)
    answered(desk, by, "ok")
    desk.give_up(by, "ok")
    run_again(desk, by, how)
    assert marks(desk, by, "ok") == [LEFT]


# --- skipped ----------------------------------------------------------------------------


def unreached(desk: Desk, how: str) -> Activated:
    """An execution that is stuck or has failed, with two accepted answers."""
    by = desk.start()
    answered(desk, by, "ok", "other")
    desk.suspend(by, "open", FAR)
    desk.write(by, "a", step())
    if how == "stuck":
        assert desk.stick(by) == 0
    else:
        assert desk.finish(by, "failed", packed([1, "E", "no", ""])) == 0
    return by


ways = pytest.mark.parametrize("how", ["stuck", "failed"])


@ways
def test_a_retry_skips_answers(desk: Desk, how: str) -> None:
    by = unreached(desk, how)
    before = int(desk.state.journals[by.id.encode()][b""])
    reply = desk.retry(by.id, skip=["ok"], by="bob", reason="the key was renamed")
    assert reply == [b"retried", 2]
    dropped = how == "failed"  # what is not kept counts as one more change
    assert int(desk.state.journals[by.id.encode()][b""]) == before + 1 + dropped
    assert marks(desk, by, "ok", "other") == [("skipped", "bob", "the key was renamed"), None]
    at = journal.parse(desk.state.journals[by.id.encode()][b"ok"])
    assert isinstance(at, SuspensionRecord) and at.mark is not None and at.mark.at_ms >= at.decided_ms
    *_, last = audited(desk, by.id)
    assert last.pop("at") is not None and last.pop("opened_at") is not None
    assert last == {
        "execution_id": by.id,
        "workflow_id": "wf",
        "step_key": "ok",
        "status": "skipped",
        "by": "bob",
        "channel": None,
        "digest": SHOWN_DIGEST.hex(),
        "data": {"approved": False},
        "reason": "the key was renamed",
    }
    assert 0 < desk.state.ttl[keys.AUDIT + by.id] <= AUDIT_MS
    assert desk.deliver().id == by.id


@ways
def test_a_retry_skips_several_answers_and_each_once(desk: Desk, how: str) -> None:
    by = unreached(desk, how)
    before = len(audited(desk, by.id))
    assert desk.retry(by.id, skip=["ok", "other", "ok"], by="bob", reason="r") == [b"retried", 2]
    assert marks(desk, by, "ok", "other") == [("skipped", "bob", "r")] * 2
    assert [one["status"] for one in audited(desk, by.id)[before:]] == ["skipped", "skipped"]


@ways
@pytest.mark.parametrize("key", ["open", "a", "never"])
def test_only_an_accepted_answer_is_skipped(desk: Desk, how: str, key: str) -> None:
    by = unreached(desk, how)
    with desk.unchanged():
        assert desk.retry(by.id, skip=["ok", key], by="bob", reason="r") == [b"no answer", key.encode()]


@ways
def test_what_is_skipped_or_left_is_not_skipped_again(desk: Desk, how: str) -> None:
    by = desk.start()
    answered(desk, by, "ok", "other")
    desk.give_up(by, "other")
    desk.stick(by)
    desk.retry(by.id, skip=["ok"], by="bob", reason="r")
    again = desk.deliver()
    if how == "stuck":
        desk.stick(again)
    else:
        desk.finish(again, "failed", packed([1, "E", "no", ""]))
    with desk.unchanged():
        assert desk.retry(by.id, 2, skip=["ok"], by="bob", reason="r") == [b"no answer", b"ok"]
        assert desk.retry(by.id, 2, skip=["other"], by="bob", reason="r") == [b"no answer", b"other"]


def test_a_late_skip_does_nothing_to_a_newer_run(desk: Desk) -> None:
    by = unreached(desk, "stuck")
    created = desk.execution(by.id)["created"]
    assert desk.retry(by.id) == [b"retried", 2]
    desk.stick(desk.deliver())
    with desk.unchanged():
        assert desk.retry(by.id, 1, created, skip=["ok"], by="bob", reason="r") == [b"run", b"2"]
        assert desk.retry(by.id, 2, b"1", skip=["ok"], by="bob", reason="r") == [b"missing"]
        assert desk.retry(new_id(), 2, skip=["ok"], by="bob", reason="r") == [b"missing"]
    assert desk.retry(by.id, 2, created, skip=["ok"], by="bob", reason="r") == [b"retried", 3]


# --- unused early answers ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "timed out"])
def test_an_early_answer_that_was_not_used_is_in_the_audit(desk: Desk, how: str) -> None:
    by = desk.start(timeout=FAR)
    desk.answer(by.id, "used", ANSWER, early=True)
    desk.suspend(by, "used")
    desk.answer(by.id, "too early", ANSWER, early=True)
    if how == "cancelled":
        desk.cancel(by.id)
    elif how == "timed out":
        desk.make_due("t" + by.id)
        desk.fire()
    else:
        desk.finish(by, how, packed([1, "E", "no", ""]))
    used, unused = audited(desk, by.id)
    assert (used["step_key"], used["status"]) == ("used", "answered")
    assert unused.pop("at") is not None
    assert unused == {
        "execution_id": by.id,
        "workflow_id": "wf",
        "step_key": "too early",
        "status": "unused",
        "by": "ann",
        "channel": "client",
        "digest": None,
        "opened_at": None,
        "data": {"approved": False},
        "reason": None,
    }
    assert 0 < desk.state.ttl[keys.AUDIT + by.id] <= AUDIT_MS, "as long as the audit is kept anyway"


def test_an_audit_of_nothing_else_is_kept_for_a_year(desk: Desk) -> None:
    by = desk.start()
    desk.answer(by.id, "too early", early=True)
    desk.do("HSET", keys.EARLY + by.id, "damaged", "?")
    desk.finish(by)
    assert {one["step_key"] for one in audited(desk, by.id)} == {"too early", "damaged"}
    assert 364 * 86_400_000 < desk.state.ttl[keys.AUDIT + by.id] <= 365 * 86_400_000


@pytest.mark.parametrize("drop", ["before the end", "never"])
@pytest.mark.parametrize("decided", ["by it", "among several", "by somebody else", "by nobody"])
def test_an_early_answer_is_unused_unless_its_suspension_has_got_it(
    desk: Desk, decided: str, drop: str
) -> None:
    """It waits for its errand until its suspension has got it; the execution may end before it is dropped."""
    by = desk.start()
    desk.answer(by.id, "ok", ANSWER, "d1", early=True, api_key="k1")
    if decided == "among several":
        desk.suspend(by, "ok", policy=packed({"required": 2, "rejections": 2}))
        record = journal.parse(desk.state.journals[by.id.encode()][b"ok"])
        assert isinstance(record, SuspensionRecord)
        opening = record.opening
        assert desk.answer(by.id, "ok", ANSWER, "d1", opening=opening)[0] == b"recorded"
    else:
        desk.suspend(by, "ok")
    if decided in ("by it", "by somebody else"):
        desk.answer(by.id, "ok", ANSWER, "d1", by="ann" if decided == "by it" else "zoe")
    if drop == "before the end":
        assert desk.run("drop_early", by.id, "ok", "another") == 0
        assert desk.run("drop_early", by.id, "ok", "d1") == 1
        assert desk.run("drop_early", by.id, "ok", "d1") == 0
    desk.cancel(by.id)
    unused = [one["by"] for one in audited(desk, by.id) if one["status"] == "unused"]
    assert unused == ([] if decided in ("by it", "among several") else ["ann"])


# --- open suspensions that code no longer reaches ---------------------------------------


def inbox(desk: Desk) -> dict[bytes, int]:
    _, rows = desk.run("list_suspensions", "-inf", 50, "", 1000, 1 << 20, "")
    return {row[1]: row[5] for row in rows}


def test_open_suspensions_that_code_no_longer_reaches_are_marked_in_the_inbox(desk: Desk) -> None:
    by = desk.start()
    for key in ("old", "older", "ok"):
        desk.suspend(by, key, FAR)
    assert desk.park(by, "ok", unreached=["old", "older"]) == 0
    other = desk.parked("old")
    assert inbox(desk) == {b"old": 0, b"older": 1, b"ok": 0} or other
    _, rows = desk.run("list_suspensions", "-inf", 50, "", 1000, 1 << 20, "")
    assert {(row[0], row[1]): row[5] for row in rows} == {
        (by.id.encode(), b"old"): 1,
        (by.id.encode(), b"older"): 1,
        (by.id.encode(), b"ok"): 0,
        (other.encode(), b"old"): 0,
    }


@pytest.mark.parametrize("how", ["park", "stick", "completed", "auto_retry"])
def test_the_next_activation_decides_anew_what_is_reached(desk: Desk, how: str) -> None:
    by = desk.start()
    for key in ("old", "ok"):
        desk.suspend(by, key, FAR)
    desk.park(by, "ok", unreached=["old"])
    desk.answer(by.id, "ok")
    later = desk.deliver()
    assert "unreached_waits" in desk.execution(by.id)
    if how == "park":
        desk.park(later, "old")
    elif how == "stick":
        desk.stick(later)
    elif how == "auto_retry":
        desk.auto_retry(later)
    else:
        desk.finish(later)
        return  # it means nothing after the end
    assert "unreached_waits" not in desk.execution(by.id)


def test_a_park_that_is_refused_notes_nothing(desk: Desk) -> None:
    by = desk.start()
    for key in ("old", "ok"):
        desk.suspend(by, key, FAR)
    desk.answer(by.id, "ok")
    with desk.unchanged():
        desk.park(by, "ok", unreached=["old"])
