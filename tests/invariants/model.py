"""The expected effect of each script on executions, in a few lines of Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from polos_redis.state import keys
from tests.harness.desk import Activated
from tests.invariants.state import order

Place = tuple[str, bytes]  # a queue's stream and an entry of it: entries of two may have one id

REQUIRED = 2  # approvals where several people must agree; one rejection is enough


@dataclass(slots=True)
class Race:
    """A race: the branch of each participating step, and the winning branch."""

    members: dict[str, str] = field(default_factory=dict)
    winner: str = ""


@dataclass(slots=True)
class ChildStep:
    """The children of one step, and how many of them it has started."""

    ids: Sequence[str]
    started: int = 0


@dataclass(slots=True)
class Semaphore:
    """The holders of slots, and the waiters."""

    limit: int
    holders: set[str] = field(default_factory=set)
    waiters: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Execution:
    """An execution. `journal` has the status of each record; `entry` is b"" until it is known."""

    id: str
    entry: bytes | None = None
    status: str = "queued"
    owner: str | None = None
    run: int = 1
    since: int = 1  # the run that its journal begins with
    count: int = 0
    queue: str = keys.DEFAULT_QUEUE
    version: str = ""  # of the code that has started it
    created: int = 0  # us; 0 until it is known
    started: bool = False
    forked: bool = False  # and not activated yet
    unserved: bool = False  # queued, once a worker reads its reserved stream
    running: dict[str, int] = field(default_factory=dict)  # step key -> attempt, as far as noted
    origin: bytes = b""
    told: Counter[str] = field(default_factory=Counter)  # its events, but for starts and progress
    journal: dict[str, str] = field(default_factory=dict)
    code: list[str] = field(default_factory=list)  # the step keys it has started in any run
    races: dict[str, Race] = field(default_factory=dict)
    child_steps: dict[str, ChildStep] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)  # child -> its outcome in the journal
    early: dict[str, tuple[str, str]] = field(default_factory=dict)  # the person and the answer
    decisions: dict[str, dict[str, str]] = field(default_factory=dict)  # of several people: person -> answer
    defaults: set[str] = field(default_factory=set)  # suspensions with a default answer for their deadline
    doubtful: set[str] = field(default_factory=set)  # the store decides whether they are dropped
    marks: dict[str, str] = field(default_factory=dict)  # answers that the code need not reach
    losses: int = 0
    progress: int = 0
    answers: int = 0  # accepted since it was queued
    heartbeats: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # step key -> attempt and progress
    auto_retries: int = 0  # auto-retries so far
    later: bool = False  # queued, once a timer puts it on the queue
    parent: str = ""
    parent_since: int = 1  # of the parent when it started this one
    key: str = ""  # the parent's step
    semaphore: str = ""
    paused: bool = False  # where it is stuck: it has failed
    retried_at: int = 0  # model time of its latest retry
    ended_from_outside: int = 0

    def fence(self, by: Activation) -> int:
        """The reply to a write of this activation: 0 if it passes."""
        if self.status != "queued" or self.entry != by.entry or self.owner not in (None, by.owner):
            return -1
        return -2 if self.count < by.known else 0

    @property
    def place(self) -> Place:
        return self.queue, self.entry or b""

    def put(self, key: str, status: str) -> None:
        if key not in self.code:
            self.code.append(key)
        self.journal[key] = status
        self.count += 1

    def join(self, key: str) -> bool:
        """Add an opening wait to its race; False if another branch has won."""
        name, branch = race_of(key), branch_of(key)
        race = self.races.setdefault(name, Race()) if name else None
        if race is None or race.winner == branch:
            return True
        race.members[key] = branch
        self.put(name, "won" if race.winner else "open")
        return not race.winner

    def resolve(self, key: str, status: str) -> None:
        """Resolve a wait, and the race that it decides."""
        self.put(key, status)
        if "ask" in key:
            self.told[f"{'resume' if status == 'answered' else 'timeout'}_{key}"] += 1
        race = self.races.get(race_of(key))
        if race is not None and not race.winner and branch_of(key) == key:
            self.win(race_of(key), key)

    def win(self, name: str, branch: str, started: Mapping[str, str] = MappingProxyType({})) -> None:
        """Close what the losing branches of a race wait for, including what they have `started`."""
        race = self.races.setdefault(name, Race())
        if race.winner and (race.winner != branch or started.keys() <= race.members.keys()):
            return
        race.winner, race.members = branch, {**started, **race.members}
        for key, of in race.members.items():
            if of != branch:
                self.close(key)
        self.put(name, "won")

    def lost(self, key: str) -> bool:
        """Whether the code never reaches a step because another branch has won its race."""
        races = self.races.values()
        return any(race.winner and race.members.get(key, race.winner) != race.winner for race in races)

    def give_up(self, key: str) -> None:
        """The workflow's code cancels a wait, or the task that has its answer."""
        if self.may_mark(key):
            self.mark(key, "left")
        else:
            self.close(key)

    def may_mark(self, key: str) -> bool:
        """Whether this is an accepted answer that the code has to reach."""
        return self.journal.get(key) == "answered" and key not in self.marks

    def mark(self, key: str, kind: str) -> None:
        self.marks[key] = kind
        self.count += 1

    def close(self, key: str) -> None:
        """Nobody waits for this key any more."""
        before = self.journal.get(key)
        if before in ("open", "backoff"):
            self.put(key, "closed" if before == "open" else "abandoned")

    def close_all(self) -> None:
        for key in self.open:
            self.put(key, "closed" if self.journal[key] == "open" else "retry")

    def forget_failures(self, known: Container[str]) -> None:
        """Drop for a new run whatever failed, timed out or was closed, with the races that it decided.

        An abandoned step is dropped too, if nothing follows it; of failed children only the `known` ones.
        """
        self.doubtful = {key for key, status in self.journal.items() if status == "abandoned"}
        dropped = {key for key, status in self.journal.items() if status in ("failed", "expired", "closed")}
        dropped -= {key for key in self.defaults if self.journal.get(key) == "expired"}
        for key, child_step in self.child_steps.items():
            failed = {
                child
                for child in child_step.ids
                if child in known and self.results.get(child, "completed") != "completed"
            }
            if failed:
                dropped.add(key)
                self.results = {child: how for child, how in self.results.items() if child not in failed}
        for name, race in list(self.races.items()):
            if race.winner in {race.members[key] for key in race.members.keys() & dropped}:
                dropped.add(name)
                del self.races[name]
            elif not race.winner:
                race.members = {key: of for key, of in race.members.items() if key not in dropped}
        self.journal = {key: status for key, status in self.journal.items() if key not in dropped}
        self.child_steps = {
            key: child_step for key, child_step in self.child_steps.items() if key not in dropped
        }
        self.decisions = {key: made for key, made in self.decisions.items() if key not in dropped}
        self.defaults -= dropped
        if self.count:
            self.count += 1

    def decides(self, key: str, who: str, answer: str) -> str:
        """One of several people answers an open suspension: "recorded", "accepted" (which decides it), or, if
        it changes nothing, "repeated" or "other"."""
        made = self.decisions.setdefault(key, {})
        if who in made:
            return "repeated" if made[who] == answer else "other"
        made[who] = answer
        if answer == "y" and list(made.values()).count("y") < REQUIRED:
            self.put(key, "open")
            self.told[f"decision_{key}"] += 1
            return "recorded"
        return "accepted"

    @property
    def open(self) -> list[str]:
        """Its undecided waits."""
        found = [key for key, status in self.journal.items() if status in ("open", "backoff")]
        return [key for key in found if key not in self.races]

    @property
    def finished(self) -> bool:
        return self.status not in ("queued", "waiting", "stuck")


