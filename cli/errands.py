"""`polos errands`: work of the workers that has failed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polos_redis import errands
from polos_redis.client import PolosClient

from . import commands
from .options import ConnectionOptions, Full, Json
from .output import Long, line, note, print_json, shortening
from .tables import table
from .times import ago
from .usage import UsageError


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help="See and retry failed errands.", context_settings=commands.CONTEXT
    )
    commands.add(group, list_failed, "List failed errands.", "list")
    commands.add(group, retry, "Retry failed errands.")
    app.add_typer(group, name="errands", short_help="See and retry failed errands.")


def list_failed(full: Full = False, *, connection: ConnectionOptions, json: Json = False) -> None:
    """List the errands whose latest attempt has failed: work that workers do beside running code, such as
    checking early answers and firing schedules; and those being tried now. One that was set aside is not
    tried again by itself.

    \b
    Example:
      polos errands list
    """
    found = connection.run(errands.list_failed)
    if json:
        print_json(found)
    elif not found:
        note("no failed errands")
    else:
        titles = ("ERRAND", "KIND", "STATUS", "ATTEMPTS", "TRIED", "ERROR")
        with shortening(full):
            table(titles, [_row(one) for one in found])


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    columns = one["errand"], one["kind"], one["status"], str(one["attempts"]), ago(one["tried_at"])
    return (*columns, Long(one["error"] or ""))


def retry(
    name: Annotated[
        str | None, typer.Argument(metavar="ERRAND", help="As `polos errands list` has it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Retry all that have failed.")] = False,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """Have failed errands tried again now, with all their attempts. Do this once the cause is removed, for
    example by a new release.

    \b
    Examples:
      polos errands retry 'y3f2a... approve'
      polos errands retry --all
    """
    if (name is None) != every:
        raise UsageError("name one errand, or pass --all")
    retried = connection.run(lambda client: _retry(client, name))
    if json:
        print_json({"retried": retried})
    for one in () if json else retried:
        line("retried ", (one, "bold"))
    if not retried and not json:
        note("no failed errands")


async def _retry(client: PolosClient, name: str | None) -> list[str]:
    if name is None:
        found = await errands.list_failed(client)
        names = [one["errand"] for one in found if one["status"] != "running"]
    else:
        names = [name]
    for one in names:
        await errands.retry(client, one)
    return names
