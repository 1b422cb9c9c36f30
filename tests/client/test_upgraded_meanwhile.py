"""A namespace that is upgraded while processes of an earlier release are connected: they notice, stop, and
lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from polos_redis import Polos, PolosClient, ReleaseTooOldError, Worker, WorkflowContext, events, workflow
from polos_redis.connection import session
from polos_redis.state import keys
from polos_redis.state.layout import KNOWN_FORMAT
from polos_redis.wire.servers import ranges
from polos_redis.wire.urls import split
from tests.harness.command import POLOS, Command, Running
from tests.harness.formats import store
from tests.harness.running import soon, until, working
from tests.harness.serving import calling
from tests.invariants.state import RawConnection, masters

NEWER = KNOWN_FORMAT + 1
SAID = (
    f"needs a release that reads format {NEWER}, and this one reads up to format {KNOWN_FORMAT}: deploy the "
    "release that is in use there"
)

FLOWS = """
import asyncio, pathlib
from polos_redis import workflow

async def until_open(gate):
    pathlib.Path(gate + " reached").touch()
    while not pathlib.Path(gate).exists():
        await asyncio.sleep(0.01)
    return gate

@workflow(id="gated")
async def gated(ctx, gate: str):
    first = await ctx.step.run("gate", until_open, gate)
    return [first, await ctx.step.run("after", until_open, "after " + gate)]

@workflow(id="asks")
async def asks(ctx):
    return (await ctx.step.suspend("ok"))["data"]
"""
NEWER_FLOWS = f"from polos_redis.state import layout\nlayout.KNOWN_FORMAT = {NEWER}\n{FLOWS}"


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Command]:
    (tmp_path / "older.py").write_text(FLOWS)
    (tmp_path / "newer.py").write_text(NEWER_FLOWS)
    yield Command(redis_url, namespace, tmp_path)
    store(redis_url, namespace, minimum_reader=KNOWN_FORMAT)


def upgrade(url: str, namespace: str) -> None:
    """What the first process of a release does that earlier ones can't read."""
    store(url, namespace, format=NEWER, minimum_reader=NEWER)


async def test_workers_stop_and_hand_back_what_they_hold(
    polos: Command, redis_url: str, namespace: str
) -> None:
    folder, options = polos.folder, ("--lease-seconds", "3", "--grace-seconds", "2", "--concurrency", "2")
    async with PolosClient(redis_url, namespace) as client:
        with (
            polos.start(POLOS, "worker", "older.py", *options) as one,
            polos.start(POLOS, "worker", "older.py", *options) as other,
        ):
            one.wait_for("worker ready")
            other.wait_for("worker ready")
            asked = await client.invoke("asks")
            await until(lambda: client.list_suspensions())
            held = [await client.invoke("gated", f"gate {number}") for number in range(6)]
            reached = [folder / f"gate {number} reached" for number in range(6)]
            await until(lambda: sum(path.exists() for path in reached) == 4)
            within_grace = next(n for n in range(6) if reached[n].exists())
            upgrade(redis_url, namespace)
            await until(lambda: "worker stops" in one.err and "worker stops" in other.err)
            (folder / f"gate {within_grace}").touch()
            for worker in (one, other):
                assert await worker.ended() == 78, worker.err
                _said_once(worker)
        store(redis_url, namespace, minimum_reader=KNOWN_FORMAT)  # to look at it
        for handle in held:
            found = await client.get_execution(handle.id)
            assert (found["status"], found["lost_deliveries"]) == ("queued", 0)
        assert await client.get_execution(asked.id)
        upgrade(redis_url, namespace)
        with polos.start(POLOS, "worker", "newer.py") as heir:
            heir.wait_for("worker ready")
            for number in range(6):
                (folder / f"gate {number}").touch()
                (folder / f"after gate {number}").touch()
            store(redis_url, namespace, minimum_reader=KNOWN_FORMAT)
            for number, handle in enumerate(held):
                assert await handle.result(timeout=40) == [f"gate {number}", f"after gate {number}"]
            await client.resume(suspend_execution_id=asked.id, suspend_step_key="ok", data=True)
            assert await asked.result(timeout=40) is True
            heir.signal(signal.SIGTERM)
            assert await heir.ended() == 0


def _said_once(process: Running) -> None:
    """It has logged one sentence at ERROR, and ends with it."""
    (said,) = [line for line in process.err.splitlines() if " ERROR " in line]
    assert " stops: namespace " in said and SAID in said
    assert process.err.splitlines()[-1].startswith("polos: namespace ")
    assert "Traceback" not in process.err


async def test_a_worker_of_the_newer_release_stays(polos: Command, redis_url: str, namespace: str) -> None:
    with contextlib.ExitStack() as stack:
        older = stack.enter_context(polos.start(POLOS, "worker", "older.py", "--lease-seconds", "3"))
        older.wait_for("worker ready")
        stack.enter_context(polos.worker("newer.py", "--lease-seconds", "3"))
        upgrade(redis_url, namespace)
        assert await older.ended() == 78
        store(redis_url, namespace, minimum_reader=KNOWN_FORMAT)
        async with PolosClient(redis_url, namespace) as client:
            handle = await client.invoke("asks")
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="ok", data="yes", early=True)
            assert await handle.result(timeout=40) == "yes"


async def test_a_server_stops(polos: Command, redis_url: str, namespace: str) -> None:
    with polos.start(POLOS, "serve", "--insecure-dev", "--port", "0") as server:
        server.wait_for("server ready")
        found = re.search(r"(http://[\w.:]+?)/api/v1", server.err)
        assert found is not None
        async with (
            httpx2.AsyncClient(timeout=60) as http,
            http.stream("GET", f"{found[1]}/api/v1/topics/quiet/events") as stream,
        ):
            assert stream.status_code == 200
            upgrade(redis_url, namespace)
            assert await server.ended() == 78, server.err
        _said_once(server)
        assert "server stopped" in server.err


