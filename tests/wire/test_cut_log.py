"""A crash cuts the server's log within a script's transaction, and the server is restarted more than once."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from polos_redis import PolosClient
from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import FAR, Desk
from tests.harness.fleet_workflows import gated
from tests.harness.programs import program, skip_without
from tests.harness.redis_image import image
from tests.harness.running import until, working
from tests.harness.server_log import commands, cut, log_file
from tests.harness.servers import KINDS, ChaosServer, server_binaries, wait_for
from tests.invariants.state import RawConnection
from tests.invariants.state_invariants import check

START_REDIS = Path(__file__).parents[2] / "deploy" / "start-redis.sh"
OPEN_TRANSACTIONS = ("redis7", "redis8")  # the kinds that load a cut transaction and leave it open


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found = server_binaries()[request.param]
    if isinstance(found, str):
        skip_without(KINDS[request.param], found)
    return str(request.param)


def binary_of(kind: str) -> Path:
    found = server_binaries()[kind]
    assert isinstance(found, Path)
    return found


class CutLog:
    """The data directory of a server that was killed right after a script, whose commands begin at
    `start` in its log and end at `end`."""

    def __init__(self, kind: str, folder: Path, namespace: str) -> None:
        self.kind, self.folder, self.namespace = kind, folder, namespace
        with self._server(folder / "whole") as server:
            with Desk(server.url, namespace) as desk:
                by = desk.start()
                self.id = by.id
                desk.write(by, "a")
                self.start = log_file(server.data_dir).stat().st_size
                desk.suspend(by, "ok", FAR)
            self.end = log_file(server.data_dir).stat().st_size
            server.kill()

    def at(self, size: int) -> ChaosServer:
        """A server whose log is cut to this size; it has not been started."""
        folder = self.folder / f"cut-{size}"
        shutil.copytree(self.folder / "whole", folder, ignore=shutil.ignore_patterns("server.*"))
        cut(log_file(folder), size)
        return self._server(folder)

    def _server(self, folder: Path) -> ChaosServer:
        # everysec may leave the last writes in the process while the disk is busy
        return ChaosServer(folder, binary=binary_of(self.kind), config={"appendfsync": "always"})

    def sizes(self, step: int) -> range:
        """Sizes to cut the log to: from the script's first byte to its last one."""
        return range(self.start, self.end, step)

    def invoke(self, server: EmbeddedServer) -> str:
        with Desk(server.url, self.namespace) as desk:
            return desk.invoke()

    def is_whole(self, server: EmbeddedServer, acknowledged: list[str]) -> bool:
        """Whether nothing of the cut script, and all that was acknowledged, is there."""
        with Desk(server.url, self.namespace) as desk:
            state = desk.state
            return (
                {name.decode() for name in state.executions} == {self.id, *acknowledged}
                and not state.suspensions
                and set(state.journals[self.id.encode()]) == {b"", b"a"}
                and all(b"entry" in state.executions[name.encode()] for name in acknowledged)
            )


@pytest.fixture
def cut_log(kind: str, tmp_path: Path, namespace: str) -> CutLog:
    return CutLog(kind, tmp_path, namespace)


def is_rewritten(url: str) -> bool:
    with RawConnection(url) as connection:
        info = connection.do("INFO", "persistence")
    return b"aof_rewrite_in_progress:0" in info and b"aof_last_rewrite_time_sec:-1" not in info


def rewrites(url: str) -> int:
    """How many rewrites of its log a server has been asked for."""
    with RawConnection(url) as connection:
        stats = connection.do("INFO", "commandstats")
    found = re.search(rb"cmdstat_bgrewriteaof:calls=(\d+)", stats)
    return int(found[1]) if found else 0


@pytest.mark.failure(43)
def test_the_script_is_one_transaction_of_the_log(cut_log: CutLog) -> None:
    log = log_file(cut_log.folder / "whole").read_bytes()[cut_log.start : cut_log.end]
    names = [command[0].upper() for command in commands(log)]
    assert names[0] == b"MULTI" and names[-1] == b"EXEC" and len(names) > 5


