"""`polos keys`: who may call the REST API and use the pages, and as whom."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from polos_redis import apikeys
from polos_redis.apikeys import ApiKey

from .options import PATIENCE_SECONDS, Json, Namespace, Patience, Url, ask, client_of
from .output import Part, line, moment, note, print_json, table

DAY_SECONDS = 86400.0


class Scope(StrEnum):
    read = "read"
    invoke = "invoke"
    approve = "approve"
    admin = "admin"


group = typer.Typer(
    no_args_is_help=True,
    help="Create, list and revoke the keys of the REST API.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="keys", short_help="Create, list and revoke the keys of the REST API.")


@group.command(short_help="Create a key.")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who uses it, as decisions will have it.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; several times for several.")],
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="A group that NAME is in; several times for several."),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", show_default="until revoked", help="For how long it holds."),
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Create a key and print its secret, once: it is stored nowhere.

    read: look at executions and suspensions. invoke: start, cancel and retry. approve: answer as NAME, and as
    one of its groups. admin: everything, also deleting.

    \b
    Examples:
      polos keys create alice@example.com --scope read --scope approve --group finance
      polos keys create shop-backend --scope invoke --days 90 --json
    """
    client = client_of(url, namespace, patience)
    seconds = None if days is None else days * DAY_SECONDS
    key, secret = ask(client, lambda: apikeys.create(client, name, scope, groups or (), seconds))
    if json:
        print_json({**_plain(key), "secret": secret})
        return
    note(f"key {key.id} of {name}: {', '.join(key.scopes)}; {_until(key)}; it is shown this once:")
    print(secret, flush=True)


@group.command("list", short_help="List keys.")
def list_keys(
    url: Url = None, namespace: Namespace = None, patience: Patience = PATIENCE_SECONDS, json: Json = False
) -> None:
    """List all keys, oldest first; those that hold no longer too.

    \b
    Example:
      polos keys list
    """
    client = client_of(url, namespace, patience)
    found = ask(client, lambda: apikeys.list_keys(client))
    if json:
        print_json({"keys": [_plain(key) for key in found]})
    elif not found:
        note("no keys")
    else:
        titles = ("ID", "CREATED", "STATE", "SCOPES", "GROUPS", "NAME")
        table(
            titles,
            [
                (
                    key.id,
                    moment(_iso(key.created_at)),
                    _state(key),
                    ",".join(key.scopes),
                    ",".join(key.groups) or "-",
                    key.name,
                )
                for key in found
            ],
        )


@group.command(short_help="Revoke a key, or all keys of a name.")
def revoke(
    id_or_name: Annotated[str, typer.Argument(metavar="ID_OR_NAME", help="A key's id, or whose keys.")],
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Revoke a key, or all keys of a name: from now on it opens nothing. Links that were signed still do.

    \b
    Examples:
      polos keys revoke 3f2a9c01d4e5b6f7
      polos keys revoke alice@example.com
    """
    client = client_of(url, namespace, patience)
    revoked = ask(client, lambda: apikeys.revoke(client, id_or_name))
    if json:
        print_json({"keys": [_plain(key) for key in revoked]})
        return
    for key in revoked:
        line("revoked ", (key.id, "bold"), f" of {key.name}")


def _until(key: ApiKey) -> str:
    return f"until {moment(_iso(key.expires_at))}" if key.expires_at else "until it is revoked"


def _state(key: ApiKey) -> Part:
    if key.revoked_at is not None:
        return "revoked", "red"
    return (_until(key), "") if key.holds else ("expired", "yellow")


def _plain(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "groups": list(key.groups),
        "scopes": list(key.scopes),
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
    }


def _iso(when: Any) -> str | None:
    return None if when is None else when.isoformat(timespec="milliseconds")
