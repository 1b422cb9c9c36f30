"""`polos top`: a namespace at work, live."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from polos_redis.client import PolosClient

from . import commands
from .fleet import QUEUE_TITLES, WORKER_TITLES, queue_row, worker_row
from .options import ConnectionOptions, Json
from .output import Part, console, grid, line, print_json, styled, table
from .times import duration

if TYPE_CHECKING:
    from rich.console import Group

    from polos_redis.diagnosis.overview import Overview

MOST = 10  # queues, and workers, on the screen


def add_to(app: typer.Typer) -> None:
    commands.add(app, top, "Watch rates, queues, workers and waits.")


def top(
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, metavar="SECONDS", help="How often to look.")
    ] = 1.0,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """Watch a namespace at work: rates, executions by status, what waits, the busiest queues and workers.
    Ctrl-C ends it.

    With --json or off a terminal it prints one overview. Rates are those between the last two renewals of
    each worker's lease, so the first ones take up to two thirds of a lease (10 s by default).

    \b
    Examples:
      polos top
      polos top --json | jq .rates
    """
    with contextlib.suppress(KeyboardInterrupt):  # the only way to end it
        connection.run(lambda client: _show(client, interval, json))


async def _show(client: PolosClient, interval: float, json: bool) -> None:
    from polos_redis.diagnosis.overview import Overviews

    overviews = Overviews(await client.store())
    if json:
        print_json((await overviews.read_with_rates()).plain())
    elif not sys.stdout.isatty():
        _print(await overviews.read_with_rates())
    else:
        from rich.live import Live

        screen = _screen(await overviews.read(), client.namespace)
        with Live(screen, console=console(sys.stdout), screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval)
                live.update(_screen(await overviews.read(), client.namespace), refresh=True)


def _print(found: Overview) -> None:
    for parts in _summary(found):
        line(*parts)
    line()
    table(QUEUE_TITLES, [queue_row(one) for one in found.queues])
    line()
    table(WORKER_TITLES, [worker_row(one) for one in found.workers])


def _screen(found: Overview, namespace: str) -> Group:
    from rich.console import Group

    queues = sorted(found.queues, key=lambda one: -one.waiting - one.delivered)
    workers = sorted(found.workers, key=lambda one: (one.alive, -one.entries))
    heading: tuple[Part, ...] = ("namespace ", (namespace, "bold"), ("   Ctrl-C ends it", "dim"))
    return Group(
        styled(*heading),
        "",
        *(styled(*parts) for parts in _summary(found)),
        "",
        grid(QUEUE_TITLES, [queue_row(one) for one in queues[:MOST]]),
        *_further(len(queues), "queues"),
        "",
        grid(WORKER_TITLES, [worker_row(one) for one in workers[:MOST]]),
        *_further(len(workers), "workers"),
    )


def _further(number: int, noun: str) -> list[str]:
    return [f"{number - MOST:,} further {noun}: polos {noun}"] * (number > MOST)


def _summary(found: Overview) -> list[tuple[Part, ...]]:
    rates = found.rates
    running = sum(one.delivered for one in found.queues)  # their status is "queued"
    numbers = {**found.executions, "queued": max(0, found.executions["queued"] - running)}
    return [
        (
            ("per second  ", "bold"),
            "not known yet"
            if rates is None
            else f"{rates.ended:,} executions ended ({rates.failed:,} failed), {rates.steps:,} steps, "
            f"{rates.activations:,} activations",
        ),
        (
            ("executions  ", "bold"),
            f"{running:,} running, "
            + ", ".join(f"{number:,} {status}" for status, number in numbers.items()),
        ),
        (
            ("waits       ", "bold"),
            f"{found.suspensions:,} for people"
            + (f", the oldest for {duration(found.oldest_suspension_seconds)}" if found.suspensions else "")
            + f"; {found.timers:,} timers, {found.timers_due:,} due; {found.errands:,} errands, "
            f"{found.errands_due:,} due, {found.errands_set_aside:,} set aside",
        ),
    ]
