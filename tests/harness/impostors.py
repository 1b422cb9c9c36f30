"""Servers that speak Redis' protocol and are not Redis: they answer as the real ones do, as far as a worker's
start-up asks. No such server comes as a package, so the real ones can't run here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

UNKNOWN = b"-ERR unknown command\r\n"
INFO = {
    "Dragonfly": (
        "# Server\r\nredis_version:7.4.0\r\ndragonfly_version:df-v1.40.1\r\nredis_mode:standalone\r\n"
        "thread_count:7\r\nmultiplexing_api:iouring\r\n"
    ),
    "Garnet": "# Server\r\ngarnet_version:1.0.84\r\nos:Unix 6.8\r\nredis_mode:standalone\r\n",
    "Kvrocks": "# Server\r\nredis_version:7.0.0\r\nkvrocks_version:2.9.0\r\n",
    "unknown": "# Server\r\nredis_version:7.2.0\r\n",
}


def bulk(text: str) -> bytes:
    data = text.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


LAYOUT = b"*6\r\n" + bulk("1 of 1") + bulk("1") + bulk("0 to 0") + b"$-1\r\n" * 3


@asynccontextmanager
async def impostor(info: str, eval_reply: bytes) -> AsyncIterator[str]:
    """A server with this INFO, a namespace of one partition and one answer to all scripts; yields its URL."""

    def answer(name: str) -> bytes:
        if name == "INFO":
            return bulk(info)
        return {
            "HMGET": LAYOUT, "PING": b"+PONG\r\n", "CLIENT": b"+OK\r\n", "SCRIPT": bulk("0" * 40),
            "EVALSHA": eval_reply, "EVAL": eval_reply,
        }.get(name, UNKNOWN)  # fmt: skip

    server = await asyncio.start_server(lambda r, w: _serve(r, w, answer), "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[str], bytes]
) -> None:
    parser = hiredis.Reader()
    try:
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                writer.write(answer(command[0].decode().upper()))
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