@dataclass(slots=True)
class Model:
    """All executions of a namespace."""

    executions: dict[str, Execution] = field(default_factory=dict)
    semaphores: dict[str, Semaphore] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)  # reserved stream -> its consumers
    forgotten: dict[str, Counter[str]] = field(default_factory=dict)  # what was told of executions
    clock: int = 0

    def unfinished(self) -> list[Execution]:
        return [one for one in self.executions.values() if not one.finished]

    def ancestors(self, one: Execution) -> Iterator[Execution]:
        """Its parent, grandparent and so on, as far as they still exist."""
        while one.parent in self.executions:
            one = self.executions[one.parent]
            yield one

    def doomed(self, one: Execution) -> bool:
        """Whether it must end with an ancestor that was ended from outside: not if it, or one in between, has
        been retried since."""
        since = one.retried_at
        for above in self.ancestors(one):
            if above.ended_from_outside > since:
                return True
            since = max(since, above.retried_at)
        return False

    # --- runnable or not ----------------------------------------------------------------

    def create(self, one: Execution) -> None:
        one.told = self.forgotten.pop(one.id, one.told)
        self.executions[one.id] = one
        if not one.later:
            self.offer(one)

    def offer(self, one: Execution) -> None:
        """Make it runnable: at once, or when it gets a slot."""
        one.status, one.later, one.unserved = "queued", False, False
        if not one.semaphore:
            one.entry = b""
            return
        self.semaphores[one.semaphore].waiters.append(one.id)
        self.admit_waiters(self.semaphores[one.semaphore])

    def leave(self, one: Execution) -> None:
        """Make it not runnable: its slot goes to the next waiter."""
        one.entry = one.owner = None
        one.running.clear()
        if one.semaphore:
            semaphore = self.semaphores[one.semaphore]
            semaphore.holders.discard(one.id)
            semaphore.waiters = [name for name in semaphore.waiters if name != one.id]
            self.admit_waiters(semaphore)

    def admit_waiters(self, semaphore: Semaphore) -> None:
        while semaphore.waiters and len(semaphore.holders) < semaphore.limit:
            name = semaphore.waiters.pop(0)
            semaphore.holders.add(name)
            self.executions[name].entry = b""

    # --- reserved streams ---------------------------------------------------------------

    def reserve(self, one: Execution, stream: str, version: str) -> None:
        """Move its entry to a reserved stream, and with a version start it with that."""
        one.queue, one.entry, one.owner = stream, b"", None
        one.running.clear()
        if version:
            one.version, one.forked = version, False

    def serve(self, stream: str, reader: str, limit: int) -> int:
        """Add a reader of a reserved stream, and make unserved executions runnable; returns how many are
        left."""
        self.readers.setdefault(stream, set()).add(reader)
        unserved = [one for one in self.executions.values() if one.unserved and one.queue == stream]
        unserved.sort(key=lambda one: (one.created, one.id))
        for one in unserved[:limit]:
            self.offer(one)
        return len(unserved[limit:])

    def close_stream(self, stream: str, limit: int) -> bool:
        """Take executions off a reserved stream without readers, oldest entries first; returns whether there
        are more."""
        there = [one for one in self.executions.values() if one.entry and one.queue == stream]
        there.sort(key=lambda one: order(one.place[1]))
        for one in there[:limit]:
            one.unserved = True
            self.leave(one)
        return any(one.entry is not None and one.queue == stream for one in self.executions.values())

    def forget(self, one: Execution) -> None:
        """Forget an execution that has ended. Its events stay on its root's stream, if that is kept."""
        del self.executions[one.id]
        self.forgotten[one.id] = one.told

    # --- transitions --------------------------------------------------------------------

    def decide(self, one: Execution, key: str, status: str) -> None:
        """Resolve a wait; a parked execution becomes runnable, a stuck one does not."""
        one.resolve(key, status)
        if one.status == "waiting":
            self.offer(one)
        elif one.status == "queued" and status == "answered":
            one.answers += 1

    def park(self, one: Execution, status: str = "waiting", paused: bool = False) -> None:
        one.status, one.losses, one.answers, one.paused = status, 0, 0, paused
        one.heartbeats.clear()
        if status == "stuck":
            one.told[f"workflow_{'paused' if paused else 'stuck'}"] += 1
        self.leave(one)

    def unstick(self, one: Execution) -> None:
        """Start a new run of a stuck execution; of a paused one, what has failed runs again."""
        if one.paused:
            one.forget_failures(self.executions)
            one.auto_retries = 0
        one.run += 1
        one.told["workflow_retry"] += 1
        self.offer(one)

    def continue_as_new(self, one: Execution) -> None:
        """Start a new run with an empty journal. Early answers stay."""
        one.run = one.since = one.run + 1
        one.count = one.losses = one.progress = one.answers = one.auto_retries = 0
        for part in (one.journal, one.code, one.races, one.child_steps, one.results, one.decisions):
            part.clear()
        one.marks.clear()
        one.heartbeats.clear()
        for some in (one.defaults, one.doubtful):
            some.clear()
        one.started = one.forked = False
        queue, version, _ = keys.parse_stream(one.queue)
        one.queue, one.version = queue if version else one.queue, ""
        one.told["workflow_continue"] += 1
        self.leave(one)
        self.offer(one)

    def put_back(self, one: Execution) -> None:
        one.later = True
        self.leave(one)

    def end(self, one: Execution, status: str) -> None:
        one.close_all()
        was_queued, one.status, one.answers = one.status == "queued", status, 0
        one.later = one.unserved = False
        one.told["workflow_finish"] += 1
        one.early.clear()
        if was_queued:
            self.leave(one)
        if one.parent in self.executions:
            self.report_result(self.executions[one.parent], one)

    def report_result(self, parent: Execution, child: Execution) -> None:
        """Record a child's end with its parent, which continues after the last child; a failed parent keeps
        the result for its next run."""
        status = parent.journal.get(child.key, "started")
        if parent.status in ("completed", "cancelled") or status == "started" or child.id in parent.results:
            return
        if parent.since != child.parent_since:
            return  # it has continued as new, and may have another step of this key
        parent.results[child.id] = child.status
        if status == "open" and self.complete(parent, child.key):
            self.decide(parent, child.key, "done")
        else:
            parent.put(child.key, status)

    def complete(self, parent: Execution, key: str) -> bool:
        """Whether all children of a step have started and finished."""
        child_step = parent.child_steps[key]
        return child_step.started == len(child_step.ids) and all(
            child in parent.results for child in child_step.ids
        )

    def terminate(self, one: Execution, status: str) -> None:
        """End an execution from outside; its descendants follow."""
        self.clock += 1
        one.ended_from_outside = self.clock
        self.end(one, status)

    def spawn(
        self, one: Execution, key: str, status: str, ids: Sequence[str], chunk: Sequence[str], semaphore: str
    ) -> None:
        """Start some of a step's children: new ones, or failed ones again."""
        if key not in one.journal:
            one.journal[key] = status if one.join(key) else "closed"
            one.child_steps[key] = ChildStep(ids)
        elif one.journal[key] == "closed":
            return
        for child in () if one.journal[key] == "closed" else chunk:
            before = self.executions.get(child)
            if child in one.results:
                continue
            if before is None:
                self.create(
                    Execution(child, parent=one.id, parent_since=one.since, key=key, semaphore=semaphore)
                )
            elif before.status == "completed":
                if status == "open":
                    one.results[child] = before.status
            elif before.finished:
                self.rerun(before)
        one.child_steps[key].started += len(chunk)
        if one.journal[key] == "open" and self.complete(one, key):
            one.resolve(key, "done")
        else:
            one.put(key, one.journal[key])

    def rerun(self, one: Execution, later: bool = False) -> None:
        """Start a new run of a failed execution."""
        self.clock += 1
        one.retried_at, one.ended_from_outside = self.clock, 0
        one.forget_failures(self.executions)
        self.leave(one)
        one.run, one.status, one.later, one.losses = one.run + 1, "queued", later, 0
        one.told["workflow_retry"] += 1
        one.answers = 0
        one.heartbeats.clear()
        if not later:
            self.offer(one)


class Activation(Activated):
    """What an activation knows. `sure`: it may write; after a lost reply it has to look first. `answers`: how
    many it has seen."""

    def __init__(self, execution_id: str, place: Place, owner: str, consumer: str, sure: bool) -> None:
        super().__init__(execution_id, place[1], owner)
        self.place, self.consumer, self.sure, self.answers = place, consumer, sure, 0
        self.known_records: dict[bytes, bytes] = {}


def race_of(key: str) -> str:
    """The race that a step takes part in: "race" for "race ask"."""
    return "race" if key.startswith("race ") else ""


def branch_of(key: str) -> str:
    """The branch of a step: a wait is its own branch, a step is part of a coroutine, which is one."""
    return "code" if key == "race call" else key
