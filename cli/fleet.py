"""`polos workers` and `polos queues`: who works, and what waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from polos_redis.client import PolosClient

from . import commands
from .options import ConnectionOptions, Full, Json
from .output import Long, Part, note, print_json, shortening, status
from .tables import table
from .times import duration

if TYPE_CHECKING:
    from polos_redis.diagnosis.queues import QueueReading
    from polos_redis.diagnosis.workers import WorkerReading


WORKER_TITLES = ("ID", "STATUS", "UP", "BUSY", "VERSION", "QUEUES", "WORKFLOWS")
QUEUE_TITLES = ("QUEUE", "WAITING", "OLDEST", "RUNNING", "LIMIT", "AT LIMIT", "WORKERS")


def add_to(app: typer.Typer) -> None:
    commands.add(app, workers, "List workers.")
    commands.add(app, queues, "List queues.")


def workers(full: Full = False, *, connection: ConnectionOptions, json: Json = False) -> None:
    """List the workers of the namespace: whether each is alive, how long it has been up, how many executions
    it holds and can hold, and what it serves.

    STATUS is "alive", "silent" for a worker that no longer renews its lease because it is dead, frozen or
    cut off from Redis, or "gone" for the consumer that a former worker has left in a queue. A worker without
    a free slot is watched until it renews its lease, which may take seconds.

    \b
    Examples:
      polos workers
      polos workers --json | jq -r '.[] | select(.status == "silent") | .id'
    """
    found = connection.run(_read_workers)
    if json:
        print_json([one.plain() for one in found])
    elif not found:
        note("no workers")
    else:
        with shortening(full):
            table(WORKER_TITLES, [worker_row(one) for one in found])
    for one in found:
        if one.facts is not None and one.facts.blocked is not None:
            note(_blocked(one.id, one.facts.blocked))


def _blocked(worker: str, block: Mapping[str, Any]) -> str:
    """Says what blocks the event loop of a worker."""
    what = [
        f"{name} {block[name]}" for name in ("execution", "step", "errand") if block.get(name) is not None
    ]
    by = f" by {', '.join(what)}" if what else ""
    return f"the event loop of {worker} is blocked for {duration(block['seconds'])}{by}, at {block['at']}"


async def _read_workers(client: PolosClient) -> list[WorkerReading]:
    from polos_redis.diagnosis.workers import read_workers, watch

    store = await client.store()
    found = await read_workers(store)
    await watch(store, found)
    return sorted(found.values(), key=lambda one: one.id)


def worker_row(one: WorkerReading) -> tuple[Part, ...]:
    """Returns the cells of `WORKER_TITLES`."""
    facts = one.facts
    is_up = one.status != "silent"  # how long a silent one has been up is not known
    return (
        one.id,
        status(one.status),
        duration(facts.up_seconds) if facts is not None and is_up else "-",
        str(one.entries) if facts is None else f"{one.entries} of {facts.concurrency}",
        "-" if facts is None else facts.version,
        Long(", ".join(one.queues or sorted(one.held)) or "-"),
        Long(", ".join(one.workflows) or "-"),
    )


def queues(*, connection: ConnectionOptions, json: Json = False) -> None:
    """List the queues of the namespace: executions that wait for a worker, how long the oldest has waited,
    executions that workers hold, the slots taken of the queue's limit, executions that wait for a slot, and
    live workers that read the queue.

    \b
    Examples:
      polos queues
      polos queues --json | jq -r '.[] | select(.waiting > 0 and .workers == 0) | .name'
    """
    found, left_out = connection.run(_read_queues)
    if json:
        print_json([one.plain() for one in found])
    else:
        table(QUEUE_TITLES, [queue_row(one) for one in found])
    if left_out:
        note(f"{left_out:,} further queues are not listed")


async def _read_queues(client: PolosClient) -> tuple[list[QueueReading], int]:
    from polos_redis.diagnosis.queues import read_queues
    from polos_redis.diagnosis.workers import read_workers, watch
    from polos_redis.metrics.namespace_stats import read_namespace_stats

    store = await client.store()
    workers, stats = await asyncio.gather(read_workers(store), read_namespace_stats(store))
    await watch(store, workers)
    return await read_queues(store, stats, workers.values()), stats.left_out["queues"]


def queue_row(one: QueueReading) -> tuple[Part, ...]:
    """Returns the cells of `QUEUE_TITLES`."""
    unread = one.waiting > 0 and one.workers == 0
    return (
        one.name,
        f"{one.waiting:,}",
        duration(one.oldest_seconds) if one.waiting else "-",
        f"{one.delivered:,}",
        "-" if one.limit is None else f"{one.slots:,} of {one.limit:,}",
        "-" if one.limit is None else f"{one.waiters:,}",
        (f"{one.workers:,}", "red" if unread else ""),
    )
