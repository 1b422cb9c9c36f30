"""Functions that take the asynchronous client: what else they are given is refused at the call, not when the
result is awaited."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from polos_redis import tasks
from polos_redis.connection.connection import Connection

F = TypeVar("F", bound=Callable[..., Any])

SYNC_CLIENT = "polos_redis.sync.PolosClient"


class SynchronousClient:
    """The base of clients without asyncio."""


def takes_client(function: F) -> F:
    """Let a function, whose first parameter is `client`, raise `TypeError` at the call if that is not an
    asynchronous client. A method has it after `self`."""
    is_method, name = "." in function.__qualname__, function.__name__
    at, module = int(is_method), function.__module__.split(".")[1]
    how = "stream" if inspect.isasyncgenfunction(function) else "call"

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if len(args) > at:
            client = args[at]
        elif "client" in kwargs:
            client = kwargs["client"]
        else:
            return function(*args, **kwargs)  # which says that it is missing
        if not isinstance(client, Connection):
            owner = type(args[0]).__name__ if is_method else module
            instead = f"client.{how}({owner[0].lower()}{owner[1:]}.{name}, ...)"
            raise not_a_client(f"{owner}.{name}", client, instead)
        return function(*args, **kwargs)

    return cast("F", checked)


def check_client(what: str, client: object) -> None:
    """Raises `TypeError` if `client`, an argument of `what`, is not an asynchronous client."""
    if not isinstance(client, Connection):
        raise not_a_client(what, client)


def not_a_client(what: str, given: object, instead: str = "") -> TypeError:
    """Returns the error of a call that was given something else. `instead` is how code with a synchronous
    client calls it."""
    if isinstance(given, SynchronousClient) and instead:
        return TypeError(f"{what} takes an asynchronous client: with a {SYNC_CLIENT}, use {instead}")
    kind = SYNC_CLIENT if isinstance(given, SynchronousClient) else type(given).__name__
    inside = ": inside a workflow, use ctx.step" if instead and tasks.in_workflow() else ""
    return TypeError(f"{what} takes a polos_redis.PolosClient, not {kind}{inside}")
