"""The `polos` command: its overview, its command groups, and the exit code of an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from polos_redis.errors import PolosError

from . import (
    audit,
    demo,
    dev,
    doctor,
    errands,
    events,
    executions,
    fleet,
    histories,
    invoke,
    keys,
    links,
    schedules,
    serve,
    suspensions,
    top,
    versions,
    worker,
)
from .commands import CONTEXT, flowing
from .exit_codes import exit_code
from .output import note, prepare_streams, printable, write

OVERVIEW = """Durable workflows on Redis: run workers, start and follow executions, answer approvals.

\b
  polos demo                                  see it work, in one terminal
  polos dev charge.py                         develop: Redis, a worker that reloads, the pages
  polos worker charge.py                      run the workflows in a file
  polos invoke charge --input '{"amount": 5}' start an execution
  polos suspensions                           list what waits for a person
  polos resume ID --approve                   approve it
  polos show ID                               show everything about an execution
  polos audit ID                              show who decided what
  polos doctor                                check Redis, settings, workers and work
  polos top                                   watch rates, queues, workers and waits
  polos serve --insecure-dev                  serve the REST API and the pages on this machine

Redis is found by --url or POLOS_REDIS_URL, the namespace by --namespace or POLOS_NAMESPACE. Of an execution's
id the first digits are enough, at least four, if no other id begins with them. Every command takes --json.
Exit codes: 0 success, 1 failure, 2 wrong usage, 78 the namespace needs a newer release.
"""

app = typer.Typer(
    name="polos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Off a terminal, rich guesses a width and truncates what is longer.
    rich_markup_mode="rich" if sys.stdout.isatty() and sys.stderr.isatty() else None,
    context_settings=CONTEXT,
)


def _print_version(asked: bool) -> None:
    if asked:
        from polos_redis import __version__

        write(f"polos-redis {__version__}")
        raise typer.Exit


@app.callback(help=flowing(OVERVIEW))
def _polos(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


GROUPS = (
    *(demo, dev, worker, serve, invoke, executions, events, histories, suspensions, audit, links),
    *(versions, keys, schedules, errands, fleet, top, doctor),
)
for group in GROUPS:
    group.add_to(app)


def run_app() -> None:
    """Runs the command. Prints a `PolosError` as one sentence on standard error and exits with its code."""
    prepare_streams()
    try:
        app()
    except PolosError as error:
        note(f"polos: {printable(str(error))}")
        sys.exit(exit_code(error))