@pytest.mark.failure(43)
def test_without_a_rewrite_the_second_restart_applies_half_of_it(
    cut_log: CutLog, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The servers' own fault, without which the rest of this file would prove nothing."""
    monkeypatch.setattr(EmbeddedServer, "_end_open_transaction", lambda self: None)
    halves = 0
    for size in cut_log.sizes(97):
        with cut_log.at(size) as server:
            assert cut_log.is_whole(server, [])
            acknowledged = [cut_log.invoke(server)]
            server.restart()
            halves += not cut_log.is_whole(server, acknowledged)
    assert bool(halves) == (kind in OPEN_TRANSACTIONS)


@pytest.mark.failure(43)
def test_the_embedded_server_rewrites_the_log_that_it_has_loaded(cut_log: CutLog) -> None:
    for size in cut_log.sizes(97):
        with cut_log.at(size) as server:
            assert cut_log.is_whole(server, [])
            acknowledged = [cut_log.invoke(server)]
            wait_for(partial(is_rewritten, server.url), "the log to be rewritten")
            acknowledged.append(cut_log.invoke(server))
            for _ in range(2):
                server.restart()
                assert cut_log.is_whole(server, acknowledged), f"cut at {size - cut_log.start}"
            check(server.url, cut_log.namespace)


@pytest.mark.failure(43)
def test_a_crash_during_the_rewrite_loses_nothing(cut_log: CutLog, kind: str) -> None:
    """Redis then refuses to start once, and cuts the open transaction off."""
    server = cut_log.at((cut_log.start + cut_log.end) // 2)
    server._config["rdb-key-save-delay"] = "10000000"  # the rewrite takes ten seconds for each key
    with server:
        acknowledged = [cut_log.invoke(server)]
        with RawConnection(server.url) as connection:
            assert b"aof_rewrite_in_progress:1" in connection.do("INFO", "persistence")
        server.kill()
        server.start()
        assert cut_log.is_whole(server, acknowledged)
        log = server.log_path.read_text()
        assert ("the truncated file is not the last file" in log) == (kind in OPEN_TRANSACTIONS)
        server.restart()
        assert cut_log.is_whole(server, acknowledged)


def test_a_server_without_a_log_to_load_rewrites_nothing(tmp_path: Path, binary: Path) -> None:
    with EmbeddedServer(tmp_path / "data", binary=binary) as server, RawConnection(server.url) as connection:
        assert b"aof_last_rewrite_time_sec:-1" in connection.do("INFO", "persistence")
        assert b"aof_rewrite_in_progress:0" in connection.do("INFO", "persistence")


# --- servers of an operator's own ---------------------------------------------------------


@pytest.mark.failure(43)
def test_the_script_of_the_compose_file_has_the_log_rewritten(
    cut_log: CutLog, kind: str, tmp_path: Path
) -> None:
    """The image's programs are on its PATH, and its server listens on the standard port."""
    program("redis-cli")
    server = cut_log.at((cut_log.start + cut_log.end) // 2)
    socket = tmp_path / "s"
    command = ["sh", str(START_REDIS), str(START_REDIS.with_name("redis.conf"))]
    command += ["--dir", str(server.data_dir), "--appendfsync", "always"]
    command += ["--port", "0", "--unixsocket", str(socket)]
    environment = image(tmp_path / "bin", binary_of(kind), "-s", str(socket))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"unix://{socket}"
        wait_for(socket.exists, "the server")
        wait_for(lambda: is_rewritten(url), "the log to be rewritten")
        with Desk(url, cut_log.namespace) as desk:
            acknowledged = [desk.invoke()]
        with RawConnection(url) as connection:
            info = connection.do("INFO", "server")
        assert b"process_id:%d\r" % process.pid in info, "signals reach the server"
    finally:
        process.kill()
        process.wait()
    with server:
        assert cut_log.is_whole(server, acknowledged)


@pytest.fixture
def operated(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosServer]:
    """A server whose restarts nobody but the workers takes care of."""
    monkeypatch.setattr(EmbeddedServer, "_end_open_transaction", lambda self: None)
    with ChaosServer(tmp_path / "operated", binary=binary_of(kind)) as server:
        yield server


@pytest.mark.failure(43)
async def test_one_worker_requests_the_rewrite_after_each_restart(
    operated: ChaosServer, kind: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "polos.worker")
    expected = int(kind in OPEN_TRANSACTIONS)
    async with (
        PolosClient(operated.url, namespace) as one,
        PolosClient(operated.url, namespace) as two,
        working(one, gated),
        working(two, gated),
    ):
        for restart in range(3):
            if restart:
                await asyncio.to_thread(operated.restart)
            if expected:
                await until(lambda: is_rewritten(operated.url), "the log to be rewritten")
            await all_have_looked(one)
            assert rewrites(operated.url) == expected
    assert caplog.text.count("requested a rewrite of Redis' log") == 3 * expected


async def all_have_looked(client: PolosClient) -> None:
    """Wait until every worker has renewed its lease a few times: each has looked at its connections since."""
    store = await client.store()

    async def counters() -> list[int]:
        return [int(one) for one in await store.wire.call("HVALS", store.prefixes[0] + keys.WORKERS.encode())]

    before = await counters()

    async def renewed() -> bool:
        return sum(await counters()) >= sum(before) + 4 * len(before)

    await until(renewed, "the leases to be renewed")


@pytest.mark.failure(43)
@pytest.mark.parametrize("kind", OPEN_TRANSACTIONS, indirect=True)
@pytest.mark.parametrize(
    ("denied", "warning"),
    [("-bgrewriteaof", "run BGREWRITEAOF there"), ("-info", "must rewrite its log can't be checked")],
)
async def test_a_worker_that_may_not_request_it_warns_once_for_each_restart(
    operated: ChaosServer,
    kind: str,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    denied: str,
    warning: str,
) -> None:
    with RawConnection(operated.url) as admin:
        admin.do("ACL", "SETUSER", "app", "on", ">secret", "~polos:*", "&polos:*", "+@all", denied)
        admin.do("CONFIG", "SET", "appendonly", "yes")
    limited = operated.url.replace("unix://", "unix://app:secret@")
    async with PolosClient(limited, namespace) as client, working(client, gated) as worker:
        await until(lambda: warning in caplog.text, "the warning")
        with RawConnection(operated.url) as admin:
            admin.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: worker.reconnects > 0)
        await all_have_looked(client)
        assert caplog.text.count(warning) == 1
        assert rewrites(operated.url) == 0
