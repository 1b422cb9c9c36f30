"""`polos keys`: create, list and revoke API keys."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from polos_redis import apikeys
from polos_redis.apikeys import ApiKey

from . import commands
from .completion import workflow_ids
from .options import ConnectionOptions, Full, Json
from .output import Long, Part, line, note, print_json, shortening, write
from .tables import table
from .times import ago, iso, utc

DAY_SECONDS = 86400.0


class Scope(StrEnum):
    read = "read"
    invoke = "invoke"
    approve = "approve"
    admin = "admin"


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Manage API keys.", context_settings=commands.CONTEXT)
    commands.add(group, create, "Create a key.")
    commands.add(group, list_keys, "List keys.", "list")
    commands.add(group, revoke, "Revoke one key, or all keys of a name.")
    app.add_typer(group, name="keys", short_help="Manage API keys.")


def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Who will use the key; recorded with every decision.")
    ],
    scope: Annotated[list[Scope], typer.Option(help="What the key allows. Repeatable.")],
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="A group that the key's user belongs to. Repeatable."),
    ] = None,
    workflows: Annotated[
        list[str] | None,
        typer.Option(
            "--workflow",
            metavar="WORKFLOW_ID",
            show_default="all",
            autocompletion=workflow_ids,
            help="A workflow to restrict the key to. Repeatable.",
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", show_default="until revoked", help="Days until the key expires."),
    ] = None,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """Create an API key and print its secret. The secret is not stored and can't be shown again.

    Scopes: read shows executions and suspensions; invoke starts, cancels and retries; approve answers as NAME
    and as a member of its groups; admin allows everything, including delete. With --workflow, the key covers
    only executions of these workflows and their descendants; it does not cover those that other workflows
    start as children.

    \b
    Examples:
      polos keys create alice@example.com --scope read --scope approve --group finance
      polos keys create shop-backend --scope invoke --days 90 --json
      polos keys create billing --scope invoke --scope read --workflow charge --workflow refund
    """
    seconds = None if days is None else days * DAY_SECONDS
    key, secret = connection.run(
        lambda client: apikeys.create(client, name, scope, groups or (), seconds, workflows or ())
    )
    if json:
        print_json({**_plain(key), "secret": secret}, secrets=True)
        return
    covered = f" on {', '.join(key.workflows)}" if key.workflows else ""
    note(f"key {key.id} for {name}: {', '.join(key.scopes)}{covered}; valid {_until(key)}; shown only once:")
    write(secret)


def list_keys(full: Full = False, *, connection: ConnectionOptions, json: Json = False) -> None:
    """List all keys, oldest first, including expired and revoked ones.

    \b
    Example:
      polos keys list
    """
    keys = connection.run(apikeys.list_keys)
    if json:
        print_json({"keys": [_plain(key) for key in keys]})
    elif not keys:
        note("no keys")
    else:
        titles = ("ID", "CREATED", "STATE", "SCOPES", "WORKFLOWS", "GROUPS", "NAME")
        with shortening(full):
            table(titles, [_row(key) for key in keys])


def revoke(
    id_or_name: Annotated[
        str, typer.Argument(metavar="ID_OR_NAME", help="A key's id, or the name of its user.")
    ],
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """Revoke one key, or all keys of a name, at once. Links that were signed for that name stay valid.

    \b
    Examples:
      polos keys revoke 3f2a9c01d4e5b6f7
      polos keys revoke alice@example.com
    """
    revoked = connection.run(lambda client: apikeys.revoke(client, id_or_name))
    if json:
        print_json({"keys": [_plain(key) for key in revoked]})
        return
    for key in revoked:
        line("revoked ", (key.id, "bold"), f" of {key.name}")


def _until(key: ApiKey) -> str:
    return f"until {utc(key.expires_at)}" if key.expires_at else "until revoked"


def _state(key: ApiKey) -> Part:
    if key.revoked_at is not None:
        return "revoked", "red"
    if not key.holds:
        return "expired", "yellow"
    return f"expires {ago(key.expires_at)}" if key.expires_at else "until revoked"


def _row(key: ApiKey) -> tuple[Part, ...]:
    groups = Long(",".join(key.groups) or "-")
    workflows = Long(",".join(key.workflows) or "all")
    return key.id, ago(key.created_at), _state(key), ",".join(key.scopes), workflows, groups, key.name


def _plain(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "groups": list(key.groups),
        "scopes": list(key.scopes),
        "workflows": list(key.workflows),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "revoked_at": iso(key.revoked_at),
    }
