"""`ctx.step.first_of`: a race between branches, whose winner is journaled.

Where the winner is a wait, the script that resolves the wait decides the race and closes the waits of the
other branches, so an answer that comes a moment too late is refused, never taken and ignored. A branch made
of several calls can't be decided by a script: when it returns first, `choose` journals it as the winner,
unless a wait was resolved before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from polos_redis import tasks
from polos_redis.errors import StepKeyError
from polos_redis.runtime.branches import BRANCH, Branch, is_one_wait, race_membership
from polos_redis.runtime.call_sites import CallSite, caller, described
from polos_redis.runtime.steps.calls import Calls
from polos_redis.state import journal
from polos_redis.state.journal import RaceRecord
from polos_redis.values.text import raw


@dataclass(frozen=True, slots=True)
class Winner:
    """The branch that came first and its result; unpacks as `name, value`."""

    name: str
    value: Any

    def __iter__(self) -> Iterator[Any]:
        return iter((self.name, self.value))


class Races(Calls):
    """Steps that race branches against each other."""

    __slots__ = ()

    def first_of(
        self, key: str, branches: Mapping[str, Coroutine[Any, Any, Any]]
    ) -> Coroutine[Any, Any, Winner]:
        """Run several branches and take the one that comes first; returns its name and value.

        A branch is a call of `ctx.step` or any coroutine made of such calls. The winner is journaled, so a
        replay sees the same one and starts no other. Where the winner is a wait (`suspend`, `wait_for`,
        `wait_until`, `wait_for_event`, `invoke_and_wait`), the script that decides it closes what waits in
        the other branches, so no late answer is taken and then ignored; any other branch wins by returning,
        and the script that journals that does the same. The others are cancelled; a child that was waited
        for goes on. Raises what the winning branch raises.
        """
        self._refuse_inside_step(key, "first_of")
        chosen = _Branches(branches if isinstance(branches, Mapping) else {})
        if not chosen or not all(
            isinstance(name, str) and name and asyncio.iscoroutine(branch) for name, branch in chosen.items()
        ):
            chosen.close()
            raise ValueError(
                f"race {key!r}: expected a dict of names and coroutines, as "
                f'{{"approval": ctx.step.suspend(...), "limit": ctx.step.wait_for(...)}}, not {branches!r}'
            )
        return self._first_of(key, chosen, caller())

    async def _first_of(self, key: str, branches: _Branches, call_site: CallSite) -> Winner:
        with closing(branches):
            # A race alone changes nothing, and its branches may have what the code has to reach.
            if not self._activation.gate.is_open():
                await self._activation.gate.passed()
            stored = self._activation.register(key, call_site)
            name = None if stored is None else await self._winner(key, stored, branches, call_site)
            if name is not None:
                return Winner(name, await branches.pop(name))
            runners = {name: _Runner(raw(key), name, branches.pop(name)) for name in list(branches)}
        running = [runner.task for runner in runners.values()]
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            name = await self._choose(key, runners, call_site)
            await asyncio.wait([runners[name].task])
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        lost = (key for one in runners.values() if one is not runners[name] for key in one.branch.keys)
        self._activation.parking.given_up.difference_update(lost)  # the race's record says so
        return Winner(name, runners[name].task.result())

    async def _winner(
        self, key: str, stored: bytes, branches: Mapping[str, Any], call_site: CallSite
    ) -> str | None:
        """Returns the journaled winner; None while the race is open."""
        record = await self._read(key, stored, RaceRecord, call_site)
        if record.status != "won":
            return None
        if record.winner not in branches:
            raise self._activation.stop_with(
                StepKeyError(
                    f"race {key!r} at {described(call_site)} was won by {record.winner!r}, which is not a "
                    "branch of it now: give the new race its own key, or bring the branch back"
                )
            )
        self._pass_losers(record, record.winner)
        return record.winner

    def _pass_losers(self, race: RaceRecord, winner: str) -> None:
        """The code need not reach what was started in the branches that lost."""
        self._activation.pass_over([key for key, branch in race.members.items() if branch != winner])

    async def _choose(self, key: str, runners: dict[str, _Runner], call_site: CallSite) -> str:
        """Journal the winner, unless a script has, and the steps of the branches; returns the winner."""
        done = [name for name, runner in runners.items() if runner.task.done()]
        decided = [name for name in done if runners[name].branch.decided]
        first = decided[0] if decided else done[0]
        started = {
            step_key: name
            for name, runner in runners.items()
            if not runner.branch.direct
            for step_key in runner.branch.keys
        }
        activation, name = self._activation, raw(key)
        before = None
        if (known := activation.journal.records.get(name)) is not None:
            # of an earlier activation, whose branches may have got further
            before = await self._read(key, known, RaceRecord, call_site)
            self._pass_losers(before, first)
        if decided and not started:
            return first
        if activation.unreached and self._closes_waits(first, runners, before):
            await activation.reach_decisions(call_site)
        flat = [raw(part) for pair in started.items() for part in pair]
        around = race_membership().races
        stored = await self._commit_wait(
            key,
            lambda known: activation.host.store.fenced.choose(
                activation.fence, known, name, raw(first), around, flat
            ),
        )
        winner = journal.parse(stored)
        assert isinstance(winner, RaceRecord)
        self._pass_losers(winner, winner.winner)
        return winner.winner

    def _closes_waits(self, winner: str, runners: dict[str, _Runner], race: RaceRecord | None) -> bool:
        """Whether this winner would close an open wait of another branch."""
        records = self._activation.journal.records
        losing = {key for name, one in runners.items() if name != winner for key in one.branch.keys}
        if race is not None:
            losing.update(key for key, branch in race.members.items() if branch != winner)
        return any(journal.is_open(found) for key in losing if (found := records.get(raw(key))) is not None)


class _Branches(dict[str, Coroutine[Any, Any, Any]]):
    """Branches that have not started. Those that never do are closed, even if the race never starts."""

    def close(self) -> None:
        while self:
            _, code = self.popitem()
            if asyncio.iscoroutine(code):
                code.close()

    __del__ = close


class _Runner:
    """A running branch: a task that belongs to the activation."""

    def __init__(self, race: bytes, name: str, code: Coroutine[Any, Any, Any]) -> None:
        self.branch = Branch(race, raw(name), is_one_wait(code), BRANCH.get())
        context = copy_context()
        context.run(BRANCH.set, self.branch)
        self.task = asyncio.get_running_loop().create_task(code, context=context)
        self.task.add_done_callback(tasks.mark_retrieved, context=tasks.OUTSIDE)
