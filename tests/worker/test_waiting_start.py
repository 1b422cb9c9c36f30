"""A worker that starts while Redis is away waits for it, and what waiting can't mend is an error at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from polos_redis import ConfigurationError, Polos, PolosClient, RedisUnavailableError, Worker
from polos_redis.errors import RedisRefusedError
from polos_redis.testing.model.listener import LoopbackListener
from polos_redis.wire.replies import NotRedisError
from polos_redis.worker import server_checks
from tests.harness.command import POLOS, Command
from tests.harness.fleet_workflows import gated
from tests.harness.impostors import UNKNOWN, impostor
from tests.harness.proxy import Proxy
from tests.harness.running import soon, until
from tests.harness.servers import ChaosServer

FLOW = "from polos_redis import workflow\n@workflow(id='waits-for-redis')\nasync def f(ctx): return 5\n"


@contextlib.asynccontextmanager
async def starting(client: PolosClient) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker that was started, whatever has become of it."""
    worker = Worker(client, [gated], handle_signals=False, lease_seconds=2)
    run = asyncio.create_task(worker.run())
    try:
        yield worker, run
    finally:
        worker.stop()
        worker.stop()
        await asyncio.wait([run])


def waiting(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a worker said it waits for."""
    return [getattr(row, "error", "") for row in caplog.records if row.message == "waiting for Redis"]


@pytest.mark.failure(42)
async def test_a_worker_waits_for_a_server_that_is_not_there(
    chaos_server: ChaosServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    chaos_server.kill()
    url = chaos_server.url.replace("unix://", "unix://default:s3cret@")
    with caplog.at_level(logging.INFO, "polos.worker"):
        async with (
            PolosClient(url, namespace, patience_seconds=0.1) as client,
            starting(client) as (worker, run),
        ):
            await until(lambda: waiting(caplog))
            assert not run.done()
            await asyncio.to_thread(chaos_server.start)
            await soon(worker.ready.wait())
    assert chaos_server.url.removeprefix("unix://") in waiting(caplog)[0]
    assert "s3cret" not in str([vars(row) for row in caplog.records])
    assert "Redis is back" in caplog.text


@pytest.mark.failure(42)
async def test_it_says_what_it_waits_for_every_so_often(
    namespace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_SECONDS", "REPORT_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(server_checks, name, 0.1)
    async with PolosClient(f"unix://{tmp_path}/nobody.sock", namespace) as client, starting(client):
        await until(lambda: len(waiting(caplog)) > 2)


async def stalls(client: PolosClient, server: ChaosServer, proxy: Proxy) -> Callable[[], object]:
    proxy.stall()
    return proxy.flow


async def freezes(client: PolosClient, server: ChaosServer, proxy: Proxy) -> Callable[[], object]:
    server.pause()
    return server.resume


async def closes(client: PolosClient, server: ChaosServer, proxy: Proxy) -> Callable[[], object]:
    """A proxy accepts connections and closes them, as its server is away."""
    server.kill()
    return server.start


async def has_no_room(client: PolosClient, server: ChaosServer, proxy: Proxy) -> Callable[[], object]:
    """The server has all the clients it may have."""
    wire = (await client.store()).wire
    await wire.call("CONFIG", "SET", "maxclients", "1")
    return lambda: wire.send("CONFIG", "SET", "maxclients", "1000")


async def is_read_only(client: PolosClient, server: ChaosServer, proxy: Proxy) -> Callable[[], object]:
    wire = (await client.store()).wire
    await wire.call("CONFIG", "SET", "replica-serve-stale-data", "no")
    await wire.call("REPLICAOF", "127.0.0.1", "1")
    return lambda: wire.send("REPLICAOF", "NO", "ONE")


Trouble = Callable[[PolosClient, ChaosServer, Proxy], Awaitable[Callable[[], object]]]


@pytest.mark.failure(42)
@pytest.mark.parametrize("trouble", [stalls, freezes, closes, has_no_room, is_read_only])
async def test_whatever_a_worker_can_wait_out(
    chaos_server: ChaosServer, namespace: str, caplog: pytest.LogCaptureFixture, trouble: Trouble
) -> None:
    async with (
        Proxy(chaos_server.url) as proxy,
        PolosClient(chaos_server.url, namespace) as client,
        PolosClient(proxy.url, namespace, patience_seconds=0.1) as impatient,
    ):
        end = await trouble(client, chaos_server, proxy)
        async with starting(impatient) as (worker, run):
            await until(lambda: waiting(caplog))
            assert not run.done()
            end()
            await soon(worker.ready.wait())


@pytest.mark.failure(42)
async def test_an_outage_during_the_start_is_waited_out(chaos_server: ChaosServer, namespace: str) -> None:
    """At every request of the start in turn: the reply is lost, and then the server is away for a while."""
    async with Proxy(chaos_server.url) as proxy:
        for marker in (b"maxmemory-policy", b"appendonly", b"queue:", b"HSETNX", b"SSUBSCRIBE"):
            name = f"{namespace}-{marker.decode().lower().rstrip(':')}"
            async with PolosClient(proxy.url, name, patience_seconds=0.1) as client:
                lost = proxy.lose_reply(marker)
                async with starting(client) as (worker, _):
                    await soon(lost.wait())
                    proxy.stall()
                    await asyncio.sleep(0.3)  # the outage itself
                    proxy.reset()
                    proxy.flow()
                    await soon(worker.ready.wait())


# --- what can't be waited out -----------------------------------------------------------


@pytest.mark.failure(42)
@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b""], ids=["speaks first", "answers"])
async def test_a_program_that_is_no_redis_is_an_error_at_once(namespace: str, banner: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        if await reader.read(1000):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
        writer.close()

    async with (
        LoopbackListener(answer) as listener,
        PolosClient(f"redis://127.0.0.1:{listener.port}", namespace) as client,
    ):
        with pytest.raises(NotRedisError, match=r"127\.0\.0\.1:\d+.* is it a Redis server\?"):
            await soon(Worker(client, [gated], handle_signals=False).run())


@pytest.mark.failure(42)
async def test_a_wrong_password_is_an_error_at_once(chaos_server: ChaosServer, namespace: str) -> None:
    url = chaos_server.url.replace("unix://", "unix://nobody:s3cret@")
    async with PolosClient(url, namespace) as client:
        with pytest.raises(RedisRefusedError, match="WRONGPASS"):
            await soon(Worker(client, [gated], handle_signals=False).run())


@pytest.mark.failure(42)
async def test_other_partitions_are_an_error_at_once(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace, partitions=2) as first:
        await first.list_executions()
    async with PolosClient(chaos_server.url, namespace, partitions=4) as client:
        with pytest.raises(ConfigurationError, match="has 2 partitions, not 4"):
            await soon(Worker(client, [gated], handle_signals=False).run())


@pytest.mark.failure(42)
async def test_an_old_server_is_an_error_at_once(namespace: str) -> None:
    old = "# Server\r\nredis_version:6.2.14\r\n"
    async with impostor(old, UNKNOWN) as url, PolosClient(url, namespace) as client:
        with pytest.raises(ConfigurationError, match=r"this is redis 6\.2\.14"):
            await soon(Worker(client, [gated], handle_signals=False).run())


async def test_entering_polos_is_a_call_of_a_client(namespace: str, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nobody.sock"
    with pytest.raises(RedisUnavailableError, match=r"nobody\.sock"):
        async with Polos(url=nowhere, namespace=namespace, patience_seconds=0.1, workflows=[gated]):
            raise AssertionError("there is no server")


# --- stopping ---------------------------------------------------------------------------


@pytest.mark.failure(8, 42)
async def test_a_worker_that_waits_can_be_stopped(namespace: str, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nobody.sock"
    async with PolosClient(nowhere, namespace) as client, starting(client) as (worker, run):
        await until(lambda: client._sessions)
        worker.stop()
        await soon(run)
        assert not worker.ready.is_set()


@pytest.mark.failure(8, 42)
async def test_a_worker_whose_start_is_cut_short_can_be_stopped(
    chaos_server: ChaosServer, namespace: str
) -> None:
    async with Proxy(chaos_server.url) as proxy, PolosClient(proxy.url, namespace) as client:
        lost = proxy.lose_reply(b"SSUBSCRIBE")
        async with starting(client) as (worker, run):
            await soon(lost.wait())
            proxy.stall()
            worker.stop()
            await soon(run)
            assert not worker.ready.is_set()
        proxy.reset()


@pytest.mark.failure(8, 42)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_waits_for_redis_and_can_be_stopped(
    namespace: str, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    polos = Command("redis://somebody:s3cret@127.0.0.1:1/0", namespace, tmp_path)
    with polos.start(POLOS, "worker", "flow.py", "--patience", "0.1") as worker:
        worker.wait_for("waiting for Redis")
        assert "127.0.0.1:1 can't be reached" in worker.err
        assert "s3cret" not in worker.err
        worker.signal(number)
        assert worker.wait() == 0
    assert "Traceback" not in worker.err


@pytest.mark.failure(42)
def test_the_command_starts_once_redis_is_there(
    chaos_server: ChaosServer, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    chaos_server.kill()
    polos = Command(chaos_server.url, namespace, tmp_path)
    with polos.start(POLOS, "worker", "flow.py", "--patience", "0.1") as worker:
        worker.wait_for("waiting for Redis")
        chaos_server.start()
        worker.wait_for("worker ready")
        done = polos.run("invoke", "waits-for-redis", "--wait")
        assert (done.code, done.json) == (0, 5), done.err
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
