"""Calls of coroutine functions that take an asynchronous client, by code that has a synchronous one.

The functions made of them have their signatures, types included, so the two can't drift apart.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from polos_redis.client import PolosClient as AsyncClient
from polos_redis.connection.clients import SYNC_CLIENT, SynchronousClient
from polos_redis.sync import event_loop
from polos_redis.sync.stream import Stream

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class AsyncCalls(SynchronousClient):
    """The part of a synchronous client that calls functions with its asynchronous one."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def call(
        self,
        function: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a coroutine function with this client's asynchronous client and these arguments, and return
        its result: `client.call(agent.run, "Hello")` for `await agent.run(async_client, "Hello")`."""
        return event_loop.run(lambda: function(self._client, *args, **kwargs))

    def stream(
        self,
        function: Callable[Concatenate[AsyncClient, P], AsyncIterator[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[T]:
        """Call a function with this client's asynchronous client and these arguments, and return a stream of
        what it yields."""
        return Stream(function(self._client, *args, **kwargs))


def blocking(
    function: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[AsyncCalls, P], T]:
    """Returns a function of a synchronous client that returns the result of `function`."""

    def call(client: AsyncCalls, /, *args: P.args, **kwargs: P.kwargs) -> T:
        _check(function, client)
        return client.call(function, *args, **kwargs)

    return _described(call, function)


def streaming(
    function: Callable[Concatenate[AsyncClient, P], AsyncIterator[T]],
) -> Callable[Concatenate[AsyncCalls, P], Stream[T]]:
    """Returns a function of a synchronous client that streams what `function` yields."""

    def stream(client: AsyncCalls, /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        _check(function, client)
        return client.stream(function, *args, **kwargs)

    return _described(stream, function)


def _check(function: Callable[..., Any], client: object) -> None:
    if not isinstance(client, AsyncCalls):
        name = f"{function.__module__.replace('polos_redis', 'polos_redis.sync')}.{function.__name__}"
        raise TypeError(
            f"{name} takes a {SYNC_CLIENT}, not {type(client).__module__}.{type(client).__name__}"
        )


def _described(call: F, function: Callable[..., Any]) -> F:
    """Gives a function the name, the docstring and the signature of another."""
    functools.update_wrapper(call, function)
    del call.__wrapped__  # type: ignore[attr-defined] # or it would pass for a coroutine function
    call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return call
