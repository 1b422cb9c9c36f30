"""`polos export` and `polos replay`: histories of executions, and the code of today against them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from polos_redis.client import PolosClient
from polos_redis.errors import ExecutionNotFoundError, HistoryError
from polos_redis.executions.history import History, read_lines

from . import commands, completion
from .executions import Status
from .ids import full_id, is_beginning
from .options import ConnectionOptions, Json, Limit
from .output import line, note, print_json, write
from .usage import UsageError

MOST_NAMED = 10  # step keys in a message
ALIKE = 0.6  # how similar a step key is to one that was meant


def add_to(app: typer.Typer) -> None:
    commands.add(app, export, "Export the histories of executions.")
    commands.add(app, replay, "Replay code against histories.")


def export(
    execution_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXECUTION_ID...",
            help="The executions' ids, or their beginnings if unique.",
            autocompletion=completion.execution_ids,
        ),
    ] = None,
    workflow: Annotated[
        str | None,
        typer.Option(
            "--workflow",
            metavar="WORKFLOW_ID",
            help="The newest executions of this workflow.",
            autocompletion=completion.workflow_ids,
        ),
    ] = None,
    status: Annotated[
        Status | None, typer.Option("--status", help="With --workflow: only those with this status.")
    ] = None,
    limit: Limit = 50,
    children: Annotated[bool, typer.Option("--children", help="Their children, too, at any depth.")] = False,
    *,
    connection: ConnectionOptions,
) -> None:
    """Export what is recorded of executions, to replay code against it: one line of JSON for each.

    A line has what `polos show --json` prints, decisions and names included, and the stored bytes of the
    same. The tokens of approval links and the secrets of API keys are removed, whatever else is personal or
    confidential is not: keep the file as you keep your database.

    \b
    Examples:
      polos export 3f2a... > history.jsonl
      polos export --workflow charge --limit 100 > histories/charge.jsonl
      polos export --workflow charge --status waiting > waiting.jsonl
    """
    if bool(execution_ids) == bool(workflow):
        raise UsageError("export needs the ids of executions, or --workflow, and not both")
    if status is not None and not workflow:
        raise UsageError("--status is for --workflow: executions named by id are exported with any status")

    async def print_all(client: PolosClient) -> int:
        count = 0
        async for execution_id in _chosen(client, execution_ids, workflow, status, limit):
            async for history in _read(client, execution_id, children):
                write(history.to_line())
                count += 1
        return count

    count = connection.run(print_all)
    note(f"exported {_executions(count)}")


async def _chosen(
    client: PolosClient, ids: list[str] | None, workflow: str | None, status: Status | None, limit: int
) -> AsyncIterator[str]:
    for one in ids or ():
        yield await full_id(client, one) if is_beginning(one) else one
    cursor, left = None, 0 if ids else limit
    while left > 0:
        name = None if status is None else status.value
        page = await client.list_executions(workflow=workflow, status=name, limit=left, cursor=cursor)
        for row in page:
            yield row["id"]
        cursor, left = page.next_cursor, left - len(page)
        if cursor is None:
            break


async def _read(client: PolosClient, execution_id: str, children: bool) -> AsyncIterator[History]:
    history = await client.get_history(execution_id)
    yield history
    for child in history.view["children"] if children else ():
        try:
            async for one in _read(client, child["id"], children):
                yield one
        except ExecutionNotFoundError:
            pass  # deleted, or its retention has passed


def replay(
    module: Annotated[
        str, typer.Argument(metavar="MODULE_OR_FILE", help="The module or file that defines the workflows.")
    ],
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE_OR_ID...", help="Files that `polos export` wrote, or executions' ids."),
    ],
    debug: Annotated[
        bool, typer.Option("--debug", help="Stop in pdb before each call of ctx.step, or before --step.")
    ] = False,
    step: Annotated[
        str | None,
        typer.Option("--step", metavar="STEP_KEY", help="With --debug: stop only before this one."),
    ] = None,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """Run the code of workflows against recorded executions and report where it takes another path.

    Nothing is executed or written: each step returns what is recorded of it, and a step that is not recorded
    ends the replay. Files need no Redis; - reads standard input. Exits with code 1 if the code diverges from
    any history: it calls a step that the history does not have, does not reach one that it has, or ends in
    another way.

    \b
    Examples:
      polos replay charge.py histories/charge.jsonl
      polos replay shop.workflows waiting.jsonl --json
      polos replay charge.py 3f2a... --debug
      polos replay charge.py 3f2a... --debug --step approval
    """
    from polos_redis.replay.replaying import replays

    from . import modules
    from .step_debugger import StepDebugger

    if step is not None and not debug:
        raise UsageError("--step is for --debug: it names the step to stop before")
    diverged = []
    debugger = StepDebugger(step) if debug else None
    with _unlogged():  # the report says it
        modules.load(module)
        histories = [one for source in sources for one in _histories(source, connection)]
        for history, divergence in replays(
            histories, before_call=None if debugger is None else debugger.before_call
        ):
            if divergence is not None:
                diverged.append(divergence)
                if not json:
                    line(("diverged  ", "bold red"), f"{history.workflow_id} ", (history.id, "bold"))
                    line("  ", divergence.message)
    if json:
        print_json({"replayed": len(histories), "diverged": [asdict(one) for one in diverged]})
    else:
        note(f"replayed {_executions(len(histories))}: {len(diverged) or 'none'} diverged")
    if debugger is not None and step is not None and step not in debugger.called:
        raise UsageError(f"--step {step}: {_never_reached(step, list(debugger.called), histories)}")
    if diverged:
        raise typer.Exit(1)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    logger = logging.getLogger("polos")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _never_reached(step_key: str, called: Sequence[str], histories: Sequence[History]) -> str:
    """Returns why a replay did not stop at a step, with the step keys that were meant perhaps."""
    recorded = list(dict.fromkeys(key for one in histories for key in one.step_keys))
    if step_key in recorded:
        return "the replay ended before it reached this step, which is recorded"
    known = list(dict.fromkeys([*called, *recorded]))
    if alike := get_close_matches(step_key, known, MOST_NAMED, ALIKE):
        return f"no step of this name was reached; did you mean {' or '.join(map(repr, alike))}?"
    if not known:
        return "no step of this name was reached, nor any other"
    more = f" and {len(known) - MOST_NAMED:,} more" if len(known) > MOST_NAMED else ""
    return f"no step of this name was reached; there are {', '.join(map(repr, known[:MOST_NAMED]))}{more}"


def _histories(source: str, connection: ConnectionOptions) -> Iterator[History]:
    """The histories in a file, or of an execution."""
    found = False
    if source == "-":
        lines = read_lines(sys.stdin.buffer, "standard input")
    elif Path(source).is_file():
        lines = read_lines(Path(source).read_bytes().splitlines(), source)
    elif source.endswith((".jsonl", ".json")) or "/" in source:
        raise UsageError(f"no such file: {source}")
    else:
        yield connection.run(lambda client: _named(client, source))
        return
    for history in lines:
        found = True
        yield history
    if not found:
        raise HistoryError(f"{source} has no history: write it with polos export")


async def _named(client: PolosClient, given: str) -> History:
    return await client.get_history(await full_id(client, given) if is_beginning(given) else given)


def _executions(count: int) -> str:
    return "1 execution" if count == 1 else f"{count} executions"
