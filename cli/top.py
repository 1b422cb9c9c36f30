"""`polos top`: a namespace at work, live."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from polos_redis.client import PolosClient

from . import commands
from .fleet import QUEUE_TITLES, WORKER_TITLES, queue_row, worker_row
from .options import ConnectionOptions, Json
from .output import Part, console, cut, line, print_json, printable, shortening, styled, words
from .tables import Row, columns, table
from .times import duration

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType

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

    With --json, off a terminal and on a dumb one it prints one overview. Rates are those between the last two
    renewals of each worker's lease, so the first ones take up to two thirds of a lease (10 s by default).

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
        return
    screen = console(sys.stdout)
    if not screen.is_terminal or screen.is_dumb_terminal:
        _print(await overviews.read_with_rates())
        return
    from rich.live import Live

    first = _screen(await overviews.read(), client.namespace, screen)
    with Live(first, console=screen, screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval)
            live.update(_screen(await overviews.read(), client.namespace, screen), refresh=True)


def _print(found: Overview) -> None:
    for label, *parts in _summary(found):
        line(label, " ", *parts)
    line()
    table(QUEUE_TITLES, [queue_row(one) for one in found.queues])
    line()
    table(WORKER_TITLES, [worker_row(one) for one in found.workers])


def _screen(found: Overview, namespace: str, screen: Console) -> Group:
    """Returns what fits a screen: the summary, and as many queues and workers as there is room for."""
    from rich.console import Group
    from rich.table import Table

    summary = Table.grid(padding=(0, 1))
    for label, *parts in _summary(found):
        summary.add_row(styled(label), styled(*parts))
    heading, how = styled("namespace ", (namespace, "bold")), styled(("   Ctrl-C ends it", "dim"))
    if heading.cell_len + how.cell_len <= screen.width:
        heading.append_text(how)
    queues = sorted(found.queues, key=lambda one: -one.waiting - one.delivered)
    workers = sorted(found.workers, key=lambda one: (one.alive, -one.entries))
    queue_rows, worker_rows = list(map(queue_row, queues)), list(map(worker_row, workers))
    for most in range(MOST, 0, -1):
        shown = Group(
            heading,
            "",
            summary,
            "",
            *_rows(QUEUE_TITLES, queue_rows, most, "queues", screen),
            "",
            *_rows(WORKER_TITLES, worker_rows, most, "workers", screen),
        )
        if len(screen.render_lines(shown)) <= screen.height:
            break
    return shown


def _rows(
    titles: Sequence[str], rows: Sequence[Row], most: int, noun: str, screen: Console
) -> Iterator[RenderableType]:
    """Yields the first rows as a table or, where that is too wide, each as a paragraph."""
    with shortening(full=False, hint=False):
        found = columns(titles, rows[:most], screen.width, screen.file)
        if found is not None:
            yield found
        else:
            yield styled((noun, "bold"))
            yield from (_paragraph(titles, row, screen) for row in rows[:most])
    if len(rows) > most:
        yield f"{len(rows) - most:,} further {noun}: polos {noun}"


def _paragraph(titles: Sequence[str], row: Row, screen: Console) -> RenderableType:
    """Returns what a row has to say: its first cell, and those that have a value."""
    parts: list[Part] = [row[0]]
    for title, part in zip(titles[1:], row[1:], strict=True):
        if words(part) == "-":
            continue
        text = cut(printable(words(part)), screen.width - len(title) - 1, screen.file)
        parts += [("  " + title.lower() + " ", "dim"), text if isinstance(part, str) else (text, part[1])]
    return styled(*parts)


def _summary(found: Overview) -> list[tuple[Part, ...]]:
    rates = found.rates
    running = sum(one.delivered for one in found.queues)  # their status is "queued"
    numbers = {**found.executions, "queued": max(0, found.executions["queued"] - running)}
    return [
        (
            ("per second ", "bold"),
            "not known yet"
            if rates is None
            else f"{rates.ended:,} executions ended ({rates.failed:,} failed), {rates.steps:,} steps, "
            f"{rates.activations:,} activations",
        ),
        (
            ("executions ", "bold"),
            f"{running:,} running, "
            + ", ".join(f"{number:,} {status}" for status, number in numbers.items()),
        ),
        (
            ("waits      ", "bold"),
            f"{found.suspensions:,} for people"
            + (f", the oldest for {duration(found.oldest_suspension_seconds)}" if found.suspensions else "")
            + f"; {found.timers:,} timers, {found.timers_due:,} due; {found.errands:,} errands, "
            f"{found.errands_due:,} due, {found.errands_set_aside:,} set aside",
        ),
    ]
