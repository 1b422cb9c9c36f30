"""Which commands a worker needs of its server, and what it says of a server that lacks or refuses them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from polos_redis import ConfigurationError, PolosClient, WorkflowContext, events, workflow
from polos_redis.errors import PolosError
from polos_redis.state.needed_commands import SENT, needed
from polos_redis.state.store import Store
from polos_redis.worker.worker import Worker
from tests import ROOT
from tests.harness.impostors import INFO, UNKNOWN, impostor
from tests.harness.running import soon, until
from tests.harness.servers import ChaosServer

OPTIONAL = (
    *("client", "client|setname", "client|id", "client|unblock", "client|setinfo", "client|no-evict"),
    *("client|tracking", "hello", "info", "config", "config|get", "script", "script|load", "acl", "command"),
)
CATEGORIES = (
    *("@keyspace", "@read", "@write", "@set", "@sortedset", "@list", "@hash", "@string", "@bitmap"),
    *("@hyperloglog", "@geo", "@stream", "@pubsub", "@admin", "@fast", "@slow", "@blocking", "@dangerous"),
    *("@connection", "@transaction", "@scripting"),
)


@workflow(id="server-commands")
async def flow(ctx: WorkflowContext) -> str:
    await ctx.step.run("one", lambda: 1)
    resume = await ctx.step.suspend("ok", timeout=60)
    return str(resume["data"])


def worker_on(client: PolosClient) -> Worker:
    return Worker(client, [flow], handle_signals=False)


async def works(url: str, namespace: str) -> None:
    """A worker, its client and a reader of events do all they are for."""
    async with PolosClient(url, namespace) as client:
        worker = worker_on(client)
        running = asyncio.create_task(worker.run())
        ready = asyncio.create_task(worker.ready.wait())
        await soon(asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED))
        if running.done():
            ready.cancel()
            await running
            return
        handle = await flow.invoke(client)
        seen = asyncio.create_task(_events(client, handle.id))

        async def waits() -> bool:
            return await handle.status() == "waiting"

        await until(waits)
        await client.resume(suspend_execution_id=handle.id, suspend_step_key="ok", data="yes")
        assert await soon(handle.result()) == "yes"
        assert (await soon(seen))[-1] == "workflow_finish"
        worker.stop()
        await soon(running)


async def _events(client: PolosClient, execution_id: str) -> list[str]:
    return [event.event_type async for event in events.stream_workflow(client, flow.id, execution_id)]


async def known(store: Store) -> list[str]:
    """The commands that are needed, without those that this server does not have: scripts do without them."""
    names = needed()
    found = await store.wire.call("COMMAND", "INFO", *(name.split()[0] for name in names))
    return [name for name, info in zip(names, found, strict=True) if info is not None]


async def outcome(store: Store, url: str, namespace: str, *rules: str) -> str:
    """The sentence with which a worker of a user with these rules is refused; empty if it works."""
    await store.wire.call("ACL", "SETUSER", "app", "reset", "on", ">secret", "~polos:*", "&polos:*", *rules)
    try:
        await works(url.replace("unix://", "unix://app:secret@"), namespace)
    except PolosError as error:
        return str(error)
    return ""


@pytest.mark.failure(15, 22)
async def test_a_worker_is_refused_by_the_name_of_the_command_it_lacks(
    chaos_server: ChaosServer, namespace: str
) -> None:
    """Each command that is needed, denied alone: refused at the start, with its name. None of them is needed
    without being named, and no worker stands there ready and reads nothing."""
    async with PolosClient(chaos_server.url, namespace) as admin:
        store = await admin.store()
        for name in await known(store):
            rule = "-" + name.lower().replace(" ", "|")
            said = await outcome(store, chaos_server.url, namespace, "+@all", rule)
            assert re.search(rf"\b{name.partition(' ')[0]}\b", said, re.IGNORECASE), (name, said)
            assert "grant the ACL user" in said, (name, said)


@pytest.mark.failure(15, 22)
async def test_a_worker_works_without_what_it_can_do_without(
    chaos_server: ChaosServer, namespace: str
) -> None:
    """CLIENT as a whole first: managed servers have none."""
    async with PolosClient(chaos_server.url, namespace) as admin:
        store = await admin.store()
        for name in OPTIONAL:
            try:
                await store.wire.call("ACL", "SETUSER", "probe", "reset", f"-{name}")
            except PolosError:
                continue  # this server has no such command
            assert await outcome(store, chaos_server.url, namespace, "+@all", f"-{name}") == "", name
        names = await known(store)
        minimal = ["-@all", *(f"+{name.lower().replace(' ', '|')}" for name in names)]
        assert await outcome(store, chaos_server.url, namespace, *minimal) == ""


@pytest.mark.failure(22)
async def test_a_denied_category_is_refused_or_not_needed(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin:
        store = await admin.store()
        for category in CATEGORIES:
            said = await outcome(store, chaos_server.url, namespace, "+@all", f"-{category}")
            members = await store.wire.call("ACL", "CAT", category[1:])
            lacking = {name.decode().upper().replace("|", " ") for name in members} & set(needed())
            assert bool(said) == bool(lacking), (category, said, lacking)
            if said:
                named = {name for name in lacking if re.search(rf"\b{name}\b", said, re.IGNORECASE)}
                assert named, (category, said)


async def test_keys_and_channels_of_others_are_not_enough(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin:
        store = await admin.store()
        for rules in (("resetkeys", "~other:*"), ("resetchannels", "&other:*"), ("resetkeys", "%R~polos:*")):
            said = await outcome(store, chaos_server.url, namespace, "+@all", *rules)
            assert "~polos:* &polos:*" in said, (rules, said)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("CLIENT", ""),
        ("CONFIG", ""),
        ("INFO", ""),
        ("XADD", "does not know XADD: use Redis 7.0 or Valkey 8.0"),
    ],
)
async def test_a_server_whose_commands_are_renamed(
    binary: Path, namespace: str, tmp_path: Path, command: str, said: str
) -> None:
    with ChaosServer(tmp_path / "data", binary=binary, config={"rename-command": f'{command} ""'}) as server:
        if said:
            with pytest.raises(ConfigurationError, match=said):
                await works(server.url, namespace)
        else:
            await works(server.url, namespace)


@pytest.mark.parametrize(
    ("kind", "reply", "said"),
    [
        ("Dragonfly", UNKNOWN, "this is Dragonfly df-v1.40.1: it keeps no log of its writes"),
        ("Garnet", UNKNOWN, "this is Garnet 1.0.84: it has no streams"),
        (
            "Kvrocks",
            b"$-1\r\n",
            "can't run the scripts of polos-redis: use Redis 7.0 or Valkey 8.0, or newer",
        ),
        ("unknown", b"-ERR Error compiling script: unexpected symbol near '#'\r\n", "Error compiling script"),
        ("unknown", b"*2\r\n*1\r\n:1\r\n*0\r\n", f"does not know {needed()[0]}: use Redis 7.0 or Valkey"),
        ("unknown", b"*2\r\n*0\r\n*1\r\n:1\r\n", f"may not run {needed()[0]} on the keys polos:"),
    ],
    ids=[
        "Dragonfly",
        "Garnet",
        "without acl_check_cmd",
        "without #!lua",
        "without a command",
        "without a right",
    ],
)
async def test_a_server_of_another_kind_is_refused(
    kind: str, reply: bytes, said: str, namespace: str
) -> None:
    async with impostor(INFO[kind], reply) as url, PolosClient(url, namespace) as client:
        with pytest.raises(PolosError) as caught:
            await soon(worker_on(client).run())
    assert said in str(caught.value)


def _sent() -> Iterator[str]:
    """The commands in the calls of the package: a name in quotes after `call(`, `send(` or `put(`."""
    for path in (ROOT / "polos_redis").rglob("*.py"):
        found = re.findall(
            r'\b(?:call|send|put|ask)\(\s*(?:\w+, )?\(?b?"([A-Z]+)"(?:, b?"([A-Z-]+)")?',
            path.read_text("utf-8"),
        )
        for name, word in found:
            yield (
                f"{name} {word}"
                if name in {"XINFO", "CLIENT", "CONFIG", "SCRIPT", "CLUSTER", "SENTINEL"}
                else name
            )


def test_the_list_of_sent_commands_is_complete() -> None:
    unlisted = {name for name in _sent() if name not in SENT}
    optional = {"CLIENT ID", "CLIENT SETNAME", "CLIENT UNBLOCK", "CONFIG GET", "INFO", "SCRIPT LOAD"}
    optional |= {"BGREWRITEAOF", "WAIT", "WAITAOF"}
    optional |= {
        "CLUSTER INFO",
        "SCAN",
        "XINFO GROUPS",
        "XLEN",
        "ZCOUNT",
    }  # of `polos doctor`, which only looks
    optional |= {"UNLINK"}  # of `polos_redis.testing`, at the end of a world
    elsewhere = {"CLUSTER SLOTS", "SENTINEL GET-MASTER-ADDR-BY-NAME"}  # of a cluster, of a sentinel
    assert unlisted <= optional | elsewhere
    assert {"XREADGROUP", "XREAD", "SSUBSCRIBE", "HGET", "EVALSHA"} <= set(SENT)
