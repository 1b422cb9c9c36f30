"""The audit finds each violation in a forged history, and excuses only what a fault explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.audit import RULES, audit
from tests.chaos.effects import CANCELLED, END, OFFERED, RAISED, SAW, START, Effect
from tests.chaos.history import (
    LOSS_SECONDS,
    Answered,
    Cancelled,
    Ended,
    Fault,
    Fields,
    History,
    Published,
    Snapshot,
    Started,
    Streamed,
)
from tests.chaos.report import Report, describe
from tests.chaos.terms import NEWS, ORDERS, TALLIED

ID, OTHER = "a" * 32, "b" * 32
ONE, TWO = 101, 102  # workers


class Forged(History):
    """A history that is written by hand, in which nothing is wrong."""

    def effect(self, at: float, what: str, step: str, pid: int = ONE, id: str = ID, **more: Any) -> None:
        self.effects.append(Effect(at, pid, id, what, step, **more))

    def step(
        self,
        at: float,
        step: str,
        pid: int = ONE,
        id: str = ID,
        *,
        took: float = 0.1,
        end: str = END,
        **more: Any,
    ) -> str:
        """A run of a step; with `end=""` its process dies. Returns its token."""
        token = f"{step}-{len(self.effects)}"
        self.effect(at, START, step, pid, id, attempt=token, **more)
        if end:
            self.effect(at + took, end, step, pid, id, attempt=token)
        return token

    def fault(self, began: float, ended: float, *pids: int, **more: Any) -> None:
        self.faults.append(Fault("forged", began, ended, frozenset(pids), **more))

    def snapshot(self, at: float, run: int = 1, id: str = ID, **records: Fields) -> None:
        self.snapshots.append(Snapshot(at, id, "queued", run, records))

    def ends(self, at: float, status: str = "completed", id: str = ID, error: str = "", **given: str) -> None:
        """It ended, and Redis agrees."""
        self.ended.append(Ended(at, id, status, given, error))
        last = self.snapshots[-1] if self.snapshots else None
        records = last.records if last and last.execution_id == id else {}
        self.final[id] = Snapshot(at, id, status, last.run if last else 1, records)

    def starts(self, at: float = 0.0, workflow: str = "steps", id: str = ID, **more: Any) -> None:
        self.started.append(Started(at, id, workflow, **more))

    def answer(
        self, at: float, value: str, outcome: str = "accepted", step: str = "ask", by: str = ""
    ) -> None:
        self.answered.append(Answered(at - 0.1, at, ID, step, value, outcome, by))

    def read(
        self, at: float, number: int, reader: str = "reader-1", topic: str = ID, value: str = ""
    ) -> None:
        """An event that a reader got: the nth of its topic."""
        of, value = ID if topic == ID else "", value or f"value {number}"
        self.streamed.append(Streamed(at, reader, topic, f"{number}-0.0", number, "told", of, value))

    def topic(self, count: int, topic: str = ID) -> None:
        """The events that a topic has at the end."""
        self.final_streams[topic] = [Streamed(9, "", topic, f"{n}-0.0", 0, "told", "") for n in range(count)]

    @property
    def rules(self) -> set[str]:
        return {violation.rule for violation in audit(self)}


OK: Fields = ("step", "ok", "1")
ANSWERED: Fields = ("suspend", "answered", "1")
Forge = Callable[[Forged], None]


def again(on: Forged, **more: Any) -> None:
    """A step ends at 1.1 on worker ONE and runs again at 5 on worker TWO."""
    on.step(1, "a", ONE, **more)
    on.step(5, "a", TWO)


def journaled_and_again(on: Forged) -> None:
    """The same, after it was seen in the journal."""
    again(on)
    on.fault(1.5, 4, ONE)
    on.snapshot(2, a=OK)


def given_twice(on: Forged) -> None:
    on.effect(1, SAW, "a", ONE, value="x")
    on.effect(5, SAW, "a", TWO, value="y")


def given_late(on: Forged) -> None:
    """A slow worker gives a value to the code long after its step; another one gives another."""
    token = on.step(1, "a", ONE)
    on.effect(5, SAW, "a", ONE, value=token)
    on.effect(7, SAW, "a", TWO, value=on.step(6, "a", TWO))


def three_in_two(on: Forged, *, third: float = 1.2, **more: Any) -> None:
    """Three executions in a semaphore with a limit of two."""
    on.limits = {"narrow": 2}
    on.step(1, "a", ONE, ID, took=5, slot="narrow")
    on.step(1.1, "a", ONE, OTHER, took=5, slot="narrow")
    on.step(third, "a", TWO, "c" * 32, took=1, slot="narrow", **more)


def two_answers(on: Forged) -> None:
    on.answer(1, "x")
    on.answer(1.5, "y")


def answered_and_not_given(on: Forged) -> None:
    on.starts()
    on.answer(1, "x")
    on.ends(6)


def record_changes(
    on: Forged, before: Fields = OK, after: Fields | None = None, run: int = 1, since: int = 1
) -> None:
    on.snapshot(1, a=before)
    on.snapshots.append(Snapshot(5, ID, "queued", run, {"a": after} if after else {}, since))


def begins_with_an_earlier_run(on: Forged) -> None:
    for at, since in ((1, 3), (5, 2)):
        on.snapshots.append(Snapshot(at, ID, "queued", 3, {}, since))


def result_gives_way(on: Forged) -> None:
    """The code cancels a step whose result is on its way."""
    record_changes(on, after=("step", "abandoned", "2"))


def lapses_afterwards(on: Forged) -> None:
    """A step begins as soon as the server is back, and the worker's lease lapses nevertheless."""
    on.lease_seconds = 2.0
    again(on)
    on.fault(0.1, 0.8)


