"""Checks of the workers: who is alive, what dead ones hold, and who fires the timers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from polos_redis.diagnosis.finding import Finding, count, ok, problem, warning
from polos_redis.diagnosis.workers import WorkerReading
from polos_redis.metrics.namespace_stats import NamespaceStats
from polos_redis.state import keys
from polos_redis.state.store import Store

MOST = 10  # workers that are reported one by one
START = "start workers in this namespace: polos worker FILE"
RECHECK_SECONDS = 1.0  # a leader's key may just have lapsed


def check_workers(workers: Sequence[WorkerReading], stats: NamespaceStats) -> Iterator[Finding]:
    """Yields what is wrong with the workers. `workers` were watched."""
    alive = [one for one in workers if one.alive]
    unfinished = sum(
        number for (_, status), number in stats.executions.items() if status in ("queued", "waiting", "stuck")
    )
    if alive:
        served = {name for one in alive for name in one.workflows}
        found = f"{count(len(alive), 'worker')} alive, {count(len(served), 'workflow')} served"
        yield ok("workers", "", found)
    elif unfinished:
        found = f"no worker is running, and {count(unfinished, 'execution')} have not ended"
        yield problem("workers", "", found.replace("1 execution have", "1 execution has"), START)
    else:
        yield warning("workers", "", "no worker is running", START)
    if len(leases := {one.lease_seconds for one in alive}) > 1:
        yield warning(
            "workers",
            "",
            f"workers have leases of {' and '.join(f'{one:g} s' for one in sorted(leases))}: a dead one is "
            "noticed after the longer",
            "set one POLOS_LEASE_SECONDS for all",
        )
    yield from _capped(
        _abandoned(alive), "threads", "further workers with steps that timed out and still run"
    )
    yield from _capped(_blocked(alive), "loops", "further workers whose event loops are blocked")
    yield from _capped(_dead(workers, bool(alive)), "leases", "further workers whose leases have lapsed")
    yield from _capped(_left_behind(workers, bool(alive)), "consumers", "further consumers without a lease")


def _abandoned(alive: Sequence[WorkerReading]) -> Iterator[Finding]:
    for one in alive:
        facts = one.facts
        if facts is None or not facts.abandoned:
            continue
        is_full = facts.abandoned >= facts.concurrency
        runs = (
            "thread of this worker still runs" if facts.abandoned == 1 else "threads of this worker still run"
        )
        further = facts.abandoned - len(facts.abandoned_steps)
        steps = ", ".join(facts.abandoned_steps) + (f" and {further:,} more" if further > 0 else "")
        stops = "; the worker reads no more executions" if is_full else ""
        yield (problem if is_full else warning)(
            "threads",
            one.id,
            f"{facts.abandoned:,} {runs} a step that has timed out: {steps}{stops}",
            "give what the step calls a timeout of its own; "
            f"py-spy dump --pid {facts.pid} on {facts.host} shows where it hangs, and restarting the worker "
            "ends it",
        )


def _blocked(alive: Sequence[WorkerReading]) -> Iterator[Finding]:
    for one in alive:
        block = None if one.facts is None else one.facts.blocked
        if block is None:
            continue
        what = [f"{name} {block[name]}" for name in ("execution", "step", "errand") if block.get(name)]
        by = f" by {', '.join(what)}" if what else ""
        yield warning(
            "loops",
            one.id,
            f"the event loop of this worker is blocked for {block['seconds']:,.0f} s{by}, at {block['at']}; "
            "nothing else goes on there",
            "make the step a plain function, which runs in a thread, or await what blocks; the worker's log "
            "has the stack",
        )


def _dead(workers: Sequence[WorkerReading], recovered: bool) -> Iterator[Finding]:
    for one in workers:
        if one.alive or one.renewals is None:
            continue
        held = f"it holds {count(one.entries, 'execution')}" if one.entries else "it holds no executions"
        yield (problem if one.entries and not recovered else warning)(
            "leases",
            one.id,
            f"this worker no longer renews its lease, so it is dead, frozen or cut off from Redis; {held}",
            "look at its log for how it ended; others take over what it holds"
            if recovered
            else f"{START}; it takes over what this one holds after {one.lease_seconds:g} s",
        )


def _left_behind(workers: Sequence[WorkerReading], recovered: bool) -> Iterator[Finding]:
    for one in workers:
        if one.renewals is not None:
            continue
        queues = ", ".join(repr(name) for name in sorted(one.held))
        held = f"holds {count(one.entries, 'execution')}" if one.entries else "holds nothing"
        yield (problem if one.entries and not recovered else warning)(
            "consumers",
            one.id,
            f"a consumer of queue {queues} has no lease, as a worker that is gone leaves it; it {held}",
            "running workers remove it within about a minute: if it stays, look at their logs"
            if recovered
            else f"{START}; it removes this consumer",
        )


def _capped(findings: Iterator[Finding], check: str, further: str) -> Iterator[Finding]:
    """The first findings, and one for all others."""
    rest = 0
    for number, finding in enumerate(findings):
        if number < MOST:
            yield finding
        else:
            rest += 1
    if rest:
        yield warning(check, "", f"{rest:,} {further}", "see `polos workers`")


async def check_leaders(store: Store, alive: bool) -> list[Finding]:
    """Returns a finding if partitions have no worker that fires their timers, although workers are alive."""
    if not alive:
        return []
    left = await _without_leader(store)
    if left:
        await asyncio.sleep(RECHECK_SECONDS)
        left &= await _without_leader(store)
    if left:
        where = ", ".join(map(str, sorted(left)))
        return [
            problem(
                "leaders",
                "",
                f"no worker fires the timers of partition{'s' if len(left) > 1 else ''} {where}",
                "look at the workers' logs: can they reach the servers of these partitions?",
            )
        ]
    return [ok("leaders", "", "a worker fires the timers of every partition")]


async def _without_leader(store: Store) -> set[int]:
    held = await asyncio.gather(
        *(
            store.wire.call("EXISTS", prefix + keys.TIMER_LEADER.encode(), patience=store.partitions.patience)
            for prefix in store.prefixes
        )
    )
    return {partition for partition, found in enumerate(held) if not found}
