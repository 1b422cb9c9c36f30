"""The audit: what must not have happened, judged from a history alone.

Each rule is a function from a history to violations. It demands more than the load relies on: a fault
explains a repeated effect only if it hit the very worker, and a crash explains a loss only if it came right
afterwards or the cut part of the log names what is missing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from operator import attrgetter

from tests.chaos import effects
from tests.chaos.effects import Effect
from tests.chaos.history import Answered, Ended, History, Snapshot, Streamed, root_of
from tests.chaos.terms import NEWS, ORDERS, REQUIRED, TALLIED

SETTLED = {
    "step": ("ok", "failed", "abandoned"),
    "suspend": ("answered", "expired", "closed"),
    "wait": ("over", "event", "expired", "closed"),
    "child": ("done", "closed"),
    "race": ("won",),
    "result": ("done",),
}
KEPT_BY_RETRY = {("step", "ok"), ("suspend", "answered")}
FAILS: dict[str, tuple[str, ...]] = {  # workflow -> the errors it is meant to end with
    "hurried": ("WorkflowTimeoutError",),
    "failing": ("StepExecutionError",),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise; `execution_id` is empty where it concerns no single execution."""

    rule: str
    execution_id: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {f'{self.execution_id}: ' if self.execution_id else ''}{self.text}"


@dataclass(slots=True)
class Run:
    """One run of a step's function, from its effects."""

    start: Effect
    ended: float = inf
    outcome: str = ""  # end, raised, cancelled, or "" if its process died first


Rule = Callable[[History], Iterator[Violation]]


def audit(history: History) -> list[Violation]:
    """All violations, by every rule."""
    return [violation for rule in RULES for violation in rule(history)]


def runs_of(history: History) -> dict[tuple[str, str], list[Run]]:
    """The runs of each step, in the order of their starts."""
    runs: dict[str, Run] = {}
    for effect in sorted(history.effects, key=attrgetter("at")):
        if effect.what == effects.START:
            runs[effect.attempt] = Run(effect)
        elif effect.what in (effects.END, effects.RAISED, effects.CANCELLED):
            run = runs[effect.attempt]
            run.ended, run.outcome = effect.at, effect.what
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs.values():
        found[run.start.execution_id, run.start.step].append(run)
    return found


# --- effects ----------------------------------------------------------------------------


def repeated_effects(history: History) -> Iterator[Violation]:
    """A step runs again only after it has raised, or if a fault hit its worker (or the server) in between."""
    for (execution_id, step), runs in runs_of(history).items():
        for one, again in pairwise(runs):
            if one.outcome == effects.RAISED and one.ended <= again.start.at:
                continue
            if history.hit(one.start.pid, one.start.at, again.start.at):
                continue
            outcome, later = one.outcome or "never ended", again.start.at - one.start.at
            yield Violation(
                "repeated effect",
                execution_id,
                f"step {step!r} ran on worker {one.start.pid} ({outcome}) and {later:.3f} s later on worker "
                f"{again.start.pid}; no fault had hit worker {one.start.pid} or the server",
            )


def journaled_steps(history: History) -> Iterator[Violation]:
    """A step that was seen in the journal as finished doesn't start any more."""
    seen: dict[tuple[str, str], float] = {}
    for snapshot in history.snapshots:
        for key, (kind, status, _) in snapshot.records.items():
            if kind == "step" and status == "ok":
                known = snapshot.execution_id, key
                seen[known] = min(seen.get(known, inf), snapshot.at)
    for event in history.streamed:
        if event.event_type == "step_finish" and (known := (event.execution_id, event.value)) in seen:
            seen[known] = min(seen[known], event.at)
    for (execution_id, step), runs in runs_of(history).items():
        at = seen.get((execution_id, step), inf)
        for run in runs:
            if run.start.at > at and not history.lost(at, root_of(execution_id), until=run.start.at):
                yield Violation(
                    "journaled step",
                    execution_id,
                    f"step {step!r} was journaled, and {run.start.at - at:.3f} s later started on worker "
                    f"{run.start.pid}",
                )