def seen_result_gives_way(on: Forged) -> None:
    on.effect(2, SAW, "a", ONE, value="x")
    result_gives_way(on)


def run_goes_back(on: Forged) -> None:
    on.snapshot(1, 2, a=OK)
    on.snapshot(5, 1, a=OK)


def ticked_twice(on: Forged) -> None:
    on.effect(1, SAW, "tick", ONE, ID, value="even 12:00:00")
    on.effect(5, SAW, "tick", ONE, OTHER, value="even 12:00:00")


def event_without_start(on: Forged) -> None:
    on.published.append(Published(1, 1, ORDERS, "feedbeef", True))


def event_started_two(on: Forged) -> None:
    event_without_start(on)
    on.effect(1, SAW, "order", ONE, ID, value="feedbeef")
    on.effect(5, SAW, "order", ONE, OTHER, value="feedbeef")


def reads(on: Forged, *numbers: int, reader: str = "reader-1", topic: str = ID) -> None:
    on.topic(6, topic)
    for at, number in enumerate(numbers):
        on.read(at, number, reader, topic)


def announced_twice(on: Forged) -> None:
    on.topic(3, NEWS)
    on.read(1, 0, "news-0", NEWS, ID)
    on.read(5, 1, "news-0", NEWS, ID)


def never_ends(on: Forged) -> None:
    on.starts()


def ends_as(on: Forged, status: str, workflow: str = "steps", error: str = "", **given: str) -> None:
    on.starts(0, workflow)
    on.ends(5, status, error=error, **given)


def gone(on: Forged) -> None:
    on.starts(1)
    on.ended.append(Ended(6, ID, "gone"))


def told_otherwise(on: Forged) -> None:
    ends_as(on, "completed")
    on.final[ID] = replace(on.final[ID], status="failed")


def starts_after_cancel(on: Forged, count: int = 2) -> None:
    on.starts(0, "long")
    on.cancelled.append(Cancelled(0.9, 1, ID))
    for number in range(count):
        on.step(2 + number, f"step-{number}")
    on.ends(5, "cancelled")


def starts_early(on: Forged, at: float = 1.9) -> None:
    on.starts(0, "delayed", not_before=2)
    on.step(at, "first")
    on.ends(5)


def invented_value(on: Forged) -> None:
    on.step(1, "a")
    on.effect(2, SAW, "a", value="from nowhere")


