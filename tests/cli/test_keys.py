"""`polos keys` and `polos link`: API keys, and links to open suspensions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from polos_redis import PolosClient, WorkflowContext, apikeys, workflow
from polos_redis.links import Links
from tests.harness.command import Command
from tests.harness.running import running

SECRET = "a secret that is known to nobody here"


@workflow(id="link-approval")
async def approval(ctx: WorkflowContext, key: str) -> Any:
    return (await ctx.step.suspend(key, data={"what": "a charge"}))["data"]


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@pytest.fixture
def signing(polos: Command) -> Command:
    polos.environment |= {"POLOS_PUBLIC_URL": "https://polos.example.com", "POLOS_SECRET": SECRET}
    return polos


def test_the_scopes_match_those_of_keys() -> None:
    commands = import_module("polos_redis.cli.keys")
    assert tuple(commands.Scope) == apikeys.SCOPES


async def test_a_key_is_created_listed_and_revoked(polos: Command, client: PolosClient) -> None:
    nothing = await polos("keys", "list")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no keys\n")

    scopes = ("--scope", "approve", "--scope", "read")
    made = await polos("keys", "create", "alice", *scopes, "--group", "ops", "--group", "audit")
    assert made.code == 0
    (key,) = await apikeys.list_keys(client)
    assert await apikeys.find(client, made.out.removesuffix("\n")) == key
    assert (key.name, key.scopes, key.groups) == ("alice", ("read", "approve"), ("ops", "audit"))
    said = f"key {key.id} for alice: read, approve; valid until revoked; shown only once:\n"
    assert made.err == said

    only = ("--workflow", "charge", "--workflow", "refund", "--workflow", "charge")
    made = await polos("keys", "create", "shop", "--scope", "invoke", *only, "--days", "90", "--json")
    other = (await apikeys.list_keys(client))[1]
    assert await apikeys.find(client, made.json["secret"]) == other
    assert other.expires_at == other.created_at + timedelta(days=90)
    row = {
        "id": other.id,
        "name": "shop",
        "groups": [],
        "scopes": ["invoke"],
        "workflows": ["charge", "refund"],
        "created_at": other.created_at.isoformat(timespec="milliseconds"),
        "expires_at": other.expires_at.isoformat(timespec="milliseconds"),
        "revoked_at": None,
    }
    assert made.json == {**row, "secret": made.json["secret"]}

    assert (await polos("keys", "revoke", "alice")).out == f"revoked {key.id} of alice\n"
    titles, first, second = (await polos("keys", "list")).out.splitlines()
    assert titles.split() == ["ID", "CREATED", "STATE", "SCOPES", "WORKFLOWS", "GROUPS", "NAME"]
    assert first.startswith(key.id) and first.split()[-5:] == [
        "revoked",
        "read,approve",
        "all",
        "ops,audit",
        "alice",
    ]
    assert second.startswith(other.id) and "expires 2" in second
    assert second.split()[-4:] == ["invoke", "charge,refund", "-", "shop"]
    listed = await polos("keys", "list", "--json")
    assert listed.json["keys"][1] == row
    assert [one["revoked_at"] is None for one in listed.json["keys"]] == [False, True]
    assert made.json["secret"] not in listed.out and "secret" not in listed.out

    made = await polos("keys", "create", "billing", "--scope", "read", "--workflow", "charge")
    assert ": read on charge; valid until revoked" in made.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "alice"), 2, "--scope"),
        (("create", "alice", "--scope", "write"), 2, "write"),
        (("create", "group:ops", "--scope", "read"), 1, "a key's name can't be"),
        (("create", "alice", "--scope", "read", "--days", "-1"), 1, "expires_in must be a positive number"),
        (("revoke", "carol"), 1, "there is no API key 'carol'"),
    ],
)
def test_invalid_arguments_are_explained(
    polos: Command, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = polos.here("keys", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err and "Traceback" not in done.err


async def test_a_link_leads_to_the_open_suspension(signing: Command, redis_url: str, namespace: str) -> None:
    links = Links([SECRET], namespace, "https://polos.example.com", 60)
    async with running(redis_url, namespace, approval) as run:
        handle = await approval.invoke(run.client, "a/b")
        await run.opened(handle, "a/b")

        made = await signing("link", handle.id)
        page, _, token = made.out.removesuffix("\n").partition("?token=")
        assert page == f"https://polos.example.com/approve/{handle.id}/a%2Fb"
        link = links.read(token)
        assert (link.execution_id, link.step_key, link.run) == (handle.id, "a/b", 1)
        assert (link.scope, link.name, link.groups) == ("decide", None, ())
        assert made.err.startswith("for anyone who has it, to decide, until ")

        options = ("--for", "bob", "--group", "finance", "--view", "--seconds", "3600", "--json")
        created = (await signing("link", handle.id, "a/b", *options)).json
        link = links.read(created["url"].partition("?token=")[2])
        assert (link.scope, link.name, link.groups) == ("view", "bob", ("finance",))
        assert link.expires_at < datetime.now(UTC) + timedelta(hours=1, seconds=1)
        assert created == {
            "url": created["url"],
            "execution_id": handle.id,
            "step_key": "a/b",
            "run": 1,
            "scope": "view",
            "name": "bob",
            "groups": ["finance"],
            "expires_at": link.expires_at.isoformat(timespec="milliseconds"),
        }

        await run.answer(handle, "a/b")
        await run.result(handle)
    late = await signing("link", handle.id, "a/b")
    assert late.code == 0
    assert late.err.splitlines()[0] == f"a/b of {handle.id} is answered: it can no longer be decided"


async def test_an_unknown_target_gets_no_link(signing: Command, redis_url: str, namespace: str) -> None:
    unknown = await signing("link", "0" * 32)
    assert unknown.code == 1 and "there is no execution" in unknown.sentence
    async with running(redis_url, namespace, approval) as run:
        handle = await approval.invoke(run.client, "approval")
        await run.opened(handle, "approval")
        other = await signing("link", handle.id, "payment")
        assert other.code == 1 and "no suspension 'payment'; open: 'approval'" in other.sentence


@pytest.mark.parametrize("missing", ["POLOS_PUBLIC_URL", "POLOS_SECRET"])
def test_a_link_needs_a_public_url_and_a_secret(signing: Command, missing: str) -> None:
    signing.environment[missing] = ""
    done = signing.here("link", "0" * 32)
    assert done.code == 1
    assert "POLOS_PUBLIC_URL" in done.sentence and "POLOS_SECRET" in done.sentence
    assert SECRET not in done.sentence


@pytest.mark.parametrize("command", [("keys", "create"), ("keys", "list"), ("keys", "revoke"), ("link",)])
def test_each_command_has_help_with_an_example(polos: Command, command: tuple[str, ...]) -> None:
    shown = polos.here(*command, "--help")
    assert shown.code == 0
    assert f"    polos {' '.join(command)}" in shown.out
    assert "--json" in shown.out
