"""`polos link`: an address that lets a person decide one suspension, or look at it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError
from polos_redis.links import Links, Scope

from .answering import the_one
from .options import PATIENCE_SECONDS, Json, Namespace, Patience, Url, ask, client_of
from .output import moment, note, print_json


def add_to(app: typer.Typer) -> None:
    app.command(short_help="Print a signed link to what waits for a person.")(link)


def link(
    execution_id: Annotated[str, typer.Argument(metavar="EXECUTION_ID", help="The execution that waits.")],
    step_key: Annotated[
        str | None,
        typer.Argument(metavar="STEP_KEY", help="Which suspension; not needed when only one is open."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--for", metavar="NAME", help="Who it is for: decisions are in this name.")
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="A group that they are in; several times for several."),
    ] = None,
    view: Annotated[bool, typer.Option("--view", help="Only to look at it, not to decide.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            envvar="POLOS_LINK_SECONDS",
            show_default="604800",
            help="For how long it holds.",
        ),
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Print a signed link to the page of a suspension. Who has it needs no key: give it to nobody else.

    POLOS_PUBLIC_URL says where the page is, POLOS_SECRET signs: both as `polos serve` has them.

    \b
    Examples:
      polos link 3f2a... --for alice@example.com
      polos link 3f2a... high_value_approval --for bob --group finance --seconds 3600
    """
    client = client_of(url, namespace, patience)
    links = Links.from_settings(client.namespace, link_seconds=seconds)
    if links is None or links.public_url is None or not links.secrets:
        raise ConfigurationError(
            "a link needs POLOS_PUBLIC_URL, where the approval page is, and POLOS_SECRET, which signs it: "
            "set both as `polos serve` has them"
        )
    scope: Scope = "view" if view else "decide"
    found = ask(client, lambda: _find(client, execution_id, step_key))
    place = found["execution_id"], found["step_key"], found["run"]
    address = links.url(*place, scope=scope, name=name, groups=groups or ())
    made = links.read(address.rpartition("=")[2])
    if json:
        print_json(
            {
                "url": address,
                "execution_id": made.execution_id,
                "step_key": made.step_key,
                "run": made.run,
                "scope": made.scope,
                "name": made.name,
                "groups": list(made.groups),
                "expires_at": made.expires_at.isoformat(timespec="milliseconds"),
            }
        )
        return
    if found["status"] != "open":
        note(f"{made.step_key} of {made.execution_id} is {found['status']}: nobody can decide it any more")
    whose = made.name or "whoever has it"
    note(f"for {whose}, to {made.scope}, until {moment(made.expires_at.isoformat())}:")
    print(address, flush=True)


async def _find(client: PolosClient, execution_id: str, step_key: str | None) -> dict[str, Any]:
    """The suspension that is meant, and its run."""
    if step_key is None:
        execution_id, step_key = the_one(await client.get_execution(execution_id))
    return await client.get_suspension(execution_id, step_key)
