"""`ctx.step.first_of`: a journaled choice between branches that a replay sees again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from contextvars import copy_context
from typing import Any, NamedTuple

from polos_redis import journal, tasks
from polos_redis.activation import Place, described
from polos_redis.errors import StepKeyError
from polos_redis.journal import RaceRecord
from polos_redis.steps.calls import Calls, caller
from polos_redis.steps.children import Children
from polos_redis.steps.suspend import Suspensions
from polos_redis.steps.waits import Waits
from polos_redis.store import raw

# A branch that is one of these calls and nothing else is decided, with the race, by the script that decides
# the wait.
_WAITS = {
    function.__code__
    for function in (
        Suspensions._suspend,
        Waits._wait_for_time,
        Waits._wait_for_event,
        Children._invoke_and_wait,
        Children._batch_invoke_and_wait,
    )
}


class Winner(NamedTuple):
    """The branch that came first, and what it returned."""

    name: str
    value: Any


class Races(Calls):
    """Races between branches."""

    __slots__ = ()

    def first_of(
        self, key: str, branches: Mapping[str, Coroutine[Any, Any, Any]]
    ) -> Coroutine[Any, Any, Winner]:
        """Run several branches and take the one that comes first; returns its name and value.

        A branch is a call of `ctx.step` or any coroutine made of such calls. The winner is journaled, so a
        replay sees the same one and begins no other; where the branches are waits (`suspend`, `wait_for`,
        `wait_until`, `wait_for_event`, `invoke_and_wait`), the very script that decides the first closes the
        others, so no late answer is taken and then ignored. Other branches are cancelled, their waits closed.
        A child that was waited for goes on. Raises what the winning branch raises.
        """
        self._refuse_inside_step(key, "first_of")
        if not branches or not all(
            isinstance(name, str) and name and asyncio.iscoroutine(branch)
            for name, branch in branches.items()
        ):
            raise ValueError(
                f"race {key!r}: expected a dict of names and coroutines, as "
                f'{{"approval": ctx.step.suspend(...), "limit": ctx.step.wait_for(...)}}, not {branches!r}'
            )
        return self._first_of(key, dict(branches), caller())

    async def _first_of(
        self, key: str, branches: dict[str, Coroutine[Any, Any, Any]], place: Place
    ) -> Winner:
        try:
            stored = await self._begin(key, place)
            name = None if stored is None else self._winner(key, stored, branches, place)
        except BaseException:
            _close(branches.values())
            raise
        if name is not None:
            code = branches.pop(name)
            _close(branches.values())
            return Winner(name, await code)
        runners = {name: _Runner(raw(key), name, code) for name, code in branches.items()}
        try:
            await asyncio.wait(
                [runner.task for runner in runners.values()], return_when=asyncio.FIRST_COMPLETED
            )
            name = await self._choose(key, runners)
            await asyncio.wait([runners[name].task])
        finally:
            for runner in runners.values():
                runner.task.cancel()
            await asyncio.wait([runner.task for runner in runners.values()])
        return Winner(name, runners[name].task.result())

    def _winner(self, key: str, stored: bytes, branches: Mapping[str, Any], place: Place) -> str | None:
        """The branch that has won before, None while the race is open."""
        record = self._read(key, stored, RaceRecord, place)
        if record.status != "won":
            return None
        if record.winner not in branches:
            raise self._activation.stop_with(
                StepKeyError(
                    f"race {key!r} at {described(place)} was won by {record.winner!r}, which is no branch "
                    f"of it "
                    f"now: give the new race its own key, or bring the branch back"
                )
            )
        self._activation.passed_over.update(k for k, b in record.members.items() if b != record.winner)
        return record.winner

    async def _choose(self, key: str, runners: dict[str, _Runner]) -> str:
        """Journal who came first, unless the store has done so, and what the others have begun."""
        done = [name for name, runner in runners.items() if runner.task.done()]
        decided = [name for name in done if runners[name].branch.direct and runners[name].branch.decided]
        first = decided[0] if decided else done[0]
        others = {
            step_key: name
            for name, runner in runners.items()
            if name != first and not runner.branch.direct
            for step_key in runner.branch.keys
        }
        if decided and not others:
            return first
        activation, name = self._activation, raw(key)
        flat = [raw(part) for pair in others.items() for part in pair]
        stored = await self._commit_wait(
            key, lambda known: activation.host.store.choose(activation.fence, known, name, raw(first), flat)
        )
        winner = journal.parse(stored)
        assert isinstance(winner, RaceRecord)
        return winner.winner


class _Runner:
    """One branch at work, as a task that belongs to the activation."""

    def __init__(self, race: bytes, name: str, code: Coroutine[Any, Any, Any]) -> None:
        direct = getattr(code, "cr_code", None) in _WAITS
        self.branch = tasks.Branch(race, raw(name), direct, tasks.BRANCH.get())
        context = copy_context()
        context.run(tasks.BRANCH.set, self.branch)
        self.task = asyncio.get_running_loop().create_task(code, context=context)


def _close(branches: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Branches that are not begun."""
    for code in branches:
        code.close()
