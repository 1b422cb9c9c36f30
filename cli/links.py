"""`polos link`: print a signed link to one suspension."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError
from polos_redis.links import Links, Scope

from . import commands
from .options import AnswerableId, ConnectionOptions, Json, StepKey
from .output import note, print_json, write
from .suspensions import only_suspension
from .times import utc


def add_to(app: typer.Typer) -> None:
    commands.add(app, link, "Print a signed link to a suspension.")


def link(
    execution_id: AnswerableId,
    step_key: StepKey = None,
    name: Annotated[
        str | None,
        typer.Option("--for", metavar="NAME", help="Who will use the link; recorded with the decision."),
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="A group that this person belongs to. Repeatable."),
    ] = None,
    view: Annotated[bool, typer.Option("--view", help="Allow viewing only, no decision.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            envvar="POLOS_LINK_SECONDS",
            show_default="604800",
            help="How long the link is valid.",
        ),
    ] = None,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """Print a signed link to the page of a suspension. Anyone who has the link can use it without a key, so
    send it to nobody else.

    Set POLOS_PUBLIC_URL (the address of the page) and POLOS_SECRET (the signing key) to the values that
    `polos serve` uses.

    \b
    Examples:
      polos link 3f2a... --for alice@example.com
      polos link 3f2a... high_value_approval --for bob --group finance --seconds 3600
    """
    links = Links.from_settings(connection.client().namespace, link_seconds=seconds)
    if links is None or links.public_url is None or not links.secrets:
        raise ConfigurationError(
            "a link needs POLOS_PUBLIC_URL (the address of the approval page) and POLOS_SECRET (the signing "
            "key): set both to the values that `polos serve` uses"
        )
    scope: Scope = "view" if view else "decide"
    suspension = connection.run(lambda client: _suspension(client, execution_id, step_key))
    place = suspension["execution_id"], suspension["step_key"], suspension["run"]
    created_at = datetime.fromisoformat(suspension["execution_created_at"])
    address = links.url(*place, created_at, scope=scope, name=name, groups=groups or ())
    signed = links.read(address.rpartition("=")[2])
    if json:
        print_json(
            {
                "url": address,
                "execution_id": signed.execution_id,
                "step_key": signed.step_key,
                "run": signed.run,
                "scope": signed.scope,
                "name": signed.name,
                "groups": list(signed.groups),
                "expires_at": signed.expires_at.isoformat(timespec="milliseconds"),
            },
            secrets=True,
        )
        return
    if suspension["status"] != "open":
        status = suspension["status"]
        note(f"{signed.step_key} of {signed.execution_id} is {status}: it can no longer be decided")
    note(f"for {signed.name or 'anyone who has it'}, to {signed.scope}, until {utc(signed.expires_at)}:")
    write(address)


async def _suspension(client: PolosClient, execution_id: str, step_key: str | None) -> dict[str, Any]:
    if step_key is None:
        execution_id, step_key = only_suspension(await client.get_execution(execution_id))
    return await client.get_suspension(execution_id, step_key)
