"""The options that commands share, and the client they make of them."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from polos_redis.client import PolosClient

T = TypeVar("T")

SERVER_NEEDS = ("fastapi", "jinja2", "python_multipart", "uvicorn")  # what the extra `server` brings
PATIENCE_SECONDS = 3.0  # a person waits at the other end

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="POLOS_REDIS_URL",
        metavar="URL",
        show_default="redis://127.0.0.1:6379/0",
        help="Where Redis is.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        envvar="POLOS_NAMESPACE",
        metavar="NAME",
        show_default="default",
        help="Whose executions.",
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        "--patience",
        envvar="POLOS_PATIENCE_SECONDS",
        metavar="SECONDS",
        help="How long to wait for a Redis that is away.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", show_default="your user name here", help="Who says so.")
]


def client_of(url: str | None, namespace: str | None, patience: float) -> PolosClient:
    """The client that the shared options describe."""
    return PolosClient(url, namespace, patience_seconds=patience)


def ask(client: PolosClient, call: Callable[[], Awaitable[T]]) -> T:
    """Run one conversation with Redis, and close its connections."""

    async def talk() -> T:
        async with client:
            return await call()

    return asyncio.run(talk())


def who(by: str | None) -> str | None:
    """The name given, else the user's name on this machine; None where it has none."""
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None