def values_given(history: History) -> Iterator[Violation]:
    """The code is given the same value for a key at every activation, and returns what it was given. A step's
    value may be lost as soon as its run has ended: a slow worker gives it to the code later."""
    first: dict[tuple[str, str], Effect] = {}
    acknowledged = {run.start.attempt: run.ended for runs in runs_of(history).values() for run in runs}
    for effect in sorted(history.effects, key=attrgetter("at")):
        if effect.what != effects.SAW:
            continue
        known = effect.execution_id, effect.step
        before = first.setdefault(known, effect)
        if before.value != effect.value:
            since = min(before.at, acknowledged.get(before.value, inf))
            if not history.lost(since, root_of(effect.execution_id), until=effect.at):
                yield Violation(
                    "value given",
                    effect.execution_id,
                    f"{effect.step!r} was {before.value!r} on worker {before.pid} and {effect.value!r} on "
                    f"worker {effect.pid}",
                )
            first[known] = effect
    last = first
    for ended in history.ended:
        for step, value in ended.given.items():
            saw = last.get((ended.execution_id, step))
            if saw is None or saw.value != value:
                if saw is not None and history.lost(ended.at, root_of(ended.execution_id)):
                    continue
                was = "nothing" if saw is None else repr(saw.value)
                yield Violation(
                    "result",
                    ended.execution_id,
                    f"it returned {value!r} for {step!r}, but its code was given {was}",
                )


def steps_given(history: History) -> Iterator[Violation]:
    """A step's value is that of a run that has ended."""
    ended = {effect.attempt for effect in history.effects if effect.what == effects.END}
    stepped = set(runs_of(history))
    for effect in history.effects:
        known = effect.execution_id, effect.step
        if effect.what == effects.SAW and known in stepped and effect.value not in ended:
            yield Violation(
                "value given", effect.execution_id, f"no run of {effect.step!r} gave {effect.value!r}"
            )


def starts_in_time(history: History) -> Iterator[Violation]:
    """A delayed execution does not begin early."""
    due = {one.execution_id: one.not_before for one in history.started if one.not_before}
    for effect in history.effects:
        if effect.at < due.get(effect.execution_id, 0.0):
            early = due.pop(effect.execution_id) - effect.at
            yield Violation("early start", effect.execution_id, f"it began {early:.3f} s before its time")


def cancelled_for_good(history: History) -> Iterator[Violation]:
    """After a cancel was acknowledged, a worker starts at most the one step that it was about to start."""
    cancelled = {one.execution_id for one in history.ended if one.status == "cancelled"}
    for cancel in history.cancelled:
        execution_id = cancel.execution_id
        if execution_id not in cancelled or history.lost(cancel.at, root_of(execution_id)):
            continue
        started = Counter(
            effect.pid
            for effect in history.effects
            if (effect.execution_id, effect.what) == (execution_id, effects.START) and effect.at > cancel.at
        )
        for pid, times in started.items():
            if times > 1:
                text = f"worker {pid} started {times} steps after the cancel was acknowledged"
                yield Violation("cancel", execution_id, text)


# --- limits -----------------------------------------------------------------------------


def limits(history: History) -> Iterator[Violation]:
    """At no instant do more executions hold a semaphore than its limit. A step counts until the first fault
    that hit its worker (or the server), or its execution's cancel: it may go on without its slot then."""
    held: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    cancels = {cancel.execution_id: cancel.began for cancel in history.cancelled}
    for runs in runs_of(history).values():
        for run in runs:
            if not run.start.slot:
                continue
            until = min(run.ended, cancels.get(run.start.execution_id, inf))
            for fault in history.faults:
                if fault.hit(run.start.pid) and fault.within(run.start.at, until):
                    until = min(until, max(fault.began, run.start.at))
            if until > run.start.at:
                held[run.start.slot] += [
                    (run.start.at, 1, run.start.execution_id),
                    (until, -1, run.start.execution_id),
                ]
    for slot, changes in held.items():
        limit = history.limits[slot.partition("/")[0]]
        holders: Counter[str] = Counter()
        for at, change, execution_id in sorted(changes):
            holders[execution_id] += change
            holders += Counter()  # forgets those that hold none
            if len(holders) > limit:
                others = ", ".join(sorted(holders))
                yield Violation(
                    "limit",
                    execution_id,
                    f"{len(holders)} in {slot!r} at {at:.3f}, {limit} allowed: {others}",
                )


