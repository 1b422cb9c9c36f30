"""Establishes connections with redis-py: it connects, authenticates and selects the database."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any, Protocol

from polos_redis import failures, tasks
from polos_redis.errors import PolosError, RedisUnavailableError
from polos_redis.wire.replies import NotRedisError, TransientReplyError, refusal
from polos_redis.wire.urls import bad_url

MOST_THREADS = 64  # calls of credential providers that have not returned

_threads = threading.BoundedSemaphore(MOST_THREADS)


class CredentialProvider(Protocol):
    """Names the user and password of each new connection, as redis-py's class of this name does.

    `get_credentials` returns `(user, password)` or `(password,)`. It runs in a thread. If the object has an
    async `get_credentials_async`, that is called instead, in the loop that connects: a worker's lease has its
    own, in another thread. A provider that fails, or does not answer within the connection's timeout, is
    asked again with the next attempt to connect.
    """

    def get_credentials(self) -> tuple[str, ...]: ...


async def dial(
    url: str, address: str, timeout: float, credentials: CredentialProvider | None = None
) -> asyncio.Transport:
    """Opens a connection and returns its transport, detached from redis-py.

    Raises `RedisUnavailableError` if Redis can't be reached within `timeout` seconds (`NotRedisError` if
    another program answers), `RedisRefusedError` if it rejects the connection, and `ConfigurationError` for
    an invalid URL.
    """
    if "redis.asyncio" not in sys.modules:  # importing it would block the loop for a good part of a second
        with ThreadPoolExecutor(1) as thread:
            await asyncio.get_running_loop().run_in_executor(thread, import_module, "redis.asyncio")
    from redis.asyncio import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, InvalidResponse, RedisError, ResponseError

    options: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "client_name": None,
        "health_check_interval": 0,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
    }
    try:
        from redis.driver_info import DriverInfo  # noqa: F401  # redis-py 7.1 and later

        options["driver_info"] = None
    except ImportError:
        options |= {"lib_name": None, "lib_version": None}
    if credentials is not None:
        options |= await _login(credentials, address, timeout)
    try:
        pool: Any = ConnectionPool.from_url(url, **options)
        pool.connection_kwargs.update(options)  # from_url lets options in the URL override these
        connection = pool.make_connection()
    except (ValueError, TypeError, RedisError):
        raise bad_url() from None
    unexpected = f"Redis at {address} sent unexpected data: is it a Redis server?"
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()
            # before redis-py 8, the only public way
            can_read = getattr(connection, "can_read", None) or connection.can_read_destructive
            if await can_read():
                await connection.read_response()  # raises if it was closed, as by a proxy without its server
                raise NotRedisError(unexpected)
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error.__cause__, (AuthenticationError, ResponseError)):  # wrapped on unix sockets
            error = error.__cause__
        if isinstance(error, TimeoutError):
            raise RedisUnavailableError(f"Redis at {address} did not answer within {timeout:g} s") from error
        if isinstance(error, (AuthenticationError, ResponseError)):
            code, text = _code(error), str(error)
            text = f"{code} {text}" if code and not text.startswith(code) else text
            refused = refusal(address, "the connection", text.partition(" ")[0], text)
            if isinstance(refused, TransientReplyError):
                raise RedisUnavailableError(str(refused)) from error
            raise refused from error
        if isinstance(error, InvalidResponse):
            raise NotRedisError(unexpected) from error
        if isinstance(error, (RedisError, OSError)):
            raise RedisUnavailableError(f"Redis at {address} can't be reached: {error}") from error
        if isinstance(error, Exception) and not isinstance(error, PolosError):  # a host that is no name
            raise RedisUnavailableError(
                f"Redis at {address} can't be reached: {failures.line_of(error)}"
            ) from error
        raise
    # The only private attributes of redis-py that we use: it has no way to give its transport away.
    writer = connection._writer
    transport: asyncio.Transport = writer.transport
    # Otherwise redis-py and the writer would warn, or close the transport, when they are collected.
    connection._writer = connection._reader = None
    writer._transport = _CLOSED
    return transport


async def _login(credentials: CredentialProvider, address: str, timeout: float) -> dict[str, Any]:
    """User and password for one connection. Raises `RedisUnavailableError`, so the caller tries again."""
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            found = await tasks.guard(_ask(credentials))
        if not isinstance(found, tuple) or not 1 <= len(found) <= 2 or not all(map(_is_text, found)):
            raise TypeError("it must return (user, password) or (password,), as strings")
    except BaseException as error:
        if failures.is_a(error, KeyboardInterrupt, GeneratorExit):
            raise
        if failures.is_a(error, asyncio.CancelledError) and tasks.is_cancelled():
            raise
        what = f"no answer within {timeout:g} s" if deadline.expired() else failures.line_of(error)
        raise RedisUnavailableError(
            f"the credential provider for Redis at {address} failed: {what}"
        ) from error
    *user, password = found
    return {"username": user[0] if user else None, "password": password}


async def _ask(credentials: CredentialProvider) -> Any:
    from redis.credentials import CredentialProvider as Base

    ask: Any = getattr(credentials, "get_credentials_async", None)
    inherited = getattr(Base, "get_credentials_async", None)  # it blocks, and warns
    if ask is not None and getattr(ask, "__func__", None) is not inherited:
        return await ask()
    found = await _in_thread(credentials.get_credentials)
    return await found if inspect.isawaitable(found) else found


def _in_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    """Call in a daemon thread: a call that never returns must not keep the process from exiting."""
    threads = _threads
    if not threads.acquire(blocking=False):
        raise RuntimeError(f"{MOST_THREADS} earlier calls have not returned")
    result: Future[Any] = Future()
    result.set_running_or_notify_cancel()  # from now on, it can't be cancelled

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)
        finally:
            threads.release()

    threading.Thread(target=run, name="polos-credentials", daemon=True).start()
    return asyncio.wrap_future(result)


def _is_text(value: object) -> bool:
    """Whether a value can be sent. The error of an encoding would quote the password."""
    return isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)


def _code(error: Any) -> str:
    """The code of an error reply, which redis-py cuts off its text. Older releases don't keep it."""
    from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError

    code: str | None = getattr(error, "status_code", None)
    if code is None:
        kinds = {NoPermissionError: "NOPERM", ReadOnlyError: "READONLY"}
        code = next((code for kind, code in kinds.items() if isinstance(error, kind)), "")
        if isinstance(error, AuthenticationError):
            code = "NOAUTH" if "Authentication required" in str(error) else "WRONGPASS"
    return code


class _Closed:
    def is_closing(self) -> bool:
        return True


_CLOSED = _Closed()
