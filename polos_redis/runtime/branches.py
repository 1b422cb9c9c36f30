"""Branches of races: which branch the running code belongs to, and the races a wait takes part in.

`ctx.step.first_of` runs each branch as a task whose context names the branch. A wait opened there joins every
race around it, so the script that resolves a wait can close its competitors in the other branches. A branch
that is one wait and nothing else is direct: the script that resolves that wait also decides the race.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, TypeVar

from polos_redis.state.fencing import RaceMembership
from polos_redis.values.text import raw

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


@dataclass(slots=True)
class Branch:
    """A running branch of a race: the step keys used in it, and whether its wait has been resolved.

    `around` is the branch that the race itself runs in, if races are nested.
    """

    race: bytes
    name: bytes
    direct: bool
    around: Branch | None
    keys: list[str] = field(default_factory=list)
    decided: bool = False

    def note(self, key: str) -> None:
        """Record a step key, here and in every branch around this one."""
        self.keys.append(key)
        if self.around is not None:
            self.around.note(key)


BRANCH: ContextVar[Branch | None] = ContextVar("polos_branch", default=None)


def race_membership() -> RaceMembership:
    """Returns the races that a wait opened now takes part in."""
    branch = BRANCH.get()
    race = branch.race if branch is not None and branch.direct else b""
    races = []
    while branch is not None:
        races.append([branch.race, branch.name, *map(raw, branch.keys)])
        branch = branch.around
    return RaceMembership.of(race, races)


def branches_around() -> list[bytes]:
    """Returns the races that the running code belongs to and its branches, from the inside: race, branch,
    race, branch, ..."""
    branch = BRANCH.get()
    found: list[bytes] = []
    while branch is not None:
        found += (branch.race, branch.name)
        branch = branch.around
    return found


_ONE_WAIT: set[CodeType] = set()


def one_wait(function: F) -> F:
    """Mark a coroutine function that opens one wait and does nothing else: a call of it is a direct branch.

    A coroutine object refers to the code it runs, so its calls are recognised without a wrapper.
    """
    _ONE_WAIT.add(function.__code__)
    return function


def is_one_wait(call: Coroutine[Any, Any, Any]) -> bool:
    """Whether this is a call of a function marked with `one_wait`."""
    return getattr(call, "cr_code", None) in _ONE_WAIT
