"""A real Redis or Valkey server as a child of this process, for development and tests.

The server runs under a small keeper process (`keeper.py`) that stops it when this process
ends, in whatever way. It listens on a unix socket or on the loopback interface only. Linux and macOS.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from polos_redis.embedded.binary import ServerBinary, find_server, inspect_server
from polos_redis.errors import ConfigurationError, RedisUnavailableError

SETTINGS: Mapping[str, str] = {
    # The log of every write is what a restart continues from; at most the last second is lost.
    "appendonly": "yes",
    "appendfsync": "everysec",
    "no-appendfsync-on-rewrite": "no",
    # Snapshots would only repeat what the log holds.
    "save": "",
    # A stream preallocates its first node: at the default of 4096 bytes a suspended execution, whose
    # topics hold an event or two, needs four times the memory.
    "stream-node-max-bytes": "256",
    # Executions and journals with values of up to 1 KB stay in the compact encoding.
    "hash-max-listpack-value": "1024",
    "hash-max-listpack-entries": "128",
    # No key may be dropped: better to refuse writes than to forget an execution.
    "maxmemory-policy": "noeviction",
    # Freeing a long journal must not stall everyone (the default in Valkey, not in Redis).
    "lazyfree-lazy-expire": "yes",
    "lazyfree-lazy-user-del": "yes",
}
"""The settings of every Redis configuration of this project; `deploy/redis.conf` has them too."""

_OURS = frozenset(
    {"bind", "daemonize", "dir", "include", "logfile", "port", "protected-mode"}
    | {"tls-port", "unixsocket", "unixsocketperm", "supervised"}
)
_SOCKET_PATH_BYTES = 100  # the kernel's limit is 104 on macOS, 108 on Linux
_START_SECONDS = 30.0
_KEEPER = Path(__file__).with_name("keeper.py")


class EmbeddedServer:
    """A server process of this process's own: `with EmbeddedServer() as server: ... server.url`.

    Without `data_dir` the data lives in a private temporary directory that is deleted at `stop`; a
    `data_dir` is kept, and opened again by a later start. Only one server at a time may have it.
    It listens on a unix socket, or on a loopback port when `port` is given (0: any free one) or
    `socket` is false; with a `data_dir` or a port it comes back to the same address. `config` adds
    settings to `SETTINGS` or replaces them. `binary` is the program to run instead of what
    `find_server` finds.

    It ends with this process, even if that is killed. A forked child may use the server, but does
    not own it: the child can't stop it and does not keep it alive.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        port: int | None = None,
        socket: bool = True,
        config: Mapping[str, str] | None = None,
        binary: str | Path | None = None,
    ) -> None:
        config = dict(config or {})
        if refused := sorted(_OURS & {name.lower() for name in config}):
            raise ConfigurationError(
                f"the embedded server decides on {', '.join(refused)} itself: leave that out of config"
            )
        self._given_dir = None if data_dir is None else Path(data_dir).absolute()
        self._data_dir = self._given_dir
        self._socket_dir: Path | None = None  # where the socket is when data_dir's path is too long for one
        self._port = 0 if port is None and not socket else port
        self._any_port = self._port == 0
        self._config = {**SETTINGS, **config}
        self._binary = binary
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._url: str | None = None
        self._change = threading.RLock()

    @property
    def url(self) -> str:
        """Where clients find it; known once it has been started."""
        if self._url is None:
            raise RedisUnavailableError("the embedded server has not been started: call start() first")
        return self._url

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._pid is None:
            raise RedisUnavailableError("the embedded server is not running: call start() first")
        return self._pid

    @property
    def data_dir(self) -> Path:
        """Where its data and its log are."""
        if self._data_dir is None:
            raise RedisUnavailableError("the embedded server has no data directory yet: call start() first")
        return self._data_dir

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self.data_dir / "server.log"

    @property
    def running(self) -> bool:
        """Whether the server's process is there, as far as its keeper has noticed."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> Self:
        """Start the server and wait until it answers. Does nothing if it is running.

        Raises `ConfigurationError` when there is no server to run or the data directory is in use,
        `RedisUnavailableError`, with the end of the server's log, when it does not come up.
        """
        with self._change:
            if self.running:
                return self
            if os.name == "nt":
                raise ConfigurationError(
                    "the embedded server needs Linux or macOS: run Redis elsewhere and set POLOS_REDIS_URL"
                )
            self._forget()
            binary = self._binary_to_run()
            attempts = 5 if self._any_port else 1
            for attempt in range(attempts):
                try:
                    self._launch(binary)
                    self._any_port = False  # a restart comes back to the same port
                    break
                except _PortTakenError as error:
                    self.stop()
                    if attempt == attempts - 1:
                        raise RedisUnavailableError(str(error)) from None
                except BaseException:
                    self.stop()
                    raise
        return self

    def stop(self) -> None:
        """Stop the server: SIGTERM, after 5 s SIGKILL. Does nothing if it is not running or not ours."""
        with self._change:
            if (keeper := self._keeper) is not None:
                assert keeper.stdin is not None
                keeper.stdin.close()
                try:
                    keeper.wait(15.0)
                except subprocess.TimeoutExpired:  # stopped by a debugger, say
                    if self._pid is not None:
                        os.kill(self._pid, signal.SIGKILL)
                    keeper.kill()
                    keeper.wait()
            self._forget()
            if self._given_dir is None and self._data_dir is not None:
                shutil.rmtree(self._data_dir, ignore_errors=True)
                self._data_dir = None
            if self._socket_dir is not None:
                shutil.rmtree(self._socket_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            return await asyncio.to_thread(self.start)
        except asyncio.CancelledError:
            # A started thread can't be interrupted: stop() waits for it.
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _binary_to_run(self) -> ServerBinary:
        if self._binary is None:
            return find_server()
        found = inspect_server(Path(self._binary))
        if isinstance(found, str):
            raise ConfigurationError(f"the server {self._binary} can't be used: {found}")
        return found

    def _launch(self, binary: ServerBinary) -> None:
        if self._data_dir is None:
            self._data_dir = Path(tempfile.mkdtemp(prefix="polos-"))
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(self._data_dir)
        except OSError as error:
            raise ConfigurationError(f"the data directory {self._data_dir} can't be used: {error}") from error
        with lock, self.log_path.open("ab") as log:
            arguments = self._arguments()
            log_start = log.tell()
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_KEEPER), str(lock.fileno())),
                    str(self._data_dir) if self._given_dir is None else "",
                    *(str(binary.path), *arguments),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(lock.fileno(),),
                cwd="/",
                start_new_session=True,  # out of the terminal's reach: Ctrl-C is for the owner
            )
            _running.add(self)
        assert self._keeper.stdout is not None
        with self._keeper.stdout as said:
            pid = said.readline()
        self._pid = int(pid) if pid else None
        self._wait_until_ready(binary, log_start)

    def _arguments(self) -> list[str]:
        assert self._data_dir is not None
        listen = ["--port", "0"]
        if self._port is None:
            path = self._socket_path(self._data_dir)
            self._url = "unix://" + quote(str(path))
            listen += ["--unixsocket", str(path), "--unixsocketperm", "700"]
        else:
            if self._any_port:
                self._port = _free_port()
            self._url = f"redis://127.0.0.1:{self._port}/0"
            listen = ["--port", str(self._port), "--bind", "127.0.0.1", "--protected-mode", "yes"]
        arguments = ["--dir", str(self._data_dir), "--daemonize", "no", *listen]
        for name, value in self._config.items():
            arguments += [f"--{name}", *(shlex.split(value) or [""])]
        return arguments

    def _socket_path(self, data_dir: Path) -> Path:
        path = data_dir / "server.sock"
        if len(os.fsencode(path)) < _SOCKET_PATH_BYTES:
            return path
        if self._socket_dir is None:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="polos-"))
        self._socket_dir.mkdir(mode=0o700, exist_ok=True)
        return self._socket_dir / "server.sock"

    def _wait_until_ready(self, binary: ServerBinary, log_start: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        answer = "no answer"
        while self.running and time.monotonic() < deadline:
            try:
                answer, pid = self._ask()
            except OSError as error:
                answer = f"no answer ({error})"
                time.sleep(0.005)
                continue
            if pid not in (None, self._pid):
                raise _PortTakenError(
                    f"port {self._port} is taken by another server (process {pid}): choose another port"
                )
            if answer == "+PONG":
                return
            if not answer.startswith("-LOADING"):
                break
            deadline = time.monotonic() + _START_SECONDS  # a long log takes its time
            time.sleep(0.02)
        with self.log_path.open("rb") as log:
            log.seek(log_start)
            tail = b"\n".join(log.read().splitlines()[-15:]).decode(errors="replace")
        if "Address already in use" in tail and self._port is not None:
            raise _PortTakenError(f"port {self._port} is taken by another program: choose another port")
        why = "it ended" if not self.running else answer
        raise RedisUnavailableError(
            f"the embedded server did not come up ({binary.path}, {binary.version}): {why}; "
            f"its log ends:\n{tail}"
        )

    def _ask(self) -> tuple[str, int | None]:
        """PING, and the process id of who answered: someone else may sit on the port."""
        if self._port is None:
            assert self._data_dir is not None
            line = socket.socket(socket.AF_UNIX)
            address: str | tuple[str, int] = str(self._socket_path(self._data_dir))
        else:
            line = socket.socket(socket.AF_INET)
            address = ("127.0.0.1", self._port)
        with line:
            line.settimeout(1.0)
            line.connect(address)
            line.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
            with line.makefile("rb") as replies:
                text = replies.read().decode(errors="replace")
        answer, _, rest = text.partition("\r\n")
        if not answer:
            raise ConnectionResetError("the connection was closed")
        pid = re.search(r"^process_id:(\d+)", rest, re.MULTILINE)
        return answer, int(pid[1]) if pid else None

    def _forget(self) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper = None
        self._pid = None
        _running.discard(self)

    def _disown(self) -> None:
        """In a forked child: let go of the pipe, so that it does not keep the server alive."""
        if self._keeper is not None:
            self._keeper.returncode = 0  # not a child of this process: nothing to wait for
        self._change = threading.RLock()
        self._given_dir = self._data_dir  # whatever the child does, the directory is not its to delete
        self._socket_dir = None
        self._forget()


class _PortTakenError(Exception):
    pass


def _lock(data_dir: Path) -> IO[str]:
    """The directory's lock, to be inherited by the server: it is held exactly as long as that lives."""
    import fcntl  # not on Windows, where this module can be imported but no server started

    lock = (data_dir / "server.lock").open("a+")
    deadline = time.monotonic() + 10.0
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            if time.monotonic() < deadline and owner.isdigit() and _abandoned(data_dir, int(owner)):
                time.sleep(0.02)
                continue
            lock.close()
            raise ConfigurationError(
                f"the data directory {data_dir} is in use by process {owner or '?'}: stop that one or choose "
                "another directory"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock


def _abandoned(data_dir: Path, owner: int) -> bool:
    """Whether what holds the lock is about to end: its owner has died, or it is what a killed server left."""
    if owner == os.getpid():
        return all(server._data_dir != data_dir for server in _running)
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_running: set[EmbeddedServer] = set()


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        with contextlib.suppress(Exception):
            server.stop()


def _disown_all() -> None:
    for server in list(_running):
        server._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
