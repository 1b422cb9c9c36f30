"""The `openai` package: one client per worker, and its errors as `ModelCallError` or `NoRetryError`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from polos_redis.agents.providers.provider import ModelCallError
from polos_redis.errors import NoRetryError
from polos_redis.runtime.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openai import APIError, APIStatusError, AsyncOpenAI

KEY = "OPENAI_API_KEY"
BASE_URL = "OPENAI_BASE_URL"
SHORTEST_SECRET, SURELY_SECRET = 8, 16  # characters of an API key
PACKAGE_WAIT_SECONDS = 5.0  # the longest delay the package waits itself; for longer ones the execution parks


def import_package() -> None:
    """Import the openai package, which takes seconds. If it is missing, the first call raises."""
    with suppress(ImportError):
        importlib.import_module("openai.resources.chat.completions")
        importlib.import_module("openai.resources.responses")


async def client_for(resources: Resources, base_url: str | None) -> AsyncOpenAI:
    """The worker's client for a base URL (None: `OPENAI_BASE_URL`, or OpenAI's own).

    Raises `NoRetryError` if the package or the API key is missing.
    """
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    except ImportError:
        raise NoRetryError(
            "agents need the openai package in the workers: pip install 'polos-redis[agents]'"
        ) from None
    key = os.environ.get(KEY)
    if not key:
        raise NoRetryError(f"no API key for the model's provider: set {KEY} for the workers")

    @asynccontextmanager
    async def create() -> AsyncIterator[AsyncOpenAI]:
        http = DefaultAsyncHttpxClient(event_hooks={"response": [_refuse_long_waits]})
        async with AsyncOpenAI(api_key=key, base_url=base_url, http_client=http) as client:
            yield client

    return await resources.get(("openai", base_url, key, os.environ.get(BASE_URL)), create)


async def _refuse_long_waits(response: Any) -> None:
    """Stop the package from waiting out a long Retry-After itself, which would occupy a slot."""
    if (retry_after(response.headers) or 0.0) > PACKAGE_WAIT_SECONDS:
        response.headers["x-should-retry"] = "false"


@asynccontextmanager
async def translate_errors() -> AsyncIterator[None]:
    """Raise the package's errors as `ModelCallError` or `NoRetryError`, with the provider's message.

    The causes are dropped, because a provider may repeat the API key in its response.
    """
    from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

    try:
        yield
    except APIStatusError as error:
        text = f"the model's provider answered {error.status_code}: {message_of(error)}"
        temporary = error.status_code in (408, 409, 429) or error.status_code >= 500
        if not temporary or error.code == "insufficient_quota":
            raise NoRetryError(text) from None
        raise ModelCallError(text, retry_after(error.response.headers)) from None
    except APITimeoutError:
        raise ModelCallError("the model's provider did not answer in time") from None
    except _connection_errors(APIConnectionError) as error:
        cause = error.__cause__ or error
        raise ModelCallError(
            f"the connection to the model's provider failed: {type(cause).__name__}: {masked(str(cause))}"
        ) from None
    except APIError as error:  # in the middle of a stream
        raise ModelCallError(f"the model's provider failed mid-answer: {message_of(error)}") from None


def _connection_errors(own: type[Exception]) -> tuple[type[Exception], ...]:
    """The package's connection error, and httpx's, which older releases let through in mid-stream."""
    modules = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return own, *(module.TransportError for module in modules if module is not None)


def message_of(error: APIError | APIStatusError) -> str:
    """The provider's message, with the API key masked."""
    body: Any = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return masked(str(message or error.message))


def masked(text: str) -> str:
    """A text with the API key masked.

    A key shorter than `SHORTEST_SECRET` is a placeholder, such as the `x` that a local model is given, and
    stays. One shorter than `SURELY_SECRET` may be a part of a word, so only whole words are masked.
    """
    key = os.environ.get(KEY, "").strip()
    if len(key) < SHORTEST_SECRET:
        return text
    forms = "|".join(map(re.escape, {key, repr(key)[1:-1], repr(key.encode())[2:-1]}))  # as errors quote it
    pattern = f"(?:{forms})" if len(key) >= SURELY_SECRET else rf"(?<![\w-])(?:{forms})(?![\w-])"
    return re.sub(pattern, "***", text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The delay in seconds from `retry-after-ms` or `Retry-After` (seconds or a date); None without one."""
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        value = headers["retry-after"]
        try:
            return max(float(value), 0.0)
        except ValueError:
            return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError):
        return None