# --- answers ----------------------------------------------------------------------------


def answers(history: History) -> Iterator[Violation]:
    """A suspension takes one answer, the one that the code is given. Every acknowledged answer counts."""
    saw: dict[tuple[str, str], set[str]] = defaultdict(set)
    offered: dict[tuple[str, str], set[str]] = defaultdict(set)
    for effect in history.effects:
        if effect.what == effects.SAW:
            saw[effect.execution_id, effect.step].add(effect.value)
        elif effect.what == effects.OFFERED:
            offered[effect.execution_id, effect.step].add(effect.value)
    accepted: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for answer in history.answered:
        known = answer.execution_id, answer.step
        offered[known].add(answer.value)
        if (answer.counts and answer.value) or answer.outcome == "early":
            accepted[known].append((answer.at, answer.value))
    outcome = {one.execution_id: one.status for one in history.ended}
    for (execution_id, step), those in accepted.items():
        standing = [(at, value) for at, value in those if not history.lost(at, root_of(execution_id))]
        if len({value for _, value in standing}) > 1:
            yield Violation(
                "answer", execution_id, f"{step!r} took the answers {sorted({v for _, v in standing})}"
            )
        given = saw.get((execution_id, step), set())
        for _, value in standing:
            if given and value not in given:
                yield Violation(
                    "answer", execution_id, f"{step!r} took {value!r}, its code was given {given}"
                )
            if not given and outcome.get(execution_id) == "completed":
                yield Violation(
                    "answer", execution_id, f"{step!r} took {value!r}, its code was given nothing"
                )
    for known, values in saw.items():
        if known in offered and (invented := values - offered[known] - {"nobody"}):
            yield Violation("answer", known[0], f"{known[1]!r} was given {invented}, which nobody answered")


def several_people(history: History) -> Iterator[Violation]:
    """Of several people each decides once, and not one of them alone."""
    decided: dict[tuple[str, str], dict[str, Answered]] = defaultdict(dict)
    complete: dict[tuple[str, str], Answered] = {}
    for answer in history.answered:
        if not answer.by or answer.outcome not in ("recorded", "accepted", "same"):
            continue
        known = answer.execution_id, answer.step
        before = decided[known].setdefault(answer.by, answer)
        if before.value != answer.value:
            if not history.lost(before.at, root_of(answer.execution_id)):
                text = f"{answer.by} decided {answer.step!r} twice: {before.value}, {answer.value}"
                yield Violation("answer", answer.execution_id, text)
            decided[known][answer.by] = answer
        if answer.outcome == "accepted":
            complete[known] = answer
    for known, answer in complete.items():
        if len(decided[known]) < REQUIRED and not history.lost(answer.at, root_of(known[0])):
            yield Violation("answer", known[0], f"{known[1]!r} was decided by {list(decided[known])} alone")


# --- journals ---------------------------------------------------------------------------


def journals(history: History) -> Iterator[Violation]:
    """A journal only grows: what is settled stays as it is, unless a retry drops a failure, a crash the end
    of the log, or the code begins another one with a new run. A result that was on its way when the code
    cancelled its step gives way, if no code saw it."""
    seen = {(effect.execution_id, effect.step) for effect in history.effects if effect.what == effects.SAW}
    last: dict[str, Snapshot] = {}
    everything = [*sorted(history.snapshots, key=attrgetter("at")), *history.final.values()]
    for snapshot in everything:
        before = last.get(snapshot.execution_id)
        last[snapshot.execution_id] = snapshot
        if before is None or history.lost(before.at, root_of(before.execution_id), until=snapshot.at):
            continue
        yield from _changes(before, snapshot, seen)
    for execution_id, snapshot in last.items():
        if (
            history.final
            and execution_id not in history.final
            and not history.lost(snapshot.at, root_of(execution_id))
        ):
            yield Violation("journal", execution_id, "it is gone")