def returned_otherwise(on: Forged) -> None:
    on.starts()
    on.effect(1, SAW, "a", value="x")
    on.ends(5, a="y")


def refused_answer_given(on: Forged) -> None:
    on.answer(1, "x", "AlreadyResumedError")
    on.answer(1, "y", "accepted")
    on.effect(2, SAW, "ask", value="x")


def invented_answer(on: Forged) -> None:
    on.answer(1, "x", "unknown")
    on.effect(2, SAW, "ask", value="z")


def one_person_alone(on: Forged) -> None:
    on.answer(1, "x", "accepted", "several", "ann")


def one_person_twice(on: Forged) -> None:
    on.answer(1, "x", "recorded", "several", "ann")
    on.answer(2, "y", "recorded", "several", "ann")


def paid_twice(on: Forged) -> None:
    on.paid += [(1, "job round 0"), (5, "job round 0")]


def left_behind(on: Forged) -> None:
    on.left.append("a key has no TTL")


def hung(on: Forged) -> None:
    on.hung[ID] = "status=queued"


def never_saw_the_early_answer(on: Forged) -> None:
    on.starts(0, "early")
    on.answer(1, "x", "early")
    on.ends(6)


BROKEN: list[tuple[str, Forge]] = [
    ("repeated effect", again),
    ("repeated effect", lambda on: again(on, end="")),
    ("repeated effect", lambda on: again(on, end=CANCELLED)),
    ("repeated effect", lambda on: again(on, end=RAISED, took=9)),
    ("journaled step", journaled_and_again),
    ("value given", given_twice),
    ("value given", invented_value),
    ("result", returned_otherwise),
    ("early start", starts_early),
    ("cancel", starts_after_cancel),
    ("limit", three_in_two),
    ("answer", two_answers),
    ("answer", answered_and_not_given),
    ("answer", never_saw_the_early_answer),
    ("answer", refused_answer_given),
    ("answer", invented_answer),
    ("answer", one_person_alone),
    ("answer", one_person_twice),
    ("journal", record_changes),
    ("journal", lambda on: record_changes(on, OK, ("step", "ok", "2"))),
    ("journal", lambda on: record_changes(on, OK, ("step", "failed", "1"))),
    ("journal", lambda on: record_changes(on, OK, ("wait", "over", "1"))),
    ("journal", lambda on: record_changes(on, ANSWERED, ("suspend", "answered", "2"))),
    ("journal", lambda on: record_changes(on, ANSWERED, ("suspend", "expired", "1"))),
    ("journal", lambda on: record_changes(on, ANSWERED, None, run=2)),
    ("journal", lambda on: record_changes(on, ("suspend", "open", "1"), None)),
    ("journal", lambda on: record_changes(on, OK, None, run=3, since=1)),
    ("journal", begins_with_an_earlier_run),
    ("journal", run_goes_back),
    ("tick", ticked_twice),
    ("trigger", event_without_start),
    ("order", event_started_two),
    ("stream", lambda on: reads(on, 0, 1, 3)),
    ("stream", lambda on: reads(on, 0, 1, 1)),
    ("stream", lambda on: reads(on, 0, 2, 1)),
    ("stream", lambda on: reads(on, 1, 2)),
    ("stream", lambda on: reads(on, 0, 1, 7)),
    ("stream", lambda on: reads(on, 2, 4, reader="news-0", topic=NEWS)),
    ("stream", lambda on: on.streamed.append(Streamed(1, "reader-1", ID, "", 0, "EventsTrimmedError", ID))),
    ("published once", announced_twice),
    ("model call", paid_twice),
    ("unfinished", never_ends),
    ("unfinished", hung),
    ("lost", gone),
    ("outcome", lambda on: ends_as(on, "failed", error="RedisUnavailableError")),
    ("outcome", lambda on: ends_as(on, "failed", "hurried", "WorkerLostError")),
    ("outcome", lambda on: ends_as(on, "cancelled")),
    ("outcome", told_otherwise),
    ("state", lambda on: ends_as(on, "completed", "tally", log="a a b c")),
    ("end", left_behind),
]


