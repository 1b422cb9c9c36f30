"""The servers that peers run on: Redis with the settings that polos-redis ships, PostgreSQL and Restate.

Each is a child of a keeper that stops it when this process ends, even if this process is killed, and its data
lives in a temporary folder.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.children import last_line, run
from benchmarks.stage import BenchmarkError
from polos_redis.embedded import EmbeddedServer, keeper

START_SECONDS = 60.0
POLL_SECONDS = 0.1
CONNECTIONS = "200"
DEBIAN = Path("/usr/lib/postgresql")
RESTATE_BINARY = "node_modules/@restatedev/restate-server-*/bin/restate-server"


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs: the PATH's, else Debian's newest. Raises `BenchmarkError`."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = DEBIAN.glob("*/bin/initdb")
    if installed := sorted(versions, key=lambda path: float(path.parts[-3])):
        return installed[-1].parent
    raise BenchmarkError(
        "PostgreSQL is not installed (`apt-get install postgresql`, or put its initdb on the PATH)"
    )


def postgres_version() -> str:
    """The version of PostgreSQL that `postgres` starts."""
    program = postgres_programs() / "postgres"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return re.sub(r"\D*([\d.]+).*", r"\1", said.strip())


@asynccontextmanager
async def redis(binary: Path) -> AsyncIterator[str]:
    """Redis on a loopback port, with the settings as shipped; gives its URL."""
    async with EmbeddedServer(binary=binary, socket=False) as server:
        yield server.url


@asynccontextmanager
async def postgres(settings: Mapping[str, str]) -> AsyncIterator[str]:
    """PostgreSQL on a loopback port, as a user without rights; gives its URL."""
    programs = postgres_programs()
    # Root's own temporary folder may be closed to the user that runs PostgreSQL.
    within = "/tmp" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="benchmark-postgres-", dir=within) as name:
        folder = Path(name)
        become = _unprivileged(folder)
        log, data = folder / "log", folder / "data"
        create: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "--no-locale",
            "-EUTF8",
        ]
        await run([*become, *create], log)
        port = free_port()
        own = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": CONNECTIONS,
            **settings,
        }
        options = [word for setting, value in own.items() for word in ("-c", f"{setting}={value}")]
        question: list[str | Path] = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        start: list[str | Path] = [*become, programs / "postgres", "-D", data, *options]
        async with _kept("PostgreSQL", start, data, log) as server:
            await server.until(lambda: subprocess.run(question, check=False).returncode == 0)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/benchmark"


@asynccontextmanager
async def restate(installed: Path, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """Restate on loopback ports; gives the URLs of its ingress and of its administration."""
    (binary,) = await asyncio.to_thread(lambda: [*installed.glob(RESTATE_BINARY)])
    with tempfile.TemporaryDirectory(prefix="benchmark-restate-") as name:
        log = Path(name) / "log"
        ingress, admin, fabric = free_port(), free_port(), free_port()
        environment = {
            "DO_NOT_TRACK": "1",
            "RESTATE_LOG_FILTER": "warn",
            "RESTATE_LOG_DISABLE_ANSI_CODES": "true",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_BIND_PORT": str(fabric),
            "RESTATE_INGRESS__BIND_PORT": str(ingress),
            "RESTATE_ADMIN__BIND_PORT": str(admin),
            **settings,
        }
        data = Path(name) / "data"
        command: list[str | Path] = [binary, "--no-logo", "--base-dir", data]
        address = f"http://127.0.0.1:{ingress} http://127.0.0.1:{admin}"
        async with _kept("Restate", command, data, log, environment) as server:
            for url, path in zip(address.split(), ("/restate/health", "/health"), strict=True):
                await server.until(partial(_healthy, url + path))
            yield address


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _unprivileged(folder: Path) -> list[str]:
    """The words before a command that take root's rights from it, which PostgreSQL refuses to run with."""
    if os.getuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, user.pw_uid, user.pw_gid)
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    raise BenchmarkError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _healthy(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5):
            return True
    except OSError:
        return False


class _Kept:
    """A server that its keeper has started."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._name, self._process, self._log = name, process, log

    async def until(self, answers: Callable[[], bool]) -> None:
        """Ask the server until it answers. Raises `BenchmarkError` if it has ended, or does not."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await asyncio.to_thread(answers):
                    if self._process.returncode is not None:
                        raise BenchmarkError(f"{self._name} has ended: {last_line(self._log)}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise BenchmarkError(
                f"{self._name} does not answer after {START_SECONDS:g} s: {last_line(self._log)}"
            ) from None


@asynccontextmanager
async def _kept(
    name: str,
    command: Sequence[str | Path],
    data: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[_Kept]:
    """Runs a server inside the block. Its keeper removes its data."""
    nothing = os.open(os.devnull, os.O_RDONLY)  # a keeper passes a lock on to its server
    try:
        with log.open("ab") as written:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, keeper.__file__, str(nothing), str(data), *map(str, command)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=written,
                pass_fds=(nothing,),
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
    finally:
        os.close(nothing)
    assert process.stdin is not None
    try:
        yield _Kept(name, process, log)
    finally:
        process.stdin.close()
        await process.wait()
