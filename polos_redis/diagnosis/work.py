"""Checks of the work: executions that are stuck or served by nobody, timers that are overdue, queues that
nobody reads, errands that were set aside."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Iterator, Sequence

from polos_redis.diagnosis.finding import Finding, count, ok, problem, warning
from polos_redis.diagnosis.queues import now_ms, oldest_entry_seconds
from polos_redis.diagnosis.workers import WorkerReading
from polos_redis.metrics.namespace_stats import NamespaceStats
from polos_redis.redaction import redact_text
from polos_redis.state import keys
from polos_redis.state.held_back import parse_held_back
from polos_redis.state.store import Store
from polos_redis.state.stuck import StuckReason
from polos_redis.values.text import text

MOST = 10  # of a kind that are reported one by one
OVERDUE_SECONDS = 10.0  # of timers and errands; workers look ten times a second
BACKLOG_SECONDS = 60.0  # that the oldest runnable execution of a queue has waited
PUT_BACK_LOOKED_AT = 500  # timers
TIMERS = {
    "s": "the timeout of suspension",
    "w": "the end of wait",
    "b": "the retry of step",
    "p": "the start",
    "t": "the run timeout",
    "c": "the cancellation of children",
}


def check_workflows(stats: NamespaceStats, workers: Sequence[WorkerReading]) -> Iterator[Finding]:
    """Yields the workflows with unfinished executions that no live worker serves."""
    served = {name for one in workers if one.alive for name in one.workflows}
    unfinished: dict[str, dict[str, int]] = {}
    for (workflow, status), number in stats.executions.items():
        if number and workflow and status in ("queued", "waiting"):
            unfinished.setdefault(workflow, {})[status] = number
    found = False
    for workflow, by_status in sorted(unfinished.items()):
        if workflow in served:
            continue
        found = True
        queued, waiting = by_status.get("queued", 0), by_status.get("waiting", 0)
        states = [f"{queued:,} queued"] * bool(queued) + [f"{waiting:,} waiting"] * bool(waiting)
        noun = "execution" if queued + waiting == 1 else "executions"
        yield (problem if queued else warning)(
            "workflows",
            workflow,
            f"no worker serves this workflow, so its {' and '.join(states)} {noun} can't go on",
            "deploy workers with its code, or cancel them: polos list --workflow " + shlex.quote(workflow),
        )
    if unfinished and not found:
        yield ok("workflows", "", "every workflow with unfinished executions is served")


async def check_stuck(store: Store, stats: NamespaceStats) -> AsyncIterator[Finding]:
    """Yields the executions that are stuck, newest first."""
    total = sum(number for (_, status), number in stats.executions.items() if status == "stuck")
    if not total:
        return
    rows, _ = await store.executions.newest(("stuck",), "", None, MOST)
    for row in rows:
        execution_id = text(row[0])
        (packed,) = await store.executions.read_fields(execution_id, "stuck")
        why = redact_text(StuckReason.parse(packed).message) if packed else "it has no stored reason"
        yield problem(
            "stuck",
            execution_id,
            f"this execution of workflow {text(row[1])!r} is stuck: {why}",
            f"deploy code that reaches it, then run polos retry {execution_id}; `polos show` says more",
        )
    if total > len(rows):
        yield problem(
            "stuck",
            "",
            f"{count(total - len(rows), 'further execution')} of this kind",
            "polos list --status stuck",
        )


async def check_timers(store: Store, alive: bool) -> list[Finding]:
    """Returns what is overdue of timers and errands: a worker fires each within a second or so."""
    found: list[Finding] = []
    number, oldest_ms, example = 0, 0.0, ""
    errands, oldest_errand_ms, errand = 0, 0.0, ""
    for prefix in store.prefixes:
        now = await now_ms(store, prefix)
        until = now - int(OVERDUE_SECONDS * 1000)
        for name in (keys.TIMERS, keys.ERRANDS):
            late, first, member = await _overdue(store, prefix + name.encode(), until)
            if name == keys.TIMERS:
                number += late
                if late and now - first > oldest_ms:
                    oldest_ms, example = now - first, member
            else:
                errands += late
                if late and now - first > oldest_errand_ms:
                    oldest_errand_ms, errand = now - first, member
    remedy = (
        "workers fire too few: look at their logs, at their CPU, and at Redis' load"
        if alive
        else "start workers: they fire what is due at once"
    )
    if number:
        what = f"the oldest for {_duration(oldest_ms)}: {_describe_timer(example)}"
        overdue = f"{count(number, 'timer')} {'is' if number == 1 else 'are'} overdue"
        found.append(problem("timers", "", f"{overdue}, {what}", remedy))
    else:
        found.append(ok("timers", "", "no timer is overdue"))
    if errands:
        what = f"the oldest for {_duration(oldest_errand_ms)}: {errand!r}"
        overdue = f"{count(errands, 'errand')} {'is' if errands == 1 else 'are'} overdue"
        found.append(problem("errands", "", f"{overdue}, {what}", remedy))
    return found


async def check_errands(store: Store) -> AsyncIterator[Finding]:
    """Yields the errands that were set aside, and those that fail."""
    seen = 0
    async for one in store.errands.failures():
        if one.running:
            continue
        seen += 1
        if seen > MOST:
            continue
        times = f"after {count(one.attempts, 'attempt')}: {redact_text(one.reason)}"
        if one.set_aside:
            remedy = f"remove the cause, then run polos errands retry {shlex.quote(one.name)}"
            yield problem("errands", one.name, f"this errand was set aside {times}", remedy)
        else:
            yield warning(
                "errands",
                one.name,
                f"this errand fails and is tried again, {times}",
                "none if it succeeds soon; polos errands list",
            )
    if seen > MOST:
        yield problem(
            "errands", "", f"{count(seen - MOST, 'further errand')} of this kind", "polos errands list"
        )


async def check_queues(
    store: Store, stats: NamespaceStats, workers: Sequence[WorkerReading]
) -> AsyncIterator[Finding]:
    """Yields the queues that nobody reads, and those whose executions wait for long."""
    alive = [one for one in workers if one.alive]
    read = {queue for one in alive for queue in one.queues}
    found = False
    for name, queue in sorted(stats.queues.items()):
        if not queue.waiting or not alive:  # without any worker, that is what `workers` says
            continue
        if name not in read:
            found = True
            yield problem(
                "queues",
                name,
                f"no worker reads this queue, in which {count(queue.waiting, 'execution')} "
                f"{'is' if queue.waiting == 1 else 'are'} runnable",
                f"start a worker that does: polos worker FILE --queues {shlex.quote(name)}",
            )
            continue
        age = await oldest_entry_seconds(store, name)
        if age > BACKLOG_SECONDS:
            found = True
            yield warning(
                "queues",
                name,
                f"no worker has a free slot for {count(queue.waiting, 'execution')} of this queue, the "
                f"oldest of which has waited for {_duration(age * 1000)}",
                "start more workers, or raise POLOS_CONCURRENCY if theirs have CPU left",
            )
    if alive and not found:
        yield ok("queues", "", "every queue is read, and no execution waits for long")


async def check_held_back(store: Store) -> AsyncIterator[Finding]:
    """Yields executions that workers put back because they can't read a stored value: those among the next
    timers."""
    seen = 0
    for prefix in store.prefixes:
        members = await store.wire.call(
            "ZRANGE",
            prefix + keys.TIMERS.encode(),
            0,
            PUT_BACK_LOOKED_AT - 1,
            patience=store.partitions.patience,
        )
        for member in members:
            if member[:1] != b"p":
                continue
            execution_id = text(member[1:])
            workflow, packed = await store.executions.read_fields(execution_id, "workflow", "held_back")
            if packed is None:
                continue
            seen += 1
            if seen <= MOST:
                times, _, reason = parse_held_back(packed)
                yield problem(
                    "unreadable",
                    execution_id,
                    f"workers can't run this execution of workflow {text(workflow)!r} and have put it back "
                    f"{count(times, 'time')}: {redact_text(reason)}",
                    "deploy code that reads the value, or cancel the execution",
                )
    if seen > MOST:
        yield problem(
            "unreadable",
            "",
            f"{count(seen - MOST, 'further execution')} of this kind",
            "polos list --status queued",
        )


async def _overdue(store: Store, key: bytes, until_ms: int) -> tuple[int, float, str]:
    """How many members were due before a time, and when the first one was and which."""
    patience = store.partitions.patience
    first: list[bytes] = await store.wire.call("ZRANGE", key, 0, 0, "WITHSCORES", patience=patience)
    if not first or float(first[1]) > until_ms:
        return 0, 0.0, ""
    late: int = await store.wire.call("ZCOUNT", key, "-inf", until_ms, patience=patience)
    return late, float(first[1]), text(first[0])


def _describe_timer(member: str) -> str:
    kind = TIMERS.get(member[:1])
    if kind is None:
        return repr(member)
    execution_id, _, key = member[1:].partition(" ")
    return f"{kind} {key!r} of {execution_id}" if key else f"{kind} of {execution_id}"


def _duration(ms: float) -> str:
    seconds = ms / 1000
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
