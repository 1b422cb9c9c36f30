"""Address of an embedded server: a unix socket, or a port on the loopback interface."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from pathlib import Path
from urllib.parse import quote

_SOCKET_PATH_BYTES = 100  # the kernel's limit is 104 on macOS and 108 on Linux


class PortTakenError(Exception):
    """Another program listens on the port."""


class ServerAddress:
    """Address that one embedded server listens on.

    `port` None stands for a unix socket in the data directory, 0 for any free port. A server that is
    restarted in the same data directory gets the same address.
    """

    def __init__(self, port: int | None) -> None:
        self.port = port
        self.any_port = port == 0  # False once a server has listened on the port
        self.url: str | None = None  # known after `assign`
        self._socket: Path | None = None
        self._short_dir: Path | None = None  # for the socket if the data directory's path is too long

    def assign(self, data_dir: Path) -> list[str]:
        """Chooses the address and returns the server's arguments for it."""
        if self.port is None:
            self._socket = self._socket_path(data_dir)
            self.url = "unix://" + quote(str(self._socket))
            return ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        if self.any_port:
            self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        return ["--port", str(self.port), "--bind", "127.0.0.1", "--protected-mode", "yes"]

    def ping(self) -> tuple[str, int | None]:
        """The reply to PING and the process id of the server, which may be another one on the same port.

        Raises OSError.
        """
        text = self._send("PING", "INFO server")
        answer, _, info = text.partition("\r\n")
        if not answer:
            raise ConnectionResetError("the connection was closed")
        pid = re.search(r"^process_id:(\d+)", info, re.MULTILINE)
        return answer, int(pid[1]) if pid else None

    def rewrite_log(self) -> None:
        """Has the server rewrite its log in the background. Raises OSError."""
        self._send("BGREWRITEAOF")

    def _send(self, *commands: str) -> str:
        """Sends commands over a connection of their own; returns the replies."""
        family = socket.AF_UNIX if self.port is None else socket.AF_INET
        address = str(self._socket) if self.port is None else ("127.0.0.1", self.port)
        with socket.socket(family) as connection:
            connection.settimeout(1.0)
            connection.connect(address)
            connection.sendall("".join(f"{command}\r\n" for command in (*commands, "QUIT")).encode())
            with connection.makefile("rb") as replies:
                return replies.read().decode(errors="replace")

    def remove(self) -> None:
        """Deletes the directory created for the socket, if any."""
        if self._short_dir is not None:
            shutil.rmtree(self._short_dir, ignore_errors=True)

    def disown(self) -> None:
        """Leaves that directory to the parent process, in a forked child."""
        self._short_dir = None

    def _socket_path(self, data_dir: Path) -> Path:
        path = data_dir / "server.sock"
        if len(os.fsencode(path)) < _SOCKET_PATH_BYTES:
            return path
        if self._short_dir is None:
            self._short_dir = Path(tempfile.mkdtemp(prefix="polos-"))
        self._short_dir.mkdir(mode=0o700, exist_ok=True)
        return self._short_dir / "server.sock"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