def _changes(before: Snapshot, after: Snapshot, seen: set[tuple[str, str]]) -> Iterator[Violation]:
    if after.run < before.run:
        yield Violation("journal", after.execution_id, f"run {before.run} became run {after.run}")
    if after.since < before.since:
        yield Violation("journal", after.execution_id, f"it begins with run {after.since} again")
    if after.since > before.run:
        return
    for key, (kind, status, outcome) in before.records.items():
        now = after.records.get(key)
        name = f"record {key!r} ({kind}, {status})"
        if after.run > before.run and (kind, status) not in KEPT_BY_RETRY:
            continue
        if now is None:
            yield Violation("journal", after.execution_id, f"{name} is gone")
        elif (status, now[:2]) == ("ok", ("step", "abandoned")) and (after.execution_id, key) not in seen:
            continue
        elif now[0] != kind or (status in SETTLED[kind] and now[1:] != (status, outcome)):
            changed = "" if now[:2] != (kind, status) else ", with another outcome"
            yield Violation("journal", after.execution_id, f"{name} became ({now[0]}, {now[1]}){changed}")


# --- ticks and events -------------------------------------------------------------------


def ticks(history: History) -> Iterator[Violation]:
    """A tick starts at most one execution."""
    yield from _one_execution_each(history, "tick")


def triggers(history: History) -> Iterator[Violation]:
    """An event starts exactly one execution."""
    uncertain = {one.value for one in history.published if not one.certain}
    yield from _one_execution_each(history, "order", uncertain)
    taken = {effect.value for effect in history.effects if effect.step == "order"}
    for event in history.published:
        counts = event.topic == ORDERS and event.certain and not history.lost(event.at, event.value)
        if counts and event.value not in taken:
            yield Violation("trigger", "", f"the event {event.value!r} of {event.topic!r} started nothing")


def _one_execution_each(history: History, step: str, exempt: Collection[str] = ()) -> Iterator[Violation]:
    first: dict[str, Effect] = {}
    for effect in sorted(history.effects, key=attrgetter("at")):
        if effect.what == effects.SAW and effect.step == step and effect.value not in exempt:
            before = first.setdefault(effect.value, effect)
            if before.execution_id != effect.execution_id:
                if not history.lost(before.at, before.execution_id, effect.value, until=effect.at):
                    text = f"the {step} {effect.value!r} had started {before.execution_id} already"
                    yield Violation(step, effect.execution_id, text)
                first[effect.value] = effect


def streams(history: History) -> Iterator[Violation]:
    """A reader gets the events of a topic in order, without gaps or repetitions."""
    readers: dict[tuple[str, str], list[Streamed]] = defaultdict(list)
    for event in history.streamed:
        readers[event.reader, event.topic].append(event)
    for (reader, topic), got in readers.items():
        if any(history.lost(event.at, root_of(topic)) for event in got):
            continue
        who, execution_id = f"the reader {reader!r} of {topic!r}", root_of(got[0].execution_id)
        if refusals := [event.event_type for event in got if not event.event_id]:
            yield Violation("stream", execution_id, f"{who} got {refusals}")
            continue
        ids = [event.event_id for event in got]
        if any(later.order <= earlier.order for earlier, later in pairwise(got)):
            yield Violation("stream", execution_id, f"{who} got events out of order: {ids}")
            continue
        there = [event.event_id for event in history.final_streams.get(topic, got)]
        whole = topic != NEWS  # such a reader began with the first event
        start = 0 if whole or ids[0] not in there else there.index(ids[0])
        if there[start : start + len(ids)] != ids:
            wrong = sorted(set(ids) ^ set(there[start : start + len(ids)]))
            yield Violation(
                "stream", execution_id, f"{who} got {len(ids)} events; missing or invented: {wrong}"
            )


