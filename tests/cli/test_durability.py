"""--durability and --replicas: commands that return once Redis has confirmed their change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.embedded import EmbeddedServer
from tests.harness.command import Command
from tests.harness.programs import skip_without
from tests.harness.servers import KINDS, server_binaries
from tests.invariants.state import RawConnection
from tests.invariants.state_invariants import check


@workflow(id="cli-durable")
async def asks(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("permission")


@pytest.fixture
def redis8(tmp_path: Path, namespace: str) -> Iterator[EmbeddedServer]:
    found = server_binaries()["redis8"]
    if isinstance(found, str):
        skip_without(KINDS["redis8"], found)
    with EmbeddedServer(tmp_path / "redis", port=0, binary=found) as server:
        yield server
        check(server.url, namespace)


@pytest.fixture
def polos(redis8: EmbeddedServer, namespace: str, tmp_path: Path) -> Command:
    return Command(redis8.url, namespace, tmp_path)


def waits(server: EmbeddedServer) -> int:
    """How often WAITAOF was executed."""
    with RawConnection(server.url) as connection:
        for line in connection.do("INFO", "commandstats").decode().splitlines():
            if line.startswith("cmdstat_waitaof:calls="):
                return int(line.partition("=")[2].partition(",")[0])
    return 0


async def test_commands_have_their_change_confirmed(
    polos: Command, redis8: EmbeddedServer, namespace: str
) -> None:
    async with PolosClient(redis8.url, namespace) as client:
        handle = await client.invoke(asks)
        for command in (
            ("invoke", "cli-durable"),
            ("resume", handle.id, "permission", "--approve", "--early"),
            ("cancel", handle.id),
            ("delete", handle.id, "--yes"),
        ):
            before = waits(redis8)
            done = await polos(*command)
            assert (done.code, waits(redis8)) == (0, before), done.err
        handle = await client.invoke(asks)
        for command in (
            ("invoke", "cli-durable"),
            ("resume", handle.id, "permission", "--approve", "--early"),
            ("cancel", handle.id),
            ("delete", handle.id, "--yes"),
        ):
            before = waits(redis8)
            done = await polos(*command, "--durability", "fsync")
            assert done.code == 0 and waits(redis8) > before, done.err


async def test_a_server_that_cannot_confirm_is_one_sentence(polos: Command, namespace: str) -> None:
    done = await polos("invoke", "cli-durable", "--durability", "replicated", "--replicas", "2")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(
        'polos: durability="replicated" waits for 2 replicas, and Redis at 127.0.0.1:'
    )
    assert done.err.endswith("has 0 connected: start more replicas, or lower POLOS_REPLICAS\n")


async def test_serve_refuses_to_start_on_such_a_server(polos: Command, redis8: EmbeddedServer) -> None:
    with RawConnection(redis8.url) as connection:
        connection.do("CONFIG", "SET", "appendonly", "no")
    polos.environment["POLOS_DURABILITY"] = "fsync"
    done = await polos("serve", "--insecure-dev", "--port", "0")
    assert done.code == 1
    assert "keeps none: set appendonly to yes" in done.err.splitlines()[-1]


def test_an_unknown_durability_is_a_usage_error(polos: Command) -> None:
    done = polos.here("invoke", "cli-durable", "--durability", "disk")
    assert done.code == 2 and "'server', 'fsync', 'replicated'" in done.err
