"""Real servers for every test, and the checks that follow each of them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from polos_redis import PolosClient
from polos_redis.definitions import registry
from polos_redis.embedded import EmbeddedServer
from polos_redis.errors import ConfigurationError
from polos_redis.sync.event_loop import NAME as sync_threads
from tests.harness.cluster import Cluster
from tests.harness.fleet import Fleet
from tests.harness.programs import skip_without
from tests.harness.servers import KINDS, ChaosServer, RunningServers, chosen_binary, server_binaries
from tests.invariants.state import erase
from tests.invariants.state_invariants import check

pytest_plugins = ["tests.harness.left_out"]

# The tests ignore the developer's shell settings for servers, proxies, models and terminals.
for _name in list(os.environ):
    _ours = _name.startswith("POLOS_") and not _name.startswith(("POLOS_TEST_", "POLOS_PYTHON_"))
    if _ours or _name.startswith("OPENAI_") or _name.lower().endswith("_proxy"):
        del os.environ[_name]
for _name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"):
    os.environ.pop(_name, None)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a script's background: programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
PARTITIONS = os.environ.get("POLOS_TEST_PARTITIONS", "")
if PARTITIONS:
    os.environ["POLOS_PARTITIONS"] = PARTITIONS
ON_CLUSTER = os.environ.get("POLOS_TEST_CLUSTER") == "1"
SERVERS = int(os.environ.get("POLOS_TEST_SERVERS", "0"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise `redis_url` by the markers `also_on_cluster` and `only_on_cluster`; POLOS_TEST_CLUSTER=1
    runs every test on the cluster, POLOS_TEST_SERVERS=3 on three servers.

    Tests that request `server`, `every_server` or `chaos_server` stay on one server: they inspect it over
    their own connections, restart it or change its settings.
    """
    if "every_binary" in metafunc.fixturenames and metafunc.config.getoption("servers") == "all":
        metafunc.parametrize("every_binary", KINDS, indirect=True, scope="session")
    if "redis_url" not in metafunc.fixturenames or "every_server" in metafunc.fixturenames:
        return
    if ON_CLUSTER or metafunc.definition.get_closest_marker("only_on_cluster"):
        metafunc.parametrize("redis_url", ["cluster"], indirect=True)
    elif SERVERS:
        metafunc.parametrize("redis_url", ["servers"], indirect=True)
    elif metafunc.definition.get_closest_marker("also_on_cluster"):
        metafunc.parametrize("redis_url", ["server", "cluster"], indirect=True)


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto` starts three workers per core, since most tests wait for a server, a lease or a process;
    twelve at most, as each has its own servers and a container may report cores it does not have."""
    return min(12, 3 * (os.cpu_count() or 1))


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """asyncio, or uvloop with POLOS_TEST_LOOP=uvloop."""
    return "asyncio", {"use_uvloop": os.environ.get("POLOS_TEST_LOOP") == "uvloop"}


@pytest.fixture
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has defined no workflow yet. What the test defines is forgotten afterwards."""
    monkeypatch.setattr(registry, "_registry", {})
    monkeypatch.setattr(registry, "_sites", {})


@pytest.fixture(scope="session", autouse=True)
def temp_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The session's own temporary folder, so that leftovers are noticed."""
    tmp_path_factory.getbasetemp()  # keeps `tmp_path` where pytest puts it
    # Short, and outside pytest's folder: the path of a unix socket is limited in length.
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
    """Servers that live as long as the session (the xdist worker)."""
    servers = RunningServers(temp_dir.parent / "servers")
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def binary() -> Path:
    """The server program that tests run on."""
    try:
        return chosen_binary()
    except ConfigurationError as error:
        skip_without("valkey-server or redis-server", str(error))


@pytest.fixture(scope="session")
def server(running_servers: RunningServers, binary: Path) -> EmbeddedServer:
    """The session's server. Shared: use a `namespace`, never FLUSHALL or CONFIG SET."""
    return running_servers.of(binary)


@pytest.fixture(scope="session")
def every_binary(request: pytest.FixtureRequest) -> Path:
    """With `--servers=all`, each kind of server in turn; otherwise the default one."""
    if not hasattr(request, "param"):
        chosen: Path = request.getfixturevalue("binary")
        return chosen
    found = server_binaries()[request.param]
    if isinstance(found, str):
        skip_without(KINDS[request.param], found)
    return found


@pytest.fixture(scope="session")
def every_server(running_servers: RunningServers, every_binary: Path) -> EmbeddedServer:
    """The session's server running `every_binary`."""
    return running_servers.of(every_binary)


@pytest.fixture
def redis_cluster(running_servers: RunningServers, binary: Path) -> Cluster:
    """The session's cluster of three masters. Shared: use a `namespace`; slots may be anywhere."""
    return running_servers.cluster(binary)


@pytest.fixture
def several_servers(running_servers: RunningServers, binary: Path) -> list[EmbeddedServer]:
    """With POLOS_TEST_SERVERS, the session's servers that share namespaces. Shared: use a `namespace`."""
    return running_servers.several(binary, SERVERS)


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the test's server: the cluster or several servers (with partitions on all of them) where the
    test is parametrised with it, else `every_server` if requested, else `server`."""
    kind = getattr(request, "param", "server")
    if kind != "server":
        monkeypatch.setenv("POLOS_PARTITIONS", PARTITIONS or "6")
    if kind == "cluster":
        cluster: Cluster = request.getfixturevalue("redis_cluster")
        return cluster.url
    if kind == "servers":
        counts = [request.node.callspec.params.get(name, SERVERS) for name in ("partitions", "many", "at")]
        if min(counts) < SERVERS:
            pytest.skip(f"{SERVERS} servers need as many partitions")
        servers: list[EmbeddedServer] = request.getfixturevalue("several_servers")
        return ",".join(one.url for one in servers)
    name = "every_server" if "every_server" in request.fixturenames else "server"
    server: EmbeddedServer = request.getfixturevalue(name)
    return server.url


@pytest.fixture
def one_partition(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of one server, for a test of a namespace with one partition, whatever the others run on."""
    monkeypatch.setenv("POLOS_PARTITIONS", "1")
    return server.url


@pytest.fixture
def namespace() -> str:
    """A namespace unique to the test."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def chaos_server(binary: Path, tmp_path: Path, namespace: str) -> Iterator[ChaosServer]:
    """The test's own server, to `kill()`, `pause()` and `restart()`; its data survives. It fsyncs at once:
    with `everysec`, Redis answers before it writes its log while an fsync is slow, so a kill loses writes.

    Whatever state the test leaves it in, it is started again so that the invariants can be checked.
    """
    with ChaosServer(tmp_path / "redis", binary=binary, config={"appendfsync": "always"}) as server:
        yield server
        if server.running:
            server.resume()
        server.start()
        check(server.url, namespace)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that used a server, checks the invariants in its namespace and erases it."""
    if not {"server", "every_server", "redis_url", "redis_cluster"} & set(request.fixturenames):
        yield
        return
    # Requested here so that they outlive the test's clients and workers.
    url: str = request.getfixturevalue("redis_url")
    namespace: str = request.getfixturevalue("namespace")
    yield
    check(url, namespace)
    erase(url, namespace)


@pytest.fixture(autouse=True)
def nothing_left_behind(temp_dir: Path, running_servers: RunningServers, no_leaks: None) -> Iterator[None]:
    """Fails a test that leaves a process, a thread or a temporary file behind."""
    threads = _threads()
    processes = _descendants()
    files = set(temp_dir.iterdir())
    yield
    _wait_until_none(
        "processes", lambda: {_command(pid) for pid in _descendants() - processes - running_servers.pids()}
    )
    _wait_until_none("threads", lambda: {t.name for t in _threads() - threads if t.is_alive()})
    _wait_until_none("temporary files", lambda: {path.name for path in set(temp_dir.iterdir()) - files})


def _threads() -> set[threading.Thread]:
    """The threads, without those of synchronous clients, which stay for as long as the process."""
    return {one for one in threading.enumerate() if not one.name.startswith(sync_threads)}


def _wait_until_none(what: str, left: Callable[[], set[str]]) -> None:
    deadline = time.monotonic() + 3.0
    while found := left():
        if time.monotonic() > deadline:
            pytest.fail(f"the test left {what} behind: {', '.join(sorted(found))}")
        time.sleep(0.01)


def _descendants() -> set[int]:
    """All child processes, zombies included; empty where the kernel keeps no lists of children.

    It runs at least twice per test, so it does not scan every process of the machine.
    """
    found: set[int] = set()
    unseen = [os.getpid()]
    while unseen:
        threads = _listed(Path(f"/proc/{unseen.pop()}/task"))
        children = {int(pid) for thread in threads for pid in _text(thread / "children").split()}
        unseen += children - found
        found |= children
    return found


def _command(pid: int) -> str:
    command = _text(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
    return f"{pid} ({command or 'zombie'})"


def _listed(folder: Path) -> list[Path]:
    """The entries of a /proc folder; empty once the process is gone."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    """The contents of a /proc file; empty once the process is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.fixture
def fleet(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Fleet]:
    """Worker processes in the test's namespace; none outlives the test."""
    with Fleet(redis_url, namespace, tmp_path) as fleet:
        yield fleet
        fleet.show_logs()  # pytest shows it with a failed test


@pytest.fixture
async def client(redis_url: str, namespace: str) -> AsyncIterator[PolosClient]:
    """A client in the test's namespace."""
    async with PolosClient(redis_url, namespace) as client:
        yield client