@pytest.mark.parametrize(("rule", "forge"), BROKEN)
def test_a_broken_promise_is_found(rule: str, forge: Forge) -> None:
    on = Forged()
    forge(on)
    assert on.rules == {rule} | (on.rules & ALSO.get(rule, set()))


# What breaks the one promise may break others by its nature.
ALSO = {
    "state": {"result"},
    "journal": {"lost"},
    "answer": {"unfinished"},
    "value given": {"repeated effect"},
}


def with_fault(forge: Forge, began: float, ended: float, *pids: int, **more: Any) -> Forge:
    def forged(on: Forged) -> None:
        forge(on)
        on.fault(began, ended, *pids, **more)

    return forged


def crash(forge: Forge, at: float, lost: str = "") -> Forge:
    """A crash of the server that loses the end of its log; the cut part mentions `lost`."""
    return with_fault(forge, at, at + 0.5, loses=True, lost=f"$39\r\njournal:{lost}\r\n".encode())


def raised_and_again(on: Forged) -> None:
    again(on, end=RAISED)


def answers_one_that_is_gone(on: Forged) -> None:
    gone(on)
    on.starts(1, "responder", OTHER)
    on.ends(6, "failed", OTHER, f"StepExecutionError: there is no execution {ID!r}")


def finished(on: Forged) -> None:
    """All is well."""
    on.starts()
    token = on.step(1, "a")
    on.effect(1.2, SAW, "a", value=token)
    on.effect(2, SAW, "a", TWO, value=token)
    on.snapshot(1.5, a=OK)
    on.answer(3, "x", "unknown")
    on.answer(4, "x", "same")
    on.answer(4, "y", "AlreadyResumedError")
    on.effect(4.1, SAW, "ask", value="x")
    on.snapshot(5, a=OK, ask=ANSWERED)
    for number in range(4):
        on.read(number, number)
    on.topic(4)
    on.ends(6, a=token, ask="x")


def answered_by_a_workflow(on: Forged) -> None:
    on.effect(1, OFFERED, "ask", value="z")
    invented_answer(on)


def two_people(on: Forged) -> None:
    on.answer(1, "x", "recorded", "several", "ann")
    on.answer(2, "y", "accepted", "several", "bob")


def a_right_tally(on: Forged) -> None:
    on.effect(1, SAW, "log", value=TALLIED)
    ends_as(on, "completed", "tally", log=TALLIED)


def a_failure_retried(on: Forged) -> None:
    on.snapshot(1, 1, a=OK, b=("step", "failed", "1"), ask=ANSWERED)
    on.snapshot(5, 2, a=OK, b=OK, ask=ANSWERED)


LONG_AGO, JUST_NOW = 1 + LOSS_SECONDS + 1, 2.5  # crashes after what happened at 1
EXCUSED: list[Forge] = [
    finished,
    raised_and_again,
    with_fault(again, 3, 4, ONE),  # that very worker
    with_fault(again, 3, 4),  # the server
    with_fault(lambda on: again(on, end=""), 1.05, 1.05, ONE),
    lambda on: three_in_two(on, third=6.2),
    with_fault(three_in_two, 1.15, 1.15, ONE),  # its steps may go on without a slot
    crash(journaled_and_again, 4),
    crash(given_twice, JUST_NOW),
    crash(given_twice, LONG_AGO - 1, ID),
    crash(two_answers, JUST_NOW),
    crash(two_answers, LONG_AGO, ID),
    crash(answered_and_not_given, JUST_NOW),
    crash(record_changes, JUST_NOW),
    crash(lambda on: reads(on, 0, 1, 3), 2),
    crash(ticked_twice, JUST_NOW),
    crash(given_late, 1.2),
    result_gives_way,
    lapses_afterwards,
    crash(event_without_start, LONG_AGO, "feedbeef"),
    crash(gone, JUST_NOW),
    crash(answers_one_that_is_gone, JUST_NOW),
    with_fault(paid_twice, 3, 3, TWO),
    lambda on: starts_after_cancel(on, 1),
    lambda on: starts_early(on, 2.0),
    lambda on: ends_as(on, "failed", "hurried", "WorkflowTimeoutError"),
    a_right_tally,
    lambda on: reads(on, 2, 3, reader="news-0", topic=NEWS),
    answered_by_a_workflow,
    two_people,
    a_failure_retried,
    lambda on: record_changes(on, ("suspend", "open", "1"), ANSWERED),
    lambda on: record_changes(on, ("step", "retry", "1"), OK),
    lambda on: record_changes(on, OK, None, run=2, since=2),
]