def announcements(history: History) -> Iterator[Violation]:
    """What a workflow publishes once is published once."""
    at: dict[str, tuple[float, set[str]]] = {}
    for event in history.streamed:
        if event.topic == NEWS and event.event_id:
            at.setdefault(event.value, (event.at, set()))[1].add(event.event_id)
    for execution_id, (when, ids) in at.items():
        if len(ids) > 1 and not history.lost(when, root_of(execution_id)):
            yield Violation("published once", execution_id, f"its news came as {sorted(ids)}")


def paid_calls(history: History) -> Iterator[Violation]:
    """A model's finished call is made again only if a fault came in between."""
    last: dict[str, float] = {}
    for at, call in history.paid:
        if call in last and not any(fault.within(last[call], at) for fault in history.faults):
            yield Violation("model call", "", f"{call[:80]!r} was made again after {at - last[call]:.3f} s")
        last[call] = at


# --- ends -------------------------------------------------------------------------------


def outcomes(history: History) -> Iterator[Violation]:
    """Every acknowledged execution ends, as it is meant to, and stays as clients were told."""
    workflows = {one.execution_id: one.workflow for one in history.started}
    cancels = {one.execution_id for one in history.cancelled}
    gone = {one.execution_id for one in history.ended if one.status == "gone"}
    told: dict[str, Ended] = {}
    for ended in history.ended:
        told[ended.execution_id] = ended
        workflow = workflows.get(ended.execution_id, "?")
        if ended.status == "gone":
            started = [one.at for one in history.started if one.execution_id == ended.execution_id]
            if not any(history.lost(at, root_of(ended.execution_id)) for at in started):
                yield Violation(
                    "lost", ended.execution_id, f"its start was acknowledged, but {workflow} is gone"
                )
        elif ended.status == "failed" and any(execution_id in ended.error for execution_id in gone):
            continue  # it had to do with one that is lost, which is judged by itself
        elif ended.status == "failed" and not ended.error.startswith(FAILS.get(workflow, ())):
            yield Violation("outcome", ended.execution_id, f"{workflow} failed with {ended.error}")
        elif ended.status == "cancelled" and ended.execution_id not in cancels:
            yield Violation("outcome", ended.execution_id, f"nobody cancelled {workflow}")
        elif ended.status == "completed" and workflow == "tally" and ended.given.get("log") != TALLIED:
            yield Violation("state", ended.execution_id, f"its state became {ended.given.get('log')!r}")
    for one in history.started:
        final = history.final.get(one.execution_id)
        if one.execution_id not in told:
            yield Violation("unfinished", one.execution_id, f"nobody was told the end of {one.workflow}")
        elif final is None:
            if history.final and not history.lost(one.at, root_of(one.execution_id)):
                yield Violation(
                    "lost", one.execution_id, f"its start was acknowledged, but {one.workflow} is gone"
                )
        else:
            last = told[one.execution_id]
            if last.status != final.status and not history.lost(last.at, root_of(one.execution_id)):
                text = f"clients were told {last.status}, but it is {final.status}"
                yield Violation("outcome", one.execution_id, text)
    for execution_id, what in history.hung.items():
        yield Violation("unfinished", execution_id, what)


def leftovers(history: History) -> Iterator[Violation]:
    """The invariants hold at the end, nothing is left behind, no worker ended by itself."""
    for text in history.left:
        yield Violation("end", "", text)


RULES: list[Rule] = [
    repeated_effects,
    journaled_steps,
    values_given,
    steps_given,
    starts_in_time,
    cancelled_for_good,
    limits,
    answers,
    several_people,
    journals,
    ticks,
    triggers,
    streams,
    announcements,
    paid_calls,
    outcomes,
    leftovers,
]
