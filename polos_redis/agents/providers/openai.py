"""What both of OpenAI's APIs have in common: the client of the `openai` package, and what its errors mean."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from polos_redis.agents.providers import ModelCallError
from polos_redis.errors import NoRetryError
from polos_redis.runtime.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openai import APIError, APIStatusError, AsyncOpenAI

KEY = "OPENAI_API_KEY"
BASE_URL = "OPENAI_BASE_URL"
OWN_WAIT_SECONDS = 5.0  # for more than that the package does not wait itself: the execution parks


def import_package() -> None:
    """The openai package takes seconds to import. Where it is missing the first call says so."""
    with suppress(ImportError):
        importlib.import_module("openai.resources.chat.completions")
        importlib.import_module("openai.resources.responses")


async def client_for(resources: Resources, base_url: str | None) -> AsyncOpenAI:
    """The client for a base URL (None: `OPENAI_BASE_URL`, else OpenAI's), one for all executions of a
    worker. Raises `NoRetryError` where there is no package or no key."""
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    except ImportError:
        raise NoRetryError(
            "agents need the openai package in the workers: pip install 'polos-redis[agents]'"
        ) from None
    key = os.environ.get(KEY)
    if not key:
        raise NoRetryError(f"the model can't be asked without an API key: set {KEY} for the workers")

    @asynccontextmanager
    async def made() -> AsyncIterator[AsyncOpenAI]:
        http = DefaultAsyncHttpxClient(event_hooks={"response": [_leave_long_waits]})
        async with AsyncOpenAI(api_key=key, base_url=base_url, http_client=http) as client:
            yield client

    return await resources.get(("openai", base_url, key, os.environ.get(BASE_URL)), made)


async def _leave_long_waits(response: Any) -> None:
    """The package tries again by itself, and would hold a slot for as long as the provider tells it to."""
    if (retry_after(response.headers) or 0.0) > OWN_WAIT_SECONDS:
        response.headers["x-should-retry"] = "false"


@asynccontextmanager
async def plain_errors() -> AsyncIterator[None]:
    """What the package raises, as `ModelCallError` or `NoRetryError` with the provider's own message.

    Without their causes, whose texts are not ours: a provider may repeat the key in what it answers.
    """
    from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

    try:
        yield
    except APIStatusError as error:
        text = f"the model's provider answered {error.status_code}: {message_of(error)}"
        passes = error.status_code in (408, 409, 429) or error.status_code >= 500
        if not passes or error.code == "insufficient_quota":
            raise NoRetryError(text) from None
        raise ModelCallError(text, retry_after(error.response.headers)) from None
    except APITimeoutError:
        raise ModelCallError("the model's provider did not answer in time") from None
    except _connection_errors(APIConnectionError) as error:
        cause = error.__cause__ or error
        raise ModelCallError(
            f"the connection to the model's provider failed: {type(cause).__name__}: {cause}"
        ) from None
    except APIError as error:  # in the middle of a stream
        raise ModelCallError(f"the model's provider broke off: {message_of(error)}") from None


def _connection_errors(own: type[Exception]) -> tuple[type[Exception], ...]:
    """The package's own, and what its older releases let through from the one below, in mid-stream."""
    found = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return own, *(module.TransportError for module in found if module is not None)


def message_of(error: APIError | APIStatusError) -> str:
    """The provider's own message, the key in it blotted out."""
    body: Any = error.body
    told = body.get("message") if isinstance(body, dict) else None
    key = os.environ.get(KEY)
    text = str(told or error.message)
    return text.replace(key, "***") if key else text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After` (seconds or a date); None without."""
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        given = headers["retry-after"]
        try:
            return max(float(given), 0.0)
        except ValueError:
            return max((parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError):
        return None
