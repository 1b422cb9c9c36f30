"""The command itself: its groups put together, and how every failure is told.

Exit codes: 0 fine, 1 the thing failed, 2 the command was used wrongly.
"""

from __future__ import annotations

import inspect
import sys
from typing import Annotated

import typer

from polos_redis.errors import PolosError

from . import answering, audit, demo, executions, keys, links, schedules, serve, starting, worker
from .output import note, prepare_streams, printable
from .values import UsageError

OVERVIEW = """Durable workflows on Redis: run workers, start and watch executions, answer what waits.

\b
  polos demo                                  see it work, in one terminal
  polos worker charge.py                      work on the workflows of a file
  polos invoke charge --input '{"amount": 5}' start one
  polos suspensions                           what waits for a person
  polos resume ID --approve                   answer it
  polos show ID                               everything about an execution
  polos audit ID                              who decided what
  polos serve --insecure-dev                  the REST API and the pages, on your own machine

Redis is found by --url or POLOS_REDIS_URL, the namespace by --namespace or POLOS_NAMESPACE. Every command
takes --json. Exit codes: 0 fine, 1 the thing failed, 2 the command was used wrongly.
"""

app = typer.Typer(
    name="polos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Its boxes are as wide as they guess the terminal to be, and cut what is longer: no good in a pipe.
    rich_markup_mode="rich" if sys.stdout.isatty() and sys.stderr.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from polos_redis import __version__

        print(f"polos-redis {__version__}")
        raise typer.Exit


def _flowing(text: str) -> str:
    """Each paragraph on one line, for the terminal to fold; those that begin with \\b stay as they are."""
    return "\n\n".join(
        part if part.startswith("\b") else part.replace("\n", " ") for part in text.split("\n\n")
    )


@app.callback(help=_flowing(OVERVIEW))
def _polos(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


for group in (demo, worker, serve, starting, executions, answering, audit, links, keys, schedules):
    group.add_to(app)
_groups = (keys.group, schedules.group)
for _command in (*app.registered_commands, *(one for group in _groups for one in group.registered_commands)):
    _command.help = _flowing(inspect.getdoc(_command.callback) or "")


def run_app() -> None:
    """Run the command of this process's arguments; an error of ours is one sentence on stderr."""
    prepare_streams()
    try:
        app()
    except UsageError as error:
        note(f"polos: {printable(str(error))}")
        sys.exit(2)
    except PolosError as error:
        note(f"polos: {printable(str(error))}")
        sys.exit(1)
