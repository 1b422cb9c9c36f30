"""What both of OpenAI's APIs have in common: the client of the `openai` package, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from polos_redis.agents.providers import ModelCallError, Shared
from polos_redis.errors import ConfigurationError, NoRetryError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

KEY = "OPENAI_API_KEY"
LONGEST_RETRY_AFTER = 3600.0


async def client_for(shared: Shared, base_url: str | None) -> AsyncOpenAI:
    """The client for a base URL (None: `OPENAI_BASE_URL`, else OpenAI's), one for all executions of a
    worker."""
    try:
        from openai import AsyncOpenAI
    except ImportError:
        raise ConfigurationError(
            "agents need the openai package: pip install 'polos-redis[agents]'"
        ) from None
    key = os.environ.get(KEY)
    if not key:
        raise ConfigurationError(f"the model can't be asked without an API key: set {KEY} for the workers")

    @asynccontextmanager
    async def made() -> AsyncIterator[AsyncOpenAI]:
        async with AsyncOpenAI(api_key=key, base_url=base_url) as client:
            yield client

    return await shared.get(("openai", base_url, key, os.environ.get("OPENAI_BASE_URL")), made)


@asynccontextmanager
async def told_plainly() -> AsyncIterator[None]:
    """What the package raises, as `ModelCallError` or `NoRetryError` with the provider's own message."""
    import httpx
    from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

    try:
        yield
    except APIStatusError as error:
        text = f"the model's provider answered {error.status_code}: {_message(error)}"
        passes = error.status_code in (408, 409, 429) or error.status_code >= 500
        if not passes or error.code == "insufficient_quota":
            raise NoRetryError(text) from error
        raise ModelCallError(text, _retry_after(error)) from error
    except APITimeoutError as error:
        raise ModelCallError("the model's provider did not answer in time") from error
    except (APIConnectionError, httpx.TransportError) as error:
        cause = error.__cause__ or error
        raise ModelCallError(
            f"the connection to the model's provider failed: {type(cause).__name__}: {cause}"
        ) from error
    except APIError as error:  # in the middle of a stream
        raise ModelCallError(f"the model's provider broke off: {error.message}") from error


def _message(error: APIStatusError) -> str:
    body: Any = error.body
    told = body.get("message") if isinstance(body, dict) else None
    return str(told or error.message)


def _retry_after(error: APIStatusError) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After` (seconds or a date); None without."""
    headers = error.response.headers
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            given = headers["retry-after"]
            try:
                seconds = float(given)
            except ValueError:
                seconds = (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
