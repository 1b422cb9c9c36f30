"""What the scripts should make of executions, in a few lines of Python."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from tests.harness.desk import Activated

REQUIRED = 2  # approvals where several people have to agree; one rejection will do


@dataclass(slots=True)
class Race:
    """A race: the branch of each step that takes part, and the branch that has won."""

    members: dict[str, str] = field(default_factory=dict)
    winner: str = ""


@dataclass(slots=True)
class Brood:
    """The children of one step, and how many of them the step has begun."""

    ids: Sequence[str]
    begun: int = 0


@dataclass(slots=True)
class Semaphore:
    """Who holds a place, and who stands in line."""

    limit: int
    holders: set[str] = field(default_factory=set)
    waiters: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Execution:
    """An execution. `journal` has the status of each record; `entry` is b"" until it is learnt."""

    id: str
    entry: bytes | None = None
    status: str = "queued"
    owner: str | None = None
    run: int = 1
    count: int = 0
    journal: dict[str, str] = field(default_factory=dict)
    code: list[str] = field(default_factory=list)  # the step keys that it has begun in any run
    races: dict[str, Race] = field(default_factory=dict)
    broods: dict[str, Brood] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)  # child -> how it ended, as the journal has it
    early: dict[str, tuple[str, str]] = field(default_factory=dict)  # who, and the answer
    decisions: dict[str, dict[str, str]] = field(default_factory=dict)  # of several people: who -> answer
    defaults: set[str] = field(default_factory=set)  # suspensions that have an answer for when time is up
    doubtful: set[str] = field(default_factory=set)  # dropped or not, as the store has it
    losses: int = 0
    progress: int = 0
    tried: int = 0  # how often it was tried again by itself
    later: bool = False  # queued, but for a timer to put it on the queue
    parent: str = ""
    key: str = ""  # the parent's step
    semaphore: str = ""
    begun_again: int = 0  # when, by the model's clock
    ended_from_outside: int = 0

    def fence(self, by: Activation) -> int:
        """What a write of an activation would be told: 0 when it passes."""
        if self.status != "queued" or self.entry != by.entry or self.owner not in (None, by.owner):
            return -1
        return -2 if self.count < by.known else 0

    def put(self, key: str, status: str) -> None:
        if key not in self.code:
            self.code.append(key)
        self.journal[key] = status
        self.count += 1

    def join(self, key: str) -> bool:
        """A wait that opens takes part in its race; False when another branch has won that."""
        name, branch = race_of(key), branch_of(key)
        race = self.races.setdefault(name, Race()) if name else None
        if race is None or race.winner == branch:
            return True
        race.members[key] = branch
        self.put(name, "won" if race.winner else "open")
        return not race.winner

    def settle(self, key: str, status: str) -> None:
        """A wait is decided, and with it the race whose branch it is."""
        self.put(key, status)
        race = self.races.get(race_of(key))
        if race is not None and not race.winner and branch_of(key) == key:
            self.win(race_of(key), key)

    def win(self, name: str, branch: str, begun: Mapping[str, str] = MappingProxyType({})) -> None:
        """A branch has won a race: what the others wait for is closed, with what they have begun besides."""
        race = self.races.setdefault(name, Race())
        if race.winner and (race.winner != branch or begun.keys() <= race.members.keys()):
            return
        race.winner, race.members = branch, {**begun, **race.members}
        for key, its in race.members.items():
            if its != branch:
                self.give_up(key)
        self.put(name, "won")

    def lost(self, key: str) -> bool:
        """Whether the code does not come to a step any more: another branch has won its race."""
        races = self.races.values()
        return any(race.winner and race.members.get(key, race.winner) != race.winner for race in races)

    def give_up(self, key: str) -> None:
        """The workflow's code no longer waits for it."""
        before = self.journal.get(key)
        if before in ("open", "backoff"):
            self.put(key, "closed" if before == "open" else "abandoned")

    def close_all(self) -> None:
        for key in self.open:
            self.put(key, "closed" if self.journal[key] == "open" else "retry")

    def forget_failures(self, known: Container[str]) -> None:
        """For a new run: what failed, timed out or was closed is dropped, with the races that it decided.

        An abandoned step is dropped too, if nothing has come after it; of failed children those that are
        known still.
        """
        self.doubtful = {key for key, status in self.journal.items() if status == "abandoned"}
        dropped = {key for key, status in self.journal.items() if status in ("failed", "expired", "closed")}
        dropped -= {key for key in self.defaults if self.journal.get(key) == "expired"}
        for key, brood in self.broods.items():
            failed = {
                child
                for child in brood.ids
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
                race.members = {key: its for key, its in race.members.items() if key not in dropped}
        self.journal = {key: status for key, status in self.journal.items() if key not in dropped}
        self.broods = {key: brood for key, brood in self.broods.items() if key not in dropped}
        self.decisions = {key: made for key, made in self.decisions.items() if key not in dropped}
        self.defaults -= dropped
        if self.count:
            self.count += 1

    def decides(self, key: str, who: str, answer: str) -> str:
        """One of several people answers an open suspension: "recorded", "accepted" (which decides it), or why
        it changes nothing: "again" or "other"."""
        made = self.decisions.setdefault(key, {})
        if who in made:
            return "again" if made[who] == answer else "other"
        made[who] = answer
        if answer == "y" and list(made.values()).count("y") < REQUIRED:
            self.put(key, "open")
            return "recorded"
        return "accepted"

    @property
    def open(self) -> list[str]:
        """Its waits that are not decided."""
        found = [key for key, status in self.journal.items() if status in ("open", "backoff")]
        return [key for key in found if key not in self.races]

    @property
    def finished(self) -> bool:
        return self.status not in ("queued", "waiting")


@dataclass(slots=True)
class Model:
    """All executions of a namespace."""

    executions: dict[str, Execution] = field(default_factory=dict)
    semaphores: dict[str, Semaphore] = field(default_factory=dict)
    clock: int = 0

    def unfinished(self) -> list[Execution]:
        return [one for one in self.executions.values() if not one.finished]

    def ancestors(self, one: Execution) -> Iterator[Execution]:
        """Its parent, and that one's, as far as they are known still."""
        while one.parent in self.executions:
            one = self.executions[one.parent]
            yield one

    def doomed(self, one: Execution) -> bool:
        """Whether it has to follow an ancestor that was ended from outside: one that has begun again since
        need not, nor those below that."""
        since = one.begun_again
        for above in self.ancestors(one):
            if above.ended_from_outside > since:
                return True
            since = max(since, above.begun_again)
        return False

    # --- runnable or not ----------------------------------------------------------------

    def create(self, one: Execution) -> None:
        self.executions[one.id] = one
        if not one.later:
            self.offer(one)

    def offer(self, one: Execution) -> None:
        """Runnable: at once, or when it gets a place in its lane."""
        one.status, one.later = "queued", False
        if not one.semaphore:
            one.entry = b""
            return
        self.semaphores[one.semaphore].waiters.append(one.id)
        self.move_up(self.semaphores[one.semaphore])

    def leave(self, one: Execution) -> None:
        """Not runnable any more: its place is for the next."""
        one.entry = one.owner = None
        if one.semaphore:
            semaphore = self.semaphores[one.semaphore]
            semaphore.holders.discard(one.id)
            semaphore.waiters = [name for name in semaphore.waiters if name != one.id]
            self.move_up(semaphore)

    def move_up(self, semaphore: Semaphore) -> None:
        while semaphore.waiters and len(semaphore.holders) < semaphore.limit:
            name = semaphore.waiters.pop(0)
            semaphore.holders.add(name)
            self.executions[name].entry = b""

    # --- transitions --------------------------------------------------------------------

    def decide(self, one: Execution, key: str, status: str) -> None:
        """A wait is decided; a parked execution becomes runnable."""
        one.settle(key, status)
        if one.status == "waiting":
            self.offer(one)

    def park(self, one: Execution) -> None:
        one.status, one.losses = "waiting", 0
        self.leave(one)

    def put_back(self, one: Execution) -> None:
        one.later = True
        self.leave(one)

    def end(self, one: Execution, status: str) -> None:
        one.close_all()
        was_queued, one.status, one.later = one.status == "queued", status, False
        one.early.clear()
        if was_queued:
            self.leave(one)
        if one.parent in self.executions:
            self.tell(self.executions[one.parent], one)

    def tell(self, parent: Execution, child: Execution) -> None:
        """A parent that waits for a child hears how it has ended, and goes on after the last one; one that
        has failed keeps it for its next run."""
        status = parent.journal.get(child.key, "started")
        if parent.status in ("completed", "cancelled") or status == "started" or child.id in parent.results:
            return
        parent.results[child.id] = child.status
        if status == "open" and self.complete(parent, child.key):
            self.decide(parent, child.key, "done")
        else:
            parent.put(child.key, status)

    def complete(self, parent: Execution, key: str) -> bool:
        """Whether all children of a step have begun and ended."""
        brood = parent.broods[key]
        return brood.begun == len(brood.ids) and all(child in parent.results for child in brood.ids)

    def terminate(self, one: Execution, status: str) -> None:
        """An end from outside, which its descendants follow."""
        self.clock += 1
        one.ended_from_outside = self.clock
        self.end(one, status)

    def spawn(
        self, one: Execution, key: str, status: str, ids: Sequence[str], chunk: Sequence[str], semaphore: str
    ) -> None:
        """A step begins some of its children: new ones, or again those that have failed before."""
        if key not in one.journal:
            one.journal[key] = status if one.join(key) else "closed"
            one.broods[key] = Brood(ids)
        for child in () if one.journal[key] == "closed" else chunk:
            before = self.executions.get(child)
            if child in one.results:
                continue
            if before is None:
                self.create(Execution(child, parent=one.id, key=key, semaphore=semaphore))
            elif before.status == "completed":
                if status == "open":
                    one.results[child] = before.status
            elif before.finished:
                self.rerun(before)
        one.broods[key].begun += len(chunk)
        if one.journal[key] == "open" and self.complete(one, key):
            one.settle(key, "done")
        else:
            one.put(key, one.journal[key])

    def rerun(self, one: Execution, later: bool = False) -> None:
        """A failed execution goes on as a new run."""
        self.clock += 1
        one.begun_again, one.ended_from_outside = self.clock, 0
        one.forget_failures(self.executions)
        self.leave(one)
        one.run, one.status, one.later, one.losses = one.run + 1, "queued", later, 0
        if not later:
            self.offer(one)


class Activation(Activated):
    """What one activation believes. `sure` is whether it may write: after a lost reply it looks first."""

    def __init__(self, execution_id: str, entry: bytes, owner: str, consumer: str, sure: bool) -> None:
        super().__init__(execution_id, entry, owner)
        self.consumer, self.sure = consumer, sure
        self.told: dict[bytes, bytes] = {}


def race_of(key: str) -> str:
    """The race that a step takes part in: "race ask" in "race"."""
    return "race" if key.startswith("race ") else ""


def branch_of(key: str) -> str:
    """Its branch there: a wait is one by itself, a step is part of a coroutine, which is one."""
    return "code" if key == "race call" else key
