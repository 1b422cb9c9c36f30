"""A master, a replica and a sentinel that watches them, on this machine's loopback interface."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import redis

from polos_redis.embedded import EmbeddedServer
from polos_redis.embedded.address import ServerAddress
from tests.harness.servers import AT_ONCE, wait_for
from tests.invariants.state import RawConnection

SERVICE = "polos-master"
PASSWORD = "s3cret"


class _Address(ServerAddress):
    def ping(self) -> tuple[str, int | None]:
        """PING alone: a sentinel doesn't know QUIT."""
        assert self.url is not None
        try:
            with RawConnection(self.url) as connection:
                return f"+{connection.do('PING').decode()}", None
        except redis.ConnectionError as error:
            raise OSError(str(error)) from error


class Sentinel(EmbeddedServer):
    """A sentinel without a password; the servers it watches have one."""

    def __init__(self, folder: Path, binary: Path, master: EmbeddedServer) -> None:
        super().__init__(folder, binary=binary)
        self._address = _Address(0)
        self._master_port = port_of(master.url)

    def _arguments(self) -> list[str]:
        self._address.assign(self.data_dir)
        settings = self.data_dir / "sentinel.conf"  # the sentinel writes its findings into this file
        settings.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master_port} 1\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} 60000\n"
        )
        listen = ("--port", str(self._address.port), "--bind", "127.0.0.1", "--dir", str(self.data_dir))
        return [str(settings), "--sentinel", *listen]

    def do(self, *command: str) -> Any:
        """Sends one command over a new connection."""
        with RawConnection(self.url) as connection:
            return connection.do(*command)


class Watched:
    """`with Watched(folder, binary) as watched: watched.url`."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self._folder, self._binary = folder, binary

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            master = stack.enter_context(
                EmbeddedServer(self._folder / "master", port=0, binary=self._binary, config=AT_ONCE)
            )
            follow = {"replicaof": f"127.0.0.1 {port_of(master.url)}", "masterauth": PASSWORD}
            replica = stack.enter_context(
                EmbeddedServer(self._folder / "replica", port=0, binary=self._binary, config=follow)
            )
            for server in (master, replica):
                with RawConnection(server.url) as connection:
                    connection.do("CONFIG", "SET", "masterauth", PASSWORD)
                    connection.do("CONFIG", "SET", "requirepass", PASSWORD)
            self.sentinel = stack.enter_context(Sentinel(self._folder / "sentinel", self._binary, master))
            self.sentinel.do("SENTINEL", "DEBUG", "INFO-PERIOD", "100")  # it looks every 10 s otherwise
            wait_for(self._in_sync, "the sentinel to see the replica in sync")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"redis+sentinel://:{PASSWORD}@127.0.0.1:{port_of(self.sentinel.url)}/{SERVICE}"

    def master_port(self) -> int:
        return int(self.sentinel.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def replicated(self) -> None:
        """Come back when the replica has what the master has by now."""
        url = f"redis://:{PASSWORD}@127.0.0.1:{self.master_port()}"
        with RawConnection(url) as connection:
            connection.do("SET", "polos-replicated", "yes")
            assert connection.do("WAIT", 1, 20_000) == 1
            connection.do("DEL", "polos-replicated")

    def fail_over(self) -> None:
        """Have the replica promoted, and come back when the old master follows it."""
        before = self.master_port()
        assert self.sentinel.do("SENTINEL", "FAILOVER", SERVICE) == b"OK"
        wait_for(lambda: self.master_port() != before, "the failover")
        wait_for(lambda: self._follows(before), "the old master to follow")

    def _follows(self, port: int) -> bool:
        try:
            with RawConnection(f"redis://:{PASSWORD}@127.0.0.1:{port}") as connection:
                return bool(connection.do("ROLE")[0] == b"slave")
        except redis.ConnectionError:  # it closes all connections when its role changes
            return False

    def _in_sync(self) -> bool:
        replicas = self.sentinel.do("SENTINEL", "REPLICAS", SERVICE)
        facts = [dict(zip(row[::2], row[1::2], strict=True)) for row in replicas]
        return any(row[b"master-link-status"] == b"ok" and row[b"flags"] == b"slave" for row in facts)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
