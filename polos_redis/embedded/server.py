"""Redis or Valkey server that runs as a child of this process, for development and tests on Linux and macOS.

A small keeper process (keeper.py) stops the server when this process ends, even if it is killed. The server
listens only on a unix socket or on the loopback interface.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from polos_redis.embedded.address import PortTakenError, ServerAddress
from polos_redis.embedded.binary import ServerBinary, find_server, inspect_server
from polos_redis.embedded.lock import lock_directory
from polos_redis.errors import ConfigurationError, RedisUnavailableError

SETTINGS: Mapping[str, str] = {
    # A restart continues from the log of all writes. At most the last second is lost.
    "appendonly": "yes",
    "appendfsync": "everysec",
    "no-appendfsync-on-rewrite": "no",
    # Snapshots would only repeat the log.
    "save": "",
    # A stream preallocates its first node. With the default of 4096 bytes, a suspended execution, whose
    # topics hold an event or two, takes four times the memory.
    "stream-node-max-bytes": "256",
    # Executions and journals with values of up to 1 KB keep the compact encoding.
    "hash-max-listpack-value": "1024",
    "hash-max-listpack-entries": "128",
    # Refuse writes when memory is full: an evicted key would lose an execution.
    "maxmemory-policy": "noeviction",
    # Freeing a long journal must not block all clients (the default in Valkey, but not in Redis).
    "lazyfree-lazy-expire": "yes",
    "lazyfree-lazy-user-del": "yes",
}
"""Redis settings that polos-redis needs; `deploy/redis.conf` has the same."""

_RESERVED = frozenset(
    {"bind", "daemonize", "dir", "include", "logfile", "port", "protected-mode"}
    | {"tls-port", "unixsocket", "unixsocketperm", "supervised"}
)
_START_SECONDS = 30.0
# Redis has cut an open transaction off a log that was being rewritten. It exits, and the next start loads it.
_MENDED = "the truncated file is not the last file"
_KEEPER = Path(__file__).with_name("keeper.py")


class _LogMendedError(Exception):
    """The server has mended its log and exited."""


class EmbeddedServer:
    """Redis or Valkey server that belongs to this process: `with EmbeddedServer() as server: ... server.url`.

    Without `data_dir`, the data lives in a private temporary directory that `stop` deletes. A `data_dir` is
    kept and used again by later starts, by one server at a time.

    The server listens on a unix socket, or on a loopback port if `port` is given (0 for any free one) or
    `socket` is False. With a `data_dir` or a port, a restart gets the same address. `config` extends or
    overrides `SETTINGS`. `binary` is the program to run; by default `find_server` finds one.

    The server ends with this process, even if the process is killed. A forked child may use the server but
    does not own it: the child can't stop it and does not keep it alive.
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
        if reserved := sorted(_RESERVED & {name.lower() for name in config}):
            raise ConfigurationError(
                f"config can't contain {', '.join(reserved)}: the embedded server sets that itself"
            )
        self._owns_dir = data_dir is None
        self._data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._address = ServerAddress(0 if port is None and not socket else port)
        self._config = {**SETTINGS, **config}
        self._binary = binary
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._lock = threading.RLock()  # held by start and stop

    @property
    def url(self) -> str:
        """URL for clients, known after the first start."""
        if self._address.url is None:
            raise RedisUnavailableError("the embedded server has not been started: call start() first")
        return self._address.url

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._pid is None:
            raise RedisUnavailableError("the embedded server is not running: call start() first")
        return self._pid

    @property
    def lifeline(self) -> int:
        """File descriptor that keeps the running server running. It does so in a child process that inherits
        it, too, until that has ended, even if this process is killed before."""
        if self._keeper is None or self._keeper.stdin is None:
            raise RedisUnavailableError("the embedded server is not running: call start() first")
        return self._keeper.stdin.fileno()

    @property
    def data_dir(self) -> Path:
        """Directory of the server's data and log."""
        if self._data_dir is None:
            raise RedisUnavailableError("the embedded server has no data directory yet: call start() first")
        return self._data_dir

    @property
    def log_path(self) -> Path:
        """The server's log file."""
        return self.data_dir / "server.log"

    @property
    def running(self) -> bool:
        """Whether the server's process runs, as far as its keeper has noticed."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> Self:
        """Start the server and wait until it answers. Does nothing if it is running.

        Raises `ConfigurationError` if there is no server to run or the data directory is in use, and
        `RedisUnavailableError` with the end of the server's log if it does not come up.
        """
        with self._lock:
            if self.running:
                return self
            if os.name == "nt":
                raise ConfigurationError(
                    "the embedded server needs Linux or macOS: run Redis elsewhere and set POLOS_REDIS_URL"
                )
            self._forget()
            binary = self._binary_to_run()
            attempts = 5 if self._address.any_port else 1
            for attempt in range(attempts):
                try:
                    try:
                        self._launch(binary)
                    except _LogMendedError:
                        self._forget()
                        self._launch(binary)
                    self._address.any_port = False  # a restart uses the same port
                    break
                except PortTakenError as error:
                    self.stop()
                    if attempt == attempts - 1:
                        raise RedisUnavailableError(str(error)) from None
                except BaseException:
                    self.stop()
                    raise
        return self

    def stop(self) -> None:
        """Stop the server: SIGTERM, then SIGKILL after 5 s. Does nothing if it is not running or not ours."""
        with self._lock:
            if (keeper := self._keeper) is not None:
                assert keeper.stdin is not None
                keeper.stdin.close()
                try:
                    keeper.wait(15.0)
                except subprocess.TimeoutExpired:  # for example stopped by a debugger
                    if self._pid is not None:
                        os.kill(self._pid, signal.SIGKILL)
                    keeper.kill()
                    keeper.wait()
            self._forget()
            if self._owns_dir and self._data_dir is not None:
                shutil.rmtree(self._data_dir, ignore_errors=True)
                self._data_dir = None
            self._address.remove()

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
            # A started thread can't be interrupted; stop() waits for it.
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
        data_dir = self._data_dir = self._data_dir or Path(tempfile.mkdtemp(prefix="polos-"))
        loads = any(data_dir.glob("*/*.manifest"))
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_directory(data_dir, lambda: any(one._data_dir == data_dir for one in _running))
        except OSError as error:
            raise ConfigurationError(f"the data directory {data_dir} can't be used: {error}") from error
        with lock, self.log_path.open("ab") as log:
            log_start = log.tell()
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_KEEPER), str(lock.fileno())),
                    str(data_dir) if self._owns_dir else "",
                    *(str(binary.path), *self._arguments()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(lock.fileno(),),
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal must reach only this process
            )
            _running.add(self)
        assert self._keeper.stdout is not None
        with self._keeper.stdout as output:
            pid = output.readline()
        self._pid = int(pid) if pid else None
        self._wait_until_ready(binary, log_start)
        if loads:
            self._end_open_transaction()

    def _end_open_transaction(self) -> None:
        """Have the server rewrite its log, in the background. A crash may have cut it within a script's
        transaction; Redis then leaves that open in the log, and the next start would load half of it."""
        with contextlib.suppress(OSError):  # a worker requests it as well
            self._address.rewrite_log()

    def _arguments(self) -> list[str]:
        listen = self._address.assign(self.data_dir)
        arguments = ["--dir", str(self.data_dir), "--daemonize", "no", *listen]
        for name, value in self._config.items():
            arguments += [f"--{name}", *(shlex.split(value) or [""])]
        return arguments

    def _wait_until_ready(self, binary: ServerBinary, log_start: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        answer = "no answer"
        while self.running and time.monotonic() < deadline:
            try:
                answer, pid = self._address.ping()
            except OSError as error:
                answer = f"no answer ({error})"
                time.sleep(0.005)
                continue
            if pid not in (None, self._pid):
                raise PortTakenError(
                    f"port {self._address.port} is taken by another server (process {pid}): "
                    "choose another port"
                )
            if answer == "+PONG":
                return
            if not answer.startswith("-LOADING"):
                break
            deadline = time.monotonic() + _START_SECONDS  # loading a long log takes time
            time.sleep(0.02)
        self._raise_start_failure(binary, answer, log_start)

    def _raise_start_failure(self, binary: ServerBinary, answer: str, log_start: int) -> NoReturn:
        with self.log_path.open("rb") as log:
            log.seek(log_start)
            tail = b"\n".join(log.read().splitlines()[-15:]).decode(errors="replace")
        port = self._address.port
        if "Address already in use" in tail and port is not None:
            raise PortTakenError(f"port {port} is taken by another program: choose another port")
        if _MENDED in tail:
            raise _LogMendedError(tail)
        why = answer if self.running else "it exited"
        raise RedisUnavailableError(
            f"the embedded server did not start ({binary.path}, {binary.version}): {why}; "
            f"its log ends with:\n{tail}"
        )

    def _forget(self) -> None:
        """Let go of the keeper's process."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper = None
        self._pid = None
        _running.discard(self)

    def _disown(self) -> None:
        """In a forked child: close the pipe, so that the child does not keep the server alive."""
        if self._keeper is not None:
            self._keeper.returncode = 0  # not a child of this process, which therefore can't wait for it
        self._lock = threading.RLock()
        self._owns_dir = False  # the directory is not the child's to delete
        self._address.disown()
        self._forget()


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
