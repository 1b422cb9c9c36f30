"""A webhook receiver: a real HTTP server with scripted answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from polos_redis.testing.model.listener import LoopbackListener

HANG = 0  # instead of a status: never answer


def free_port() -> int:
    """A port that nobody listens on, so connections are refused."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Request:
    """A received request."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """Whether one of its signatures is valid by the Standard Webhooks specification."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return expected in self.headers["webhook-signature"].split(" ")


class Receiver:
    """`async with Receiver([500, 200]) as receiver:`; the last answer repeats."""

    def __init__(self, answers: Iterable[int] = (), port: int = 0) -> None:
        self.answers = deque(answers)
        self.requests: list[Request] = []
        self._listener = LoopbackListener(self._handle, port)

    async def __aenter__(self) -> Self:
        await self._listener.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.port}/hook?key=hidden"

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rows = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append(Request(line, headers, body))
        answer = 200 if not self.answers else self.answers[0]
        if len(self.answers) > 1:
            self.answers.popleft()
        if answer == HANG:
            await asyncio.Event().wait()
        more = "location: /elsewhere\r\n" if 300 <= answer < 400 else ""
        writer.write(
            f"HTTP/1.1 {answer} Answer\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()