async def test_requests_are_refused_until_the_server_has_stopped(
    polos: Command, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FORMAT_SECONDS", 0.05)
    async with PolosClient(redis_url, namespace) as client, calling(client) as api:
        assert (await api.get("/api/v1/executions")).status_code == 200
        upgrade(redis_url, namespace)
        answers: list[Any] = []

        async def refused() -> bool:
            answers.append(await api.get("/api/v1/executions"))
            return bool(answers[-1].status_code == 503)

        await until(refused)
        for answer in (answers[-1], await api.get("/readyz")):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:polos:problem:release-too-old"
            assert "format" not in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) > 0


async def test_a_client_is_refused_and_goes_on_if_the_upgrade_is_taken_back(
    polos: Command, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FORMAT_SECONDS", 0.05)
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke("asks")
        result = asyncio.create_task(handle.result())
        stream = asyncio.create_task(_read(events.stream_workflow(client, handle.id, handle.id)))
        await until(lambda: bool(_ends(client)))
        upgrade(redis_url, namespace)
        with pytest.raises(ReleaseTooOldError, match=SAID):
            await until(lambda: _called(client))
        for waiting in (result, stream):
            with pytest.raises(ReleaseTooOldError, match=SAID):
                await soon(waiting)
        with pytest.raises(ReleaseTooOldError):
            await client.invoke("asks")
        store(redis_url, namespace, minimum_reader=KNOWN_FORMAT)
        assert len(await client.list_executions()) == 1


async def _called(client: PolosClient) -> bool:
    await client.list_executions()
    return False


async def _read(stream: Any) -> list[Any]:
    return [event async for event in stream]


def _ends(client: PolosClient) -> Any:
    return client._sessions[asyncio.get_running_loop()]._ends


gates: dict[str, asyncio.Event] = {}


@workflow(id="calls-in-a-step")
async def calls_in_a_step(ctx: WorkflowContext) -> int:
    return await ctx.step.run("count", _count, max_retries=0)


async def _count() -> int:
    gates["reached"].set()
    await gates["go"].wait()
    for _ in range(5):
        found = await CLIENT[0].list_executions()
    gates["counted"].set()
    return len(found)


CLIENT: list[PolosClient] = []


async def test_the_code_of_a_workflow_is_not_refused(
    polos: Command, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is told would be its own failure. Its worker stops, and hands it back."""
    monkeypatch.setattr(session, "FORMAT_SECONDS", 0.05)
    gates.update((name, asyncio.Event()) for name in ("reached", "go", "counted"))
    options = {"lease_seconds": 600.0}  # it does not look during the test
    async with Polos(
        url=redis_url, namespace=namespace, workflows=[calls_in_a_step], worker_options=options
    ) as client:
        CLIENT[:] = [client]
        handle = await calls_in_a_step.invoke(client)
        await soon(gates["reached"].wait())
        upgrade(redis_url, namespace)
        with pytest.raises(ReleaseTooOldError):
            await until(lambda: _called(client))
        gates["go"].set()
        await soon(gates["counted"].wait())
        store(redis_url, namespace, minimum_reader=KNOWN_FORMAT)
        assert await handle.result(timeout=20) == 1


async def test_a_worker_in_a_program_raises(polos: Command, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        worker = Worker(client, [calls_in_a_step], lease_seconds=0.6, handle_signals=False)
        run = asyncio.create_task(worker.run())
        await soon(worker.ready.wait())
        upgrade(redis_url, namespace)
        with pytest.raises(ReleaseTooOldError, match=SAID):
            await soon(run)
        assert not worker.active


@workflow(id="upgraded-child")
async def child(ctx: WorkflowContext) -> str:
    return "of the child"


@workflow(id="starts-a-child")
async def starts_a_child(ctx: WorkflowContext) -> Any:
    gates["reached"].set()
    await gates["go"].wait()
    return await ctx.step.invoke_and_wait("child", "upgraded-child")


async def test_a_worker_that_is_refused_at_a_new_connection_fails_nothing(
    polos: Command, redis_url: str, namespace: str
) -> None:
    """Several servers are compared at each new connection: here the first one is, which has the definition of
    the child, while that of the execution can still be written to."""
    gates.update((name, asyncio.Event()) for name in ("reached", "go"))
    first = masters(redis_url)[0]
    async with PolosClient(redis_url, namespace) as client:
        older = Worker(
            client, [starts_a_child, child], lease_seconds=3, grace_seconds=0.5, handle_signals=False
        )
        run = asyncio.create_task(older.run())
        await soon(older.ready.wait())
        on_the_first = ranges(client.partitions, len(split(redis_url)))[0]
        handle = await starts_a_child.invoke(client)
        while len(split(redis_url)) > 1 and keys.partition_of(handle.id, client.partitions) in on_the_first:
            await client.cancel(handle.id)
            handle = await starts_a_child.invoke(client)
        await soon(gates["reached"].wait())
        await until(lambda: [one for one in older.active if one.id == handle.id and one.started])
        upgrade(redis_url, namespace)
        with RawConnection(first) as connection:
            connection.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        gates["go"].set()
        with pytest.raises(ReleaseTooOldError, match=SAID):
            await soon(run)
    store(redis_url, namespace, minimum_reader=KNOWN_FORMAT)
    async with PolosClient(redis_url, namespace) as client, working(client, starts_a_child, child):
        ended = await soon(client.wait_for_end(handle.id))
        assert ended.status == "completed"
