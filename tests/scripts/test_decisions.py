"""Decisions by several people, defaults, the audit and delete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.embedded import EmbeddedServer
from polos_redis.state import journal, keys
from polos_redis.state.journal import SuspensionRecord
from tests.harness.desk import AUDIT_MS, FAR, SHOWN_DIGEST, Desk, branch, packed

TWO = AnswerPolicy(required=2).pack()
TWO_OF_EACH = AnswerPolicy(required=2, rejections=2).pack()
ANN = AnswerPolicy(approvers=("ann",)).pack()
YES, NO = b"\x81\xa8approved\xc3", b"\x81\xa8approved\xc2"
DEFAULT = b"\xa4none"


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def suspended(desk: Desk, key: str = "ok", timeout: int = 0, **more: Any) -> str:
    """The id of an execution that waits at a suspension."""
    by = desk.start()
    desk.suspend(by, key, timeout, **more)
    assert desk.park(by, key) == 0
    return by.id


def found(desk: Desk, one: str, key: str = "ok") -> SuspensionRecord:
    record = journal.parse(desk.do("HGET", keys.JOURNAL + one, key))
    assert isinstance(record, SuspensionRecord)
    return record


def says(desk: Desk, one: str, by: str, approves: bool, key: str = "ok") -> Any:
    """A person decides a suspension as it was read."""
    answer, digest = (YES, "yes") if approves else (NO, "no")
    opening = found(desk, one, key).opening
    return desk.answer(one, key, answer, digest, by=by, opening=opening, approves=approves)


def audit(desk: Desk, root: str) -> list[list[Any]]:
    entries = [msgpack.unpackb(entry, raw=True) for entry in desk.state.audit.get(root.encode(), [])]
    assert all(version == 1 for version, *_ in entries)
    return [items for _, *items in entries]


def changes(desk: Desk, one: str) -> int:
    return int(desk.do("HGET", keys.JOURNAL + one, ""))


# --- checks before an answer ------------------------------------------------------------


def test_a_suspension_with_an_answer_policy_is_returned_before_it_is_decided(desk: Desk) -> None:
    one = suspended(desk, policy=ANN)
    stored = desk.do("HGET", keys.JOURNAL + one, "ok")
    with desk.unchanged():
        for opening in ("", "?", "0:abc", found(desk, one).opening[:-1]):
            assert desk.answer(one, "ok", opening=opening) == [b"look", stored, None]
        assert desk.answer(one, "ok", early=True) == [b"look", stored, None]
    assert desk.answer(one, "ok", opening=found(desk, one).opening)[0] == b"accepted"


def test_the_user_who_started_it_is_returned_too(desk: Desk) -> None:
    by = desk.start(origin=b"\x81\xa7user_id\xa3ann")
    desk.suspend(by, "ok", policy=ANN)
    assert desk.answer(by.id, "ok")[2] == b"\x81\xa7user_id\xa3ann"


def test_a_suspension_without_an_answer_policy_is_returned_on_demand(desk: Desk) -> None:
    one = suspended(desk)
    assert desk.answer(one, "ok", opening="?")[0] == b"look"
    assert desk.answer(one, "ok", opening=found(desk, one).opening)[0] == b"accepted"


@pytest.mark.parametrize("other", ["policy", "shown"])
def test_two_openings_within_one_millisecond_are_told_apart(desk: Desk, other: str) -> None:
    one = suspended(desk, policy=ANN)
    opening = found(desk, one).opening
    record = desk.record(one, "ok")
    record[11 if other == "policy" else 14] = AnswerPolicy(approvers=("bob",)).pack()
    desk.do("HSET", keys.JOURNAL + one, "ok", packed(record))
    assert desk.answer(one, "ok", opening=opening)[0] == b"look"


# --- several decisions ------------------------------------------------------------------


def test_the_first_of_two_approvals_is_recorded_and_decides_nothing(desk: Desk) -> None:
    one = suspended(desk, "ok", FAR, policy=TWO, default=DEFAULT)
    before, was, count = desk.now(), desk.state, changes(desk, one)
    tag, at, *rest = says(desk, one, "ann", True)
    assert (tag, *rest) == (b"recorded", b"ann", 1, 2) and before <= at <= desk.now()
    record = desk.record(one, "ok")
    assert record[2] == b"open" and record[6:11] == [DEFAULT, b"", b"", b"", 0]
    assert msgpack.unpackb(record[12], raw=True) == [[YES, b"yes", b"ann", b"client", at, b"1", b"ann"]]
    state = desk.state
    assert state.timers == was.timers and state.suspensions == was.suspensions
    assert state.executions == was.executions and state.queues == was.queues
    assert changes(desk, one) == count + 1
    for topic, kind in ((f"ok/{one}", b"decision"), (one, b"decision_ok")):
        _, (event, data) = state.topics[topic.encode()][-1]
        assert event == kind
        expected = {"data": {"approved": True}, "resumed_by": "ann", "resumed_at": at, "channel": "client"}
        assert msgpack.unpackb(data) == expected
    opened = record[3]
    expected_entry = [
        *(one.encode(), b"ok", b"wf", b"recorded", at, b"ann", b"client", SHOWN_DIGEST, opened, YES)
    ]
    assert audit(desk, one) == [expected_entry]


def test_the_second_approval_decides(desk: Desk) -> None:
    one = suspended(desk, "ok", FAR, policy=TWO, default=DEFAULT)
    _, first, *_ = says(desk, one, "ann", True)
    tag, at, *rest = says(desk, one, "bob", True)
    assert (tag, *rest) == (b"accepted", b"bob", 2, 2)
    record = desk.record(one, "ok")
    assert record[2] == b"answered" and record[6:11] == [YES, b"yes", b"bob", b"client", at]
    made = msgpack.unpackb(record[12], raw=True)
    assert [(who, when) for _, _, who, _, when, *_ in made] == [(b"ann", first), (b"bob", at)]
    state = desk.state
    assert not state.timers and not state.suspensions
    assert desk.execution(one)["status"] == b"queued"
    assert desk.events(one)[-2:] == [b"decision_ok", b"resume_ok"]
    assert [(entry[3], entry[5]) for entry in audit(desk, one)] == [
        *((b"recorded", b"ann"), (b"answered", b"bob"))
    ]
    with desk.unchanged():
        assert says(desk, one, "ann", True)[:3] == [b"same", at, b"bob"]
        assert says(desk, one, "bob", True)[:3] == [b"same", at, b"bob"]
        assert says(desk, one, "zoe", False)[:3] == [b"other", at, b"bob"]
        assert says(desk, one, "ann", False)[:3] == [b"other", first, b"ann"]


def test_a_person_counts_once_and_cannot_change_sides(desk: Desk) -> None:
    one = suspended(desk, policy=TWO_OF_EACH)
    recorded = says(desk, one, "ann", True)
    with desk.unchanged():
        for _ in range(3):
            assert says(desk, one, "ann", True) == recorded
        assert says(desk, one, "ann", False)[:3] == [b"other", recorded[1], b"ann"]
    assert says(desk, one, "bob", False)[::3] == [b"recorded", 1]
    assert says(desk, one, "cid", False)[0] == b"accepted"
    assert desk.record(one, "ok")[6] == NO


def test_one_rejection_decides_by_default(desk: Desk) -> None:
    one, two = suspended(desk, policy=TWO), suspended(desk, policy=TWO_OF_EACH)
    for each in (one, two):
        says(desk, each, "ann", True)
    assert says(desk, one, "bob", False)[:1] == [b"accepted"]
    assert says(desk, two, "bob", False)[::3] == [b"recorded", 1]
    assert desk.record(one, "ok")[6:9] == [NO, b"no", b"bob"] and desk.record(two, "ok")[2] == b"open"


def test_an_activation_that_missed_a_decision_still_parks(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok", policy=TWO)
    says(desk, by.id, "ann", True)
    assert desk.park(by, "ok") == 0
    assert says(desk, by.id, "bob", True)[0] == b"accepted"
    assert desk.execution(by.id)["status"] == b"queued"


def test_a_decision_by_several_people_wins_its_race(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok", race=branch("race", "ok", "ok"), policy=TWO)
    desk.wait(by, "nap", FAR, race=branch("race", "nap", "nap"))
    assert desk.park(by, "ok", "nap") == 0
    says(desk, by.id, "ann", True)
    assert desk.record(by.id, "race")[2] == b"open" and desk.record(by.id, "nap")[2] == b"open"
    says(desk, by.id, "bob", True)
    assert desk.record(by.id, "race")[2:5:2] == [b"won", b"ok"]
    assert desk.record(by.id, "nap")[2] == b"closed"


# --- deadlines and defaults -------------------------------------------------------------


@pytest.mark.parametrize("how", ["timer", "a late answer"])
@pytest.mark.parametrize("default", [DEFAULT, b""], ids=["default", "fail"])
def test_a_deadline_passes_with_one_of_two_approvals(desk: Desk, default: bytes, how: str) -> None:
    one = suspended(desk, "ok", FAR, policy=TWO, **({"default": default} if default else {}))
    says(desk, one, "ann", True)
    record = desk.record(one, "ok")
    if how == "timer":
        desk.make_due(f"s{one} ok")
        desk.fire()
    else:
        record[4] = desk.now()
        desk.do("HSET", keys.JOURNAL + one, "ok", packed(record))
        desk.do("ZADD", keys.TIMERS, record[4], f"s{one} ok")
        assert says(desk, one, "bob", True) == [b"expired", record[4]]
    record = desk.record(one, "ok")
    assert record[2] == b"expired" and record[6:10] == [default, b"", b"", b""]
    assert desk.execution(one)["status"] == b"queued" and not desk.state.suspensions
    assert [(entry[3], entry[5], entry[9]) for entry in audit(desk, one)] == [
        *((b"recorded", b"ann", YES), (b"expired", b"", default))
    ]
    with desk.unchanged():
        assert says(desk, one, "ann", True) == [b"expired", record[4]]


def test_a_new_run_keeps_what_a_default_decided_and_reopens_what_nobody_decided(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "kept", FAR, default=DEFAULT)
    desk.suspend(by, "gone", FAR)
    desk.suspend(by, "open", FAR, default=DEFAULT, policy=TWO)
    says(desk, by.id, "ann", True, "open")
    for key in ("kept", "gone"):
        desk.make_due(f"s{by.id} {key}")
    desk.fire()
    desk.finish(by, "failed")
    desk.retry(by.id)
    next_run = desk.deliver()
    assert {name for name in desk.state.journals[by.id.encode()] if name} == {b"kept"}
    next_run.known = changes(desk, by.id)
    desk.suspend(next_run, "open", FAR, policy=TWO)
    assert desk.record(by.id, "open")[12] == b"", "earlier decisions do not count"
    assert says(desk, by.id, "bob", True, "open")[::3] == [b"recorded", 1]


# --- early answers ----------------------------------------------------------------------


def test_an_early_answer_is_not_applied_unchecked(desk: Desk) -> None:
    by = desk.start()
    groups = packed(["finance"])
    assert desk.answer(by.id, "ok", YES, "yes", early=True, by="ann", groups=groups)[0] == b"kept"
    _, opened = desk.suspend(by, "ok", FAR, policy=ANN)
    assert msgpack.unpackb(opened, raw=True)[2] == b"open"
    state = desk.state
    stored = msgpack.unpackb(state.early[by.id.encode()][b"ok"], raw=True)
    assert stored[:5] == [1, YES, b"yes", b"ann", b"client"] and stored[6] == groups
    assert list(state.errands) == [f"y{by.id} ok".encode()]
    assert f"{by.id} ok".encode() in state.suspensions and audit(desk, by.id) == []


@pytest.mark.parametrize("tried", [True, False])
def test_the_end_leaves_no_errand_for_an_early_answer(desk: Desk, tried: bool) -> None:
    by = desk.start()
    desk.answer(by.id, "ok", YES, "yes", early=True)
    desk.suspend(by, "ok", FAR, policy=ANN)
    ((errand, due),) = desk.state.errands.items()
    if tried:
        assert desk.run("start_errand", errand, repr(due), "attempt", 3, 1, FAR)[0] == b"started"
        assert desk.state.errand_failures.keys() == {errand}
    assert desk.finish(by) == 0
    assert not desk.state.errands and not desk.state.errand_failures


def test_an_early_answer_of_an_api_key_is_not_applied_unchecked(desk: Desk) -> None:
    """Also without a policy: the key may have been revoked."""
    by = desk.start()
    assert desk.answer(by.id, "ok", YES, "yes", early=True, by="ann", api_key="k1")[0] == b"kept"
    _, opened = desk.suspend(by, "ok", FAR)
    assert msgpack.unpackb(opened, raw=True)[2] == b"open"
    state = desk.state
    assert msgpack.unpackb(state.early[by.id.encode()][b"ok"], raw=True)[7] == b"k1"
    assert list(state.errands) == [f"y{by.id} ok".encode()]
    assert f"{by.id} ok".encode() in state.suspensions and audit(desk, by.id) == []
    assert desk.answer(by.id, "ok", b"\xc2", "no", by="bob")[0] == b"accepted", "it holds nobody up"


def test_an_early_answer_beats_a_default(desk: Desk) -> None:
    by = desk.start()
    desk.answer(by.id, "ok", YES, "yes", early=True)
    desk.suspend(by, "ok", FAR, default=DEFAULT)
    record = desk.record(by.id, "ok")
    assert record[2] == b"answered" and record[6:9] == [YES, b"yes", b"ann"]
    assert [entry[3] for entry in audit(desk, by.id)] == [b"answered"] and not desk.state.timers


# --- the audit --------------------------------------------------------------------------


def test_every_end_of_a_suspension_is_in_the_audit(desk: Desk) -> None:
    one, two, three = suspended(desk), suspended(desk, "ok", FAR), suspended(desk)
    desk.answer(one, "ok", YES, "yes")
    desk.make_due(f"s{two} ok")
    desk.fire()
    desk.cancel(three)
    for each, status, by, answer in (
        (one, b"answered", b"ann", YES),
        (two, b"expired", b"", b""),
        (three, b"closed", b"", b""),
    ):
        ((name, key, workflow, what, at, who, _, digest, opened, data),) = audit(desk, each)
        assert (name, key, workflow, what) == (each.encode(), b"ok", b"wf", status)
        assert (who, digest, data) == (by, SHOWN_DIGEST, answer) and opened <= at <= desk.now()
        assert 0 < desk.do("PTTL", keys.AUDIT + each) <= AUDIT_MS


def test_decisions_of_a_child_are_in_its_roots_audit(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by)
    desk.suspend(child, "ok")
    desk.answer(child.id, "ok")
    (entry,) = audit(desk, by.id)
    assert entry[:3] == [child.id.encode(), b"ok", b"child"]


def test_the_audit_outlives_the_execution(desk: Desk) -> None:
    one = suspended(desk)
    desk.answer(one, "ok")
    desk.finish(desk.deliver())
    desk.retention_ends(one)
    assert desk.fire()[1] == 1
    state = desk.state
    assert not state.executions and list(state.audit) == [one.encode()]
    assert 0 < desk.do("PTTL", keys.AUDIT + one) <= AUDIT_MS


def test_an_entry_with_a_shorter_retention_shortens_none_before_it(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "first")
    desk.answer(by.id, "first")
    desk.do("PEXPIRE", keys.AUDIT + by.id, 3 * AUDIT_MS)  # by a worker that keeps entries longer
    desk.suspend(by, "second")
    desk.answer(by.id, "second")
    assert [entry[1] for entry in audit(desk, by.id)] == [b"first", b"second"]
    assert 2 * AUDIT_MS < desk.do("PTTL", keys.AUDIT + by.id) <= 3 * AUDIT_MS


def test_a_suspension_that_never_opened_is_not_in_the_audit(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "first", race=branch("race", "first", "first"))
    desk.answer(by.id, "first")
    desk.suspend(by, "late", race=branch("race", "late", "late"), policy=TWO)
    assert desk.record(by.id, "late")[2] == b"closed"
    assert [entry[1] for entry in audit(desk, by.id)] == [b"first"]


# --- delete -----------------------------------------------------------------------------


def everything(desk: Desk) -> bytes:
    return b"".join(dump for dump, _ in desk.snapshot().values())


def test_delete_keeps_people_times_and_subjects_in_the_audit(desk: Desk) -> None:
    by = desk.start(input=b"marker input")
    desk.write(by, "a", None, "e", b"\xa6marker")
    desk.suspend(by, "ok", FAR, b"\xa6marker", policy=TWO, event_data=b"\xa6marker")
    says(desk, by.id, "ann", True)
    says(desk, by.id, "bob", True)
    desk.finish(by, value=b"\xa6marker")
    before = audit(desk, by.id)
    ttl = desk.do("PEXPIRETIME", keys.AUDIT + by.id)
    assert desk.run("delete_execution", by.id) == [b"deleted", 1, 2]
    assert audit(desk, by.id) == [[*entry[:9], b""] for entry in before]
    assert desk.do("PEXPIRETIME", keys.AUDIT + by.id) == ttl
    state = desk.state
    assert not state.executions and not state.journals and not state.topics and not state.ended
    assert not any(state.index.values()) and not state.below and not state.early
    with desk.unchanged():
        assert desk.run("delete_execution", by.id) == [b"deleted", 0, 2]
        assert desk.run("delete_execution", "f" * 32) == [b"deleted", 0, 0]


@pytest.mark.parametrize("stands", ["queued", "waiting"])
def test_an_unfinished_execution_is_not_deleted(desk: Desk, stands: str) -> None:
    one = desk.invoke() if stands == "queued" else suspended(desk)
    with desk.unchanged():
        assert desk.run("delete_execution", one) == [b"status", stands.encode()]


def test_an_execution_with_unfinished_descendants_is_not_deleted(desk: Desk) -> None:
    by = desk.start()
    child = desk.child(by, status="started")
    desk.finish(by)
    with desk.unchanged():
        assert desk.run("delete_execution", by.id) == [b"status", b"waiting for descendants"]
    desk.finish(child)
    assert desk.run("delete_execution", by.id)[:2] == [b"deleted", 1]
    assert desk.run("delete_execution", child.id)[:2] == [b"deleted", 1]
    assert not desk.state.executions and not desk.state.children


def test_a_timed_out_execution_can_be_deleted_before_its_timer_has_looked_for_children(desk: Desk) -> None:
    by = desk.start(timeout=FAR)
    desk.finish(desk.child(by))
    desk.make_due(f"t{by.id}")
    desk.fire()
    assert f"c{by.id}".encode() in desk.state.timers
    assert desk.run("delete_execution", by.id)[:2] == [b"deleted", 1]
    assert not desk.state.timers


def test_the_number_of_early_answers_is_limited(desk: Desk) -> None:
    by = desk.start()
    for number in range(100):
        assert desk.answer(by.id, f"later {number}", early=True)[0] == b"kept"
    with desk.unchanged():
        assert desk.answer(by.id, "one more", early=True) == [b"full"]
    assert desk.answer(by.id, "later 5", early=True)[0] == b"kept", "an answer already stored is found"
