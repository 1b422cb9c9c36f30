"""The multiplexed connection against real servers: order, loss, silence, errors, pushes, leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from polos_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    PolosError,
    RedisRefusedError,
    RedisUnavailableError,
)
from polos_redis.testing.model.listener import LoopbackListener
from polos_redis.wire.replies import CallLostError, RefusedReplyError, TransientReplyError
from polos_redis.wire.wire import Script, Wire
from tests.harness.programs import program, skip_without
from tests.harness.servers import binary_with_tls

Run = Callable[[Coroutine[Any, Any, None]], None]


def script(name: str, source: str) -> Script:
    return Script(name, source.encode)


ECHO = script("echo", "#!lua flags=no-writes\nreturn ARGV[1]")
WRITE = script("write", "#!lua\nreturn redis.call('SET', KEYS[1], ARGV[1])")


class Server:
    """The test's own server, which it kills, stops and restarts."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.socket = folder / "s.sock"
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        command = [str(self.binary), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    close = kill

    def do(self, *command: Any) -> Any:
        """Run one command over its own connection, without the wire."""
        with redis.Redis(unix_socket_path=str(self.socket), protocol=2) as client:
            return client.execute_command(*command)


@pytest.fixture
def wire_server(every_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with contextlib.closing(Server(every_binary, tmp_path_factory.mktemp("wire"))) as server:
        server.start()
        yield server


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Server]:
    """Not yet started: that takes a certificate."""
    binary = binary_with_tls()
    if isinstance(binary, str):
        skip_without("redis-server or valkey-server with TLS", binary)
    with contextlib.closing(Server(binary, tmp_path)) as server:
        yield server


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop_runner:
            loop_runner.run(asyncio.wait_for(coroutine, 60))

    return runner


class Proxy:
    """Forwards to a port until told to stall; a stalled proxy keeps its connections open."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.listener = LoopbackListener(self.accept)

    async def __aenter__(self) -> Proxy:
        await self.listener.__aenter__()
        self.url = f"redis://127.0.0.1:{self.listener.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.__aexit__(None, None, None)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            await asyncio.gather(self.forward(reader, back), self.forward(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()  # at once: a close would wait for unsent data
            back.transport.abort()

    async def forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self.flowing.wait()
            sink.write(data)
            await sink.drain()
        sink.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the condition is another process's
            await asyncio.sleep(0.005)


async def error_of(call: Awaitable[Any]) -> PolosError:
    try:
        value = await call
    except PolosError as error:
        return error
    raise AssertionError(f"answered {value!r}")


# --- order ----------------------------------------------------------------------------------


def test_every_caller_gets_its_own_replies_in_order(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, scripts=[ECHO])
        await wire.connect()

        async def caller(number: int) -> None:
            for turn in range(20):
                text = f"{number}/{turn}"
                first, second = wire.run(ECHO, b"k", text), wire.send("ECHO", text)
                assert await second == text.encode()
                assert first.done()
                assert first.result() == text.encode()

        await asyncio.gather(*(caller(n) for n in range(500)))
        assert wire.epoch == 1
        await wire.close()

    run(main())


def test_the_calls_of_one_turn_leave_in_one_write(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, scripts=[ECHO])
        await wire.connect()
        assert wire._transport is not None
        transport, writes = wire._transport.transport, []

        class Counting:
            def write(self, data: bytes) -> None:
                writes.append(data)
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        wire._transport.transport = Counting()  # type: ignore[assignment]
        calls = [wire.run(ECHO, b"k", n) for n in range(300)]
        assert writes == []
        assert await asyncio.gather(*calls) == [str(n).encode() for n in range(300)]
        assert len(writes) == 1
        await wire.send("PING")
        assert len(writes) == 2
        await wire.close()

    run(main())


@pytest.mark.failure(19)
def test_cancelled_callers_leave_the_others_their_replies(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, scripts=[ECHO])
        await wire.connect()
        chance = random.Random(7)
        for turn in range(20):

            async def caller(number: int, turn: int = turn) -> Any:
                return await wire.run(ECHO, b"k", f"{number}/{turn}")

            tasks = [asyncio.create_task(caller(n)) for n in range(200)]
            await asyncio.sleep(0)  # every call is queued, written in different turns, none answered
            if turn % 2:
                await asyncio.sleep(0)
            doomed = set(chance.sample(range(200), 100))
            for number in doomed:
                assert tasks[number].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number, result in enumerate(results):
                if number in doomed:
                    assert isinstance(result, asyncio.CancelledError)
                else:
                    assert result == f"{number}/{turn}".encode()
        assert wire.connected
        assert wire.epoch == 1
        await wire.close()

    run(main())


@pytest.mark.failure(15)
def test_a_forgotten_script_is_resent_transparently(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, scripts=[ECHO])
        await wire.connect()
        assert wire_server.do("SCRIPT", "EXISTS", ECHO.sha) == [1]
        wire_server.do("SCRIPT", "FLUSH")
        wire_server.do("CONFIG", "RESETSTAT")
        calls = [wire.run(ECHO if n % 2 else WRITE, b"k", f"v{n}") for n in range(100)]
        answers = await asyncio.gather(*calls)
        assert answers == [f"v{n}".encode() if n % 2 else b"OK" for n in range(100)]
        stats = wire_server.do("INFO", "commandstats")
        assert stats["cmdstat_eval"]["calls"] < 10  # the source went once per script and turn, not per call
        await wire.close()

    run(main())


def test_a_script_that_does_not_compile_is_refused_for_every_caller(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url)
        await wire.connect()
        broken = script("broken", "this is no lua")
        errors = await asyncio.gather(*(error_of(wire.run(broken, b"k")) for _ in range(5)))
        assert all("script 'broken'" in str(e) and "compiling" in str(e) for e in errors)
        await wire.close()

    run(main())


def test_an_argument_that_cannot_be_packed_affects_no_other_call(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url)
        await wire.connect()
        before = wire.send("ECHO", "a")
        with pytest.raises(TypeError):
            wire.send("ECHO", None)  # type: ignore[arg-type]
        assert await before == b"a"
        assert await wire.send("ECHO", "b") == b"b"
        await wire.close()

    run(main())


# --- connection loss --------------------------------------------------------------------------


@pytest.mark.failure(13)
@pytest.mark.failure(16)
def test_a_killed_server_fails_pending_calls_and_later_calls_work_after_its_restart(
    wire_server: Server, run: Run
) -> None:
    async def main() -> None:
        losses: list[int] = []
        wire = Wire(wire_server.url, scripts=[ECHO], on_disconnect=lambda: losses.append(wire.epoch))
        await wire.connect()
        stop = False
        answered = 0

        async def patient(number: int) -> None:
            nonlocal answered
            turn = 0
            while not stop:
                turn += 1
                text = f"{number}/{turn}".encode()
                assert await wire.call_script(ECHO, b"k", text) == text
                answered += 1

        patients = [asyncio.create_task(patient(n)) for n in range(50)]
        await until(lambda: answered > 500)
        blocked = wire.send("BLPOP", "nothing", 0)
        await until(lambda: wire_server.do("INFO", "clients")["blocked_clients"] == 1)
        wire_server.kill()
        error = await error_of(blocked)
        assert isinstance(error, CallLostError)
        assert error.sent
        assert "outcome" in str(error)
        await until(lambda: not wire.connected)
        error = await error_of(wire.send("PING"))
        assert isinstance(error, CallLostError)
        assert not error.sent
        assert losses == [1]
        with pytest.raises(RedisUnavailableError, match=f"127.0.0.1:{wire_server.port}"):
            await wire.connect()
        wire_server.start()
        before = answered
        await until(lambda: answered > before + 500)
        assert wire.epoch == 2
        assert wire.connected
        stop = True
        await asyncio.gather(*patients)
        await wire.close()
        assert losses == [1]  # closing does not count as a loss

    run(main())


@pytest.mark.failure(14)
def test_a_stalled_peer_is_abandoned(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        async with Proxy(wire_server.port) as proxy:
            wire = Wire(proxy.url, timeout=0.4, connect_timeout=0.4)
            await wire.connect()
            proxy.flowing.clear()
            errors = await asyncio.gather(*(error_of(wire.send("PING")) for _ in range(10)))
            assert all(isinstance(e, CallLostError) and e.sent for e in errors)
            assert "did not answer for 0.4 s" in str(errors[0])
            assert not wire.connected
            with pytest.raises(RedisUnavailableError):  # the handshake does not hang either
                await wire.connect()
            call = asyncio.create_task(wire.call("ECHO", "back"))
            proxy.flowing.set()
            assert await call == b"back"
            await wire.close()

    run(main())


def test_a_single_stalled_call_behind_answered_ones_is_noticed(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        async with Proxy(wire_server.port) as proxy:
            wire = Wire(proxy.url, timeout=0.4)
            await wire.connect()
            for _ in range(20):  # answered calls keep the watchdog going and must not trip it
                await wire.send("PING")
                await asyncio.sleep(0.04)
            assert wire.epoch == 1
            assert wire.connected
            proxy.flowing.clear()
            first = asyncio.ensure_future(error_of(wire.send("PING")))
            while not first.done():  # new calls do not make the old one younger
                with contextlib.suppress(ConnectionLostError):
                    wire.send("PING").cancel()
                await asyncio.sleep(0.02)
            assert isinstance(first.result(), CallLostError)
            await wire.close()

    run(main())


def test_a_blocked_loop_is_not_mistaken_for_a_stalled_peer(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, timeout=0.4)
        await wire.connect()
        call = wire.send("PING")
        await asyncio.sleep(0)
        time.sleep(1.0)  # noqa: ASYNC251  # user code that blocks the loop
        assert await call == b"PONG"
        assert wire.epoch == 1
        await wire.close()

    run(main())


def test_nonsense_from_the_peer_ends_the_connection(run: Run) -> None:
    async def main() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"polos\r\n")
            writer.write(b"+OK\r\n")
            await reader.readuntil(b"PING\r\n")
            writer.write(b"+PONG\r\n@what\r\n")
            await reader.read()
            writer.close()

        async with LoopbackListener(speak) as listener:
            wire = Wire(f"redis://127.0.0.1:{listener.port}")
            await wire.connect()
            first, second = wire.send("PING"), wire.send("PING")
            assert await first == b"PONG"
            assert "can't be read" in str(await error_of(second))
            assert not wire.connected
            await wire.close()

    run(main())


def test_concurrent_callers_share_one_attempt(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url)
        first = asyncio.create_task(wire.connect())
        rest = [asyncio.create_task(wire.connect()) for _ in range(20)]
        await asyncio.sleep(0)
        first.cancel()  # the one that started it
        await asyncio.gather(*rest)
        assert first.cancelled() or first.done()
        assert wire.epoch == 1
        await wire.close()

    run(main())


def test_patience_ends(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            wire = Wire(f"redis://:s3cret@127.0.0.1:{port}")
            errors = await asyncio.gather(*(error_of(wire.call("PING", patience=0.2)) for _ in range(50)))
        assert all(isinstance(e, RedisUnavailableError) for e in errors)
        assert all(f"127.0.0.1:{port}" in str(e) and "s3cret" not in str(e) for e in errors)
        assert wire._failures < 12  # they share the attempts
        await wire.close()

    run(main())


# --- error replies ------------------------------------------------------------------------------


@pytest.mark.failure(15)
@pytest.mark.failure(17)
def test_an_error_reply_gives_redis_message_and_a_remedy(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, scripts=[WRITE])
        await wire.connect()
        await wire.send("SET", "text", "x")
        cases = [
            (wire.send("LPUSH", "text", "y"), "WRONGTYPE", "WRONGTYPE Operation against a key", "namespace")
        ]
        cases.append(
            (wire.send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"), "NOGROUP", "No such", "")
        )
        cases.append((wire.send("FOO"), "ERR", "unknown command", "FOO"))
        for call, code, text, hint in cases:
            error = await error_of(call)
            assert isinstance(error, RefusedReplyError)
            assert isinstance(error, RedisRefusedError)
            assert error.code == code
            assert text in str(error)
            assert hint in str(error)
            assert wire.address in str(error)
        wire_server.do("CONFIG", "SET", "maxmemory", "1")
        for call in (wire.send("SET", "a", "b"), wire.run(WRITE, b"k", "v")):
            error = await error_of(call)
            assert getattr(error, "code", "") == "OOM"
            assert "maxmemory" in str(error)
            assert "free memory or raise maxmemory" in str(error)
        error = await error_of(wire.call("SET", "a", "b"))  # not repeated for 30 s
        assert isinstance(error, RefusedReplyError)
        assert wire.connected
        assert wire.epoch == 1
        await wire.close()

    run(main())


@pytest.mark.failure(15)
@pytest.mark.failure(22)
def test_a_user_with_few_rights_can_connect(wire_server: Server, run: Run) -> None:
    wire_server.do(
        "ACL", "SETUSER", "small", "on", ">s3cret", "~polos:*", "&polos:*", "+get", "+evalsha", "+eval"
    )

    async def main() -> None:
        wire = Wire(f"redis://small:s3cret@127.0.0.1:{wire_server.port}", scripts=[ECHO])
        await wire.connect()  # without the right to name itself or to load scripts
        assert await wire.run(ECHO, b"polos:{a:0}:", "x") == b"x"
        for call in (
            wire.send("GET", "other"),
            wire.send("SET", "polos:x", "1"),
            wire.run(ECHO, b"other", "x"),
        ):
            error = await error_of(call)
            assert isinstance(error, RefusedReplyError)
            assert error.code == "NOPERM"
            assert "~polos:* &polos:*" in str(error)
            assert "s3cret" not in str(error)
        await wire.close()

    run(main())


@pytest.mark.failure(15)
def test_wrong_and_missing_passwords_are_reported(wire_server: Server, run: Run) -> None:
    wire_server.kill()
    wire_server.start("--requirepass", "s3cret/pw")

    async def main() -> None:
        address = f"127.0.0.1:{wire_server.port}"
        for url, code, hint in (
            (f"redis://{address}", "NOAUTH", "redis://user:password@host:port"),
            (f"redis://:wr0ng@{address}", "WRONGPASS", "check the user and password"),
            (f"redis://nobody:wr0ng@{address}/1", "WRONGPASS", "check the user and password"),
        ):
            wire = Wire(url)
            for attempt in (wire.connect(), wire.call("PING")):
                error = await error_of(attempt)
                assert isinstance(error, RefusedReplyError), error
                assert error.code == code
                assert address in str(error)
                assert hint in str(error)
                assert "wr0ng" not in "".join(traceback.format_exception(error))
            await wire.close()
        for url in (
            f"redis://:s3cret%2Fpw@{address}/3",
            f"unix://{wire_server.socket}?password=s3cret%2Fpw&db=3&protocol=3",
        ):
            wire = Wire(url, name="named")
            await wire.connect()
            info = (await wire.send("CLIENT", "INFO")).decode()
            assert "db=3" in info
            assert "name=named" in info
            assert "resp=2" in info
            assert "s3cret" not in repr(wire)
            await wire.close()

    run(main())


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://:s3cret@h",
        "redis://:s3c#ret@h:1",
        "redis://:s3c/ret@h:1",
        "redis://:s3cret@h:port",
        "redis://:s3cret@h:1/db",
        "redis://:s3cret@h:1/0?socket_timeout=s3cret",
        "redis://:s3cret@h:1/0?nonsense=1",
        "unix://",
        "",
    ],
)
def test_an_unusable_url_is_refused_without_showing_its_password(url: str) -> None:
    async def main() -> None:
        await Wire(url).connect()

    with pytest.raises(ConfigurationError, match="redis://user:password@host:port") as caught:
        asyncio.run(main())
    message = str(caught.value)
    assert "s3c" not in message
    assert (
        caught.value.__cause__ is None and caught.value.__suppress_context__
    ) or not caught.value.__context__


@pytest.mark.failure(15)
def test_a_busy_server_is_retried(wire_server: Server, run: Run) -> None:
    wire_server.do("CONFIG", "SET", "busy-reply-threshold", "10")
    endless = script("endless", "#!lua\nwhile true do end")

    async def main() -> None:
        stuck, wire = Wire(wire_server.url, timeout=60), Wire(wire_server.url)
        await asyncio.gather(stuck.connect(), wire.connect())
        running = stuck.run(endless, b"k")

        codes: set[str] = set()
        async with asyncio.timeout(30):
            while not codes:
                try:
                    await wire.send("GET", "a")
                except TransientReplyError as error:
                    codes.add(error.code)
        assert codes == {"BUSY"}
        assert "BUSY" in str(await error_of(wire.call("GET", "a", patience=0.1)))
        call = asyncio.create_task(wire.call("SET", "a", "1"))
        newcomer = Wire(wire_server.url, scripts=[ECHO])
        await newcomer.connect()  # new connections work meanwhile
        assert not call.done()
        await wire.send("SCRIPT", "KILL")
        assert "endless" in str(await error_of(running))
        assert await call == b"OK"
        assert await newcomer.run(ECHO, b"k", "x") == b"x"
        assert wire.epoch == 1
        for each in (stuck, wire, newcomer):
            await each.close()

    run(main())


@pytest.mark.failure(15)
def test_a_loading_server_is_retried(wire_server: Server, run: Run) -> None:
    wire_server.do("CONFIG", "SET", "rdbcompression", "no")
    with redis.Redis(unix_socket_path=str(wire_server.socket)) as client:
        client.mset({f"key{n}": "x" * 100 for n in range(3000)})
        client.save()
    wire_server.kill()
    wire_server.start("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")

    async def main() -> None:
        wire = Wire(wire_server.url, scripts=[ECHO])
        await wire.connect()
        error = await error_of(wire.send("GET", "key1"))
        assert isinstance(error, TransientReplyError)
        assert error.code == "LOADING"
        calls = asyncio.gather(wire.call("GET", "key1"), wire.call_script(ECHO, b"k", "x"))
        wire_server.do("CONFIG", "SET", "key-load-delay", "0")
        assert tuple(await calls) == (b"x" * 100, b"x")
        await wire.close()

    run(main())


@pytest.mark.failure(15)
def test_a_master_that_became_a_replica_is_left(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url)
        await wire.connect()
        wire_server.do("REPLICAOF", "127.0.0.1", "1")
        error = await error_of(wire.send("SET", "a", "1"))
        assert isinstance(error, TransientReplyError)
        assert error.code == "READONLY"
        await until(lambda: not wire.connected)
        call = asyncio.create_task(wire.call("SET", "a", "2"))
        await until(lambda: wire.epoch >= 3)
        wire_server.do("REPLICAOF", "NO", "ONE")
        assert await call == b"OK"
        await wire.close()

    run(main())


# --- the window ---------------------------------------------------------------------------------


def test_the_window_bounds_pending_calls(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, window=4)
        await wire.connect()
        link = wire._transport
        assert link is not None
        most = 0

        async def caller(number: int) -> None:
            nonlocal most
            for turn in range(10):
                await wire.wait_for_room()
                if turn == 5 and number % 3 == 0:
                    continue  # admitted, but sends nothing: another one takes its slot
                call = wire.send("ECHO", number)
                most = max(most, len(link.calls))
                assert await call == str(number).encode()

        callers = [asyncio.create_task(caller(n)) for n in range(60)]
        await asyncio.sleep(0)
        assert len(link.waiters) == 56
        for task in callers[10:20]:
            task.cancel()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert sum(isinstance(r, asyncio.CancelledError) for r in results) == 10
        assert [r for r in results if isinstance(r, Exception)] == []
        assert most == 4
        full = [wire.send("PING") for _ in range(4)]
        assert not wire.room()
        await asyncio.gather(*full)
        assert wire.room()
        await wire.close()

    run(main())


def test_unused_room_goes_to_the_next_caller(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, window=1)
        await wire.connect()
        only = wire.send("PING")
        waiting = [asyncio.create_task(wire.wait_for_room()) for _ in range(5)]
        assert await only == b"PONG"
        await asyncio.wait_for(asyncio.gather(*waiting), 30)  # nobody sends: no reply will wake them
        await wire.close()

    run(main())


def test_a_full_socket_means_no_room(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        async with Proxy(wire_server.port) as proxy:
            wire = Wire(proxy.url, timeout=60)
            await wire.connect()
            proxy.flowing.clear()
            calls = []
            while wire.room():
                calls.append(wire.send("SET", "big", b"x" * 1_000_000))
                await asyncio.sleep(0.001)
                assert len(calls) < 200
            waiting = asyncio.create_task(wire.wait_for_room())
            await asyncio.sleep(0)
            assert not waiting.done()
            proxy.flowing.set()
            await waiting
            assert set(await asyncio.gather(*calls)) == {b"OK"}
            await wire.close()

    run(main())


def test_callers_waiting_for_room_are_released_when_the_connection_is_lost(
    wire_server: Server, run: Run
) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, window=1)
        await wire.connect()
        blocked = wire.send("BLPOP", "nothing", 0)
        waiting = [asyncio.create_task(wire.wait_for_room()) for _ in range(5)]
        await asyncio.sleep(0)
        wire_server.kill()
        await asyncio.gather(*waiting)
        assert isinstance(await error_of(blocked), CallLostError)
        await wire.close()

    run(main())


# --- subscribers ----------------------------------------------------------------------------------


def test_pushed_messages_go_to_their_receiver(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        got: list[list[Any]] = []

        def receive(message: list[Any]) -> None:
            got.append(message)
            if message[2] == b"bad":
                raise ValueError("an error in the receiver")

        async def subscribe(wire: Wire) -> None:
            assert (await wire.send("SSUBSCRIBE", "polos:{a}:reply"))[0] == b"ssubscribe"

        wire = Wire(wire_server.url, on_push=receive, on_connect=subscribe)
        await wire.connect()
        assert await wire.send("SUBSCRIBE", "one", "two", "three") == [b"subscribe", b"three", 3]
        for number in range(50):
            wire_server.do("SPUBLISH", "polos:{a}:reply", str(number))
            wire_server.do("PUBLISH", "two", "bad")
            assert await wire.send("PING") == [b"pong", b""]
        await until(lambda: len(got) == 100)
        assert [m[2] for m in got if m[0] == b"smessage"] == [str(n).encode() for n in range(50)]
        assert await wire.send("UNSUBSCRIBE", "one", "three") == [b"unsubscribe", b"three", 1]
        # A new connection is subscribed before callers get it.
        wire_server.do("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: not wire.connected)
        await wire.connect()
        assert wire.epoch == 2
        assert wire_server.do("SPUBLISH", "polos:{a}:reply", "again") == 1
        await until(lambda: got[-1][2] == b"again")
        await wire.close()

    run(main())


@pytest.mark.failure(14)
def test_a_dead_subscription_is_noticed(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        async with Proxy(wire_server.port) as proxy:
            lost = asyncio.Event()
            wire = Wire(proxy.url, timeout=0.2, on_push=lambda _: None, on_disconnect=lost.set)
            await wire.connect()
            await wire.send("SUBSCRIBE", "one")
            await until(
                lambda: wire_server.do("INFO", "commandstats").get("cmdstat_ping", {"calls": 0})["calls"] >= 3
            )
            assert not lost.is_set()
            proxy.flowing.clear()
            await asyncio.wait_for(lost.wait(), 30)
            await wire.close()

    run(main())


def test_callers_get_a_new_connection_only_once_it_is_prepared(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        seen: list[str] = []
        go_on = asyncio.Event()

        async def prepare(wire: Wire) -> None:
            seen.append(f"epoch {wire.epoch}")
            assert await asyncio.create_task(wire.call("ECHO", "inner")) == b"inner"
            await go_on.wait()

        wire = Wire(wire_server.url, on_connect=prepare)
        connecting = asyncio.create_task(wire.connect())
        await until(lambda: seen)
        assert not wire.connected
        error = await error_of(wire.send("PING"))
        assert isinstance(error, CallLostError)
        assert not error.sent
        go_on.set()
        await connecting
        await until(lambda: wire.connected)
        assert await wire.send("PING") == b"PONG"
        await wire.close()

    run(main())


def test_a_refused_or_failed_preparation_is_reported_to_the_caller(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        async def refused(wire: Wire) -> None:
            await wire.call("NONSENSE")

        async def broken(wire: Wire) -> None:
            await wire.call("CLIENT", "KILL", "ID", (await wire.send("CLIENT", "ID")), "SKIPME", "no")
            await wire.call("PING")

        for prepare, kind in ((refused, RedisRefusedError), (broken, RedisUnavailableError)):
            wire = Wire(wire_server.url, on_connect=prepare)
            with pytest.raises(kind):
                await wire.connect()
            assert not wire.connected
            await wire.close()

    run(main())


# --- closing --------------------------------------------------------------------------------------


def test_closing_waits_for_replies_and_leaves_nothing(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url)
        await wire.connect()
        call = wire.send("ECHO", "last")
        closing = asyncio.create_task(wire.close())
        await asyncio.sleep(0)
        late = wire.send("PING")
        assert await call == b"last"
        assert "closed" in str(await error_of(late))
        await closing
        for attempt in (wire.connect(), wire.call("PING", patience=None)):
            assert "was closed" in str(await error_of(attempt))
        await wire.close()  # a second time
        assert asyncio.all_tasks() == {asyncio.current_task()} | _wait_for_tasks()
        await until(lambda: wire_server.do("INFO", "clients")["connected_clients"] == 1)

    def _wait_for_tasks() -> set[asyncio.Task[Any]]:
        return {t for t in asyncio.all_tasks() if getattr(t.get_coro(), "__name__", "") == "wait_for"}

    run(main())


def test_closing_abandons_a_blocked_read(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, timeout=60)
        await wire.connect()
        blocked = wire.send("BLPOP", "nothing", 0)
        await wire.close()
        assert "closed" in str(await error_of(blocked))

    run(main())


def test_closing_while_connecting(run: Run) -> None:
    async def main() -> None:
        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with LoopbackListener(mute) as listener:
            for user in ("", ":pw@"):  # our own handshake, and redis-py's
                wire = Wire(f"redis://{user}127.0.0.1:{listener.port}", connect_timeout=60)
                callers = [
                    asyncio.create_task(error_of(attempt)) for attempt in (wire.connect(), wire.call("PING"))
                ]
                for _ in range(20):
                    await asyncio.sleep(0.001)
                await wire.close()
                assert {type(e) for e in await asyncio.gather(*callers)} == {RedisUnavailableError}
                assert not [t for t in asyncio.all_tasks() if "polos" in t.get_name()]

    run(main())


def test_a_second_loop_needs_a_new_wire(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url, scripts=[ECHO])
        assert await wire.call_script(ECHO, b"k", "x") == b"x"
        wires.append(wire)  # never closed

    wires: list[Wire] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main())
        run(main())
        wires.clear()
        gc.collect()
    assert [str(w.message) for w in caught] == []


def test_a_loop_can_be_closed_with_a_wire_open(wire_server: Server) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for finish in (Wire.abort, lambda wire: None):
            loop = asyncio.new_event_loop()
            wire = Wire(wire_server.url)
            loop.run_until_complete(wire.connect())
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            finish(wire)
            del wire, loop
            gc.collect()
    assert [str(w.message) for w in caught] == []
    deadline = time.monotonic() + 20
    while wire_server.do("INFO", "clients")["connected_clients"] > 1:
        assert time.monotonic() < deadline


def test_a_wire_belongs_to_one_loop(wire_server: Server) -> None:
    loop = asyncio.new_event_loop()
    wire = Wire(wire_server.url)
    loop.run_until_complete(wire.connect())
    with pytest.raises(RuntimeError, match="one per loop"):
        asyncio.run(wire.call("PING"))
    assert loop.run_until_complete(wire.call("PING")) == b"PONG"
    loop.run_until_complete(wire.close())
    loop.close()


def test_a_forked_child_drops_the_wire_without_disturbing_its_parent(wire_server: Server, run: Run) -> None:
    async def main() -> None:
        wire = Wire(wire_server.url)
        await wire.connect()
        pending = wire.send("BLPOP", "list", 0)
        await until(lambda: wire_server.do("INFO", "clients")["blocked_clients"] == 1)
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                wire.abort()
                del wire
                gc.collect()
                code = 0
            os._exit(code)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222  # the child exits at once
        assert status == 0
        wire_server.do("RPUSH", "list", "x")
        assert await pending == [b"list", b"x"]
        assert await wire.send("PING") == b"PONG"
        assert wire.epoch == 1
        await wire.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads (3.12)
        run(main())


@pytest.mark.parametrize("way", ["asyncio", "uvloop", "bare loop", "dropped"])
def test_a_program_that_never_closes_exits_silently(wire_server: Server, way: str) -> None:
    if way == "uvloop":
        pytest.importorskip("uvloop")
    program = f"""
        import asyncio, sys
        import redis.asyncio
        from polos_redis.wire.wire import Wire

        kept = []

        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60
            wire = Wire({wire_server.url!r}, on_push=kept.append if {way!r} == "dropped" else None)
            await wire.connect()
            assert await wire.call("PING") == b"PONG"
            blocked = Wire({wire_server.url!r})
            await blocked.connect()
            blocked.send("BLPOP", "nothing", 0)
            task = asyncio.create_task(blocked.call("BLPOP", "nothing", 0, patience=None))
            away = asyncio.create_task(Wire("redis://127.0.0.1:1").call("PING", patience=None))
            await asyncio.sleep(0.05)
            if {way!r} != "dropped":
                kept.extend((wire, blocked, task))

        if {way!r} == "bare loop":
            loop = asyncio.new_event_loop()
            loop.slow_callback_duration = 60
            asyncio.set_event_loop(loop)
            wire = Wire({wire_server.url!r})
            loop.run_until_complete(wire.connect())
            loop.close()
        elif {way!r} == "uvloop":
            import uvloop
            asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        else:
            asyncio.run(main())
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_importing_the_wire_is_light() -> None:
    code = (
        "import sys, polos_redis.wire.wire; print([m for m in sys.modules if m.partition('.')[0] == 'redis'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_tls_connections(tls_server: Server, run: Run) -> None:
    openssl = program("openssl")
    key, cert = tls_server.folder / "key.pem", tls_server.folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*make, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=60
    )
    options = {"--tls-port": str(tls_server.port), "--tls-cert-file": str(cert), "--tls-key-file": str(key)}
    pairs = [word for pair in options.items() for word in pair]
    tls_server.start("--port", "0", *pairs, "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no")

    async def main() -> None:
        url = f"rediss://127.0.0.1:{tls_server.port}"
        wire = Wire(f"{url}?ssl_ca_certs={cert}", scripts=[ECHO])
        await wire.connect()
        big = b"x" * 300_000
        answers = await asyncio.gather(
            *(wire.run(ECHO, b"k", n, big) for n in range(200)), wire.send("ECHO", big)
        )
        assert answers == [*(str(n).encode() for n in range(200)), big]
        blocked = wire.send("BLPOP", "nothing", 0)
        await until(lambda: tls_server.do("INFO", "clients")["blocked_clients"] == 1)
        tls_server.do("CLIENT", "KILL", "TYPE", "normal")
        assert isinstance(await error_of(blocked), CallLostError)
        assert await wire.call("ECHO", "again") == b"again"
        await wire.close()
        with pytest.raises(RedisUnavailableError, match="certificate"):
            await Wire(url).connect()
        kept.append(Wire(f"{url}?ssl_ca_certs={cert}"))
        await kept[0].connect()

    kept: list[Wire] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main())
        kept.clear()
        gc.collect()
    assert [str(w.message) for w in caught] == []
