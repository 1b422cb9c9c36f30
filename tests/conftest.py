"""Real servers for every test, and the checks that follow each of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from polos_redis import PolosClient
from polos_redis.embedded import EmbeddedServer
from tests.cluster import Cluster
from tests.fleet import Fleet
from tests.invariants import check
from tests.servers import KINDS, ChaosServer, RunningServers, chosen_binary, os_parent, server_binaries

# What the developer's shell says about servers and namespaces is not for the tests.
for _name in [name for name in os.environ if name.startswith("POLOS_")]:
    if not _name.startswith(("POLOS_TEST_", "POLOS_REQUIRE_", "POLOS_PYTHON_")):
        del os.environ[_name]
PARTITIONS = os.environ.get("POLOS_TEST_PARTITIONS", "")
if PARTITIONS:
    os.environ["POLOS_PARTITIONS"] = PARTITIONS
ON_CLUSTER = os.environ.get("POLOS_TEST_CLUSTER") == "1"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests run on one server; those marked `also_on_cluster` on a cluster too, or `only_on_cluster` only.
    With POLOS_TEST_CLUSTER=1 all run there only.

    Tests that ask for `server`, `every_server` or `chaos_server` stay on one server: they look into it with
    connections of their own, restart it or change its settings.
    """
    if "redis_url" not in metafunc.fixturenames or "every_server" in metafunc.fixturenames:
        return
    if ON_CLUSTER or metafunc.definition.get_closest_marker("only_on_cluster"):
        metafunc.parametrize("redis_url", ["cluster"], indirect=True)
    elif metafunc.definition.get_closest_marker("also_on_cluster"):
        metafunc.parametrize("redis_url", ["server", "cluster"], indirect=True)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """asyncio; on uvloop with POLOS_TEST_LOOP=uvloop."""
    return "asyncio", {"use_uvloop": os.environ.get("POLOS_TEST_LOOP") == "uvloop"}


@pytest.fixture(scope="session", autouse=True)
def temp_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This session's own place for temporary files, so that what a test leaves there is seen."""
    tmp_path_factory.getbasetemp()  # `tmp_path` stays where pytest has it
    # Short, and not under pytest's: a unix socket's path has little room.
    folder = Path(tempfile.mkdtemp(prefix="polos-tests-"))
    temp = folder / "tmp"
    temp.mkdir()
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(temp))
    patch.setattr(tempfile, "tempdir", None)
    yield temp
    patch.undo()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def running_servers(temp_dir: Path) -> Iterator[RunningServers]:
    """The servers that live as long as the session (the xdist worker)."""
    servers = RunningServers(temp_dir.parent / "servers")
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def server(running_servers: RunningServers) -> EmbeddedServer:
    """The session's server. Shared: use a `namespace`, never FLUSHALL or CONFIG SET."""
    return running_servers.of(chosen_binary())


@pytest.fixture(scope="session", params=KINDS)
def every_server(request: pytest.FixtureRequest, running_servers: RunningServers) -> EmbeddedServer:
    """The session's server of each kind in turn: the test runs once on each."""
    found = server_binaries()[request.param]
    if isinstance(found, str):
        if os.environ.get("POLOS_REQUIRE_ALL") == "1":
            pytest.fail(f"POLOS_REQUIRE_ALL is set, but no {request.param}: {found}")
        pytest.skip(f"no {request.param}: {found}")
    return running_servers.of(found)


@pytest.fixture
def redis_cluster(running_servers: RunningServers) -> Cluster:
    """The session's cluster of three masters. Shared: use a `namespace`; slots may be anywhere."""
    return running_servers.cluster(chosen_binary())


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the test's server: of `every_server` where the test has that, else of `server`, or of the
    cluster (and then in partitions on all of its nodes)."""
    if getattr(request, "param", "server") == "cluster":
        monkeypatch.setenv("POLOS_PARTITIONS", PARTITIONS or "6")
        cluster: Cluster = request.getfixturevalue("redis_cluster")
        return cluster.url
    name = "every_server" if "every_server" in request.fixturenames else "server"
    server: EmbeddedServer = request.getfixturevalue(name)
    return server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def chaos_server(tmp_path: Path, namespace: str) -> Iterator[ChaosServer]:
    """A server of the test's own, to `kill()`, `pause()`, `restart()`; its data survives that.

    Whatever state the test left it in, it is up again for the invariants to be checked.
    """
    with ChaosServer(tmp_path / "redis", binary=chosen_binary()) as server:
        yield server
        if server.running:
            server.resume()
        server.start()
        check(server.url, namespace)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that used a server: the invariants hold in its namespace."""
    if not {"server", "every_server", "redis_url", "redis_cluster"} & set(request.fixturenames):
        yield
        return
    # Asked for here so that they, unlike the test's clients and workers, are still there afterwards.
    url: str = request.getfixturevalue("redis_url")
    namespace: str = request.getfixturevalue("namespace")
    yield
    check(url, namespace)


@pytest.fixture(autouse=True)
def nothing_left_behind(temp_dir: Path, running_servers: RunningServers, no_leaks: None) -> Iterator[None]:
    """After each test: no process, thread or temporary file of its that is still there."""
    threads = set(threading.enumerate())
    processes = _descendants()
    files = set(temp_dir.iterdir())
    yield
    _wait_until_none(
        "processes", lambda: {_command(pid) for pid in _descendants() - processes - running_servers.pids()}
    )
    _wait_until_none(
        "threads", lambda: {t.name for t in set(threading.enumerate()) - threads if t.is_alive()}
    )
    _wait_until_none("temporary files", lambda: {path.name for path in set(temp_dir.iterdir()) - files})


def _wait_until_none(what: str, left: Callable[[], set[str]]) -> None:
    deadline = time.monotonic() + 3.0
    while found := left():
        if time.monotonic() > deadline:
            pytest.fail(f"the test left {what} behind: {', '.join(sorted(found))}")
        time.sleep(0.01)


def _descendants() -> set[int]:
    """The processes below this one, zombies included; none where there is no /proc."""
    parents = {int(path.name): os_parent(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {os.getpid()}} - found:
        found |= more
    return found


def _command(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        command = ""
    return f"{pid} ({command or 'zombie'})"


@pytest.fixture
def fleet(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Fleet]:
    """Worker processes on the test's namespace; none outlives the test."""
    with Fleet(redis_url, namespace, tmp_path) as fleet:
        yield fleet
        fleet.show_logs()  # pytest shows it with a test that has failed


@pytest.fixture
async def client(redis_url: str, namespace: str) -> AsyncIterator[PolosClient]:
    """A client of the test's namespace."""
    async with PolosClient(redis_url, namespace) as client:
        yield client