@pytest.mark.parametrize("forge", EXCUSED)
def test_what_faults_explain_and_what_is_right_is_no_violation(forge: Forge) -> None:
    on = Forged()
    forge(on)
    assert audit(on) == []


NOT_EXCUSED: list[tuple[str, Forge]] = [
    ("repeated effect", with_fault(again, 3, 4, TWO)),  # another worker was hit
    ("repeated effect", with_fault(again, 0.2, 0.9, ONE)),  # before
    ("repeated effect", with_fault(again, 5.5, 6, ONE)),  # afterwards
    ("journaled step", with_fault(journaled_and_again, 2, 4)),  # the server was away, but lost nothing
    ("limit", with_fault(three_in_two, 1.15, 1.15, TWO)),
    ("value given", with_fault(given_twice, 2, 4)),
    ("value given", crash(given_twice, 6)),  # afterwards
    ("value given", crash(given_late, 0.4)),  # before the step
    ("answer", crash(two_answers, LONG_AGO, OTHER)),  # the cut part has somebody else's
    ("answer", crash(answered_and_not_given, LONG_AGO)),
    ("journal", with_fault(record_changes, 2, 3)),
    ("journal", crash(record_changes, LONG_AGO, OTHER)),
    ("journal", seen_result_gives_way),
    ("tick", crash(ticked_twice, 0.2)),
    ("trigger", crash(event_without_start, LONG_AGO)),
    ("stream", with_fault(lambda on: reads(on, 0, 1, 3), 1, 2)),
    ("model call", with_fault(paid_twice, 6, 7)),
    ("lost", crash(gone, LONG_AGO)),
]


@pytest.mark.parametrize(("rule", "forge"), NOT_EXCUSED)
def test_a_fault_elsewhere_excuses_nothing(rule: str, forge: Forge) -> None:
    on = Forged()
    forge(on)
    assert on.rules == {rule} | (on.rules & ALSO.get(rule, set()))


def test_each_rule_has_been_broken() -> None:
    found = set()
    for _, forge in BROKEN:
        on = Forged()
        forge(on)
        found |= {rule.__name__ for rule in RULES if list(rule(on))}
    assert found == {rule.__name__ for rule in RULES}


def test_a_violation_comes_with_seed_id_and_history() -> None:
    on = Forged(seed=7)
    again(on)
    on.fault(3, 4, TWO)
    on.answer(2, "x")
    violations = audit(on)
    text = "\n".join(describe(on, violations))
    assert text.startswith(f"VIOLATION (seed 7) repeated effect: {ID}: step 'a' ran on worker 101 (end)")
    lines = text.splitlines()[1:]
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "worker 101: a start a-0",
        "worker 101: a end a-0",
        "client: answer x by anybody to ask: accepted (after 0.100 s)",
        "FAULT forged hits 102",
        "fault over: forged",
        "worker 102: a start a-2",
        "worker 102: a end a-2",
    ]
    report = Report.of(on, 60, violations).json()
    assert report["violations"][0]["seed"] == 7
    assert report["violations"][0]["execution_id"] == ID


def test_recovery_is_counted_from_the_fault_until_the_execution_goes_on() -> None:
    on = Forged()
    on.step(1, "a", end="")
    on.fault(1.05, 1.05, ONE)
    on.step(4.05, "a", TWO)
    on.fault(6, 8)
    on.ended.append(Ended(8.5, ID, "completed"))
    recovered = Report.of(on, 60, []).json()["recovery_seconds"]["forged"]
    assert recovered == {"count": 2, "p50": 1.75, "max": 3.0}
