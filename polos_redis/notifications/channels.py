"""Notifications: a suspension has opened, and people are to hear of it where they look.

The script that opens a suspension notes in the same step that each of the worker's channels has to send one
(see outbox.py), so none is lost, and none holds the workflow up.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from polos_redis import settings
from polos_redis.errors import ConfigurationError, PolosError

if TYPE_CHECKING:
    import ssl

NAME = re.compile(r"[a-z0-9_-]{1,50}")
EVENT = "suspension.opened"


@dataclass(frozen=True, slots=True)
class Notification:
    """A suspension that waits for a person.

    `id` is the same each time it is sent: it may be sent more than once, so who receives it goes by that.
    `data` is what is shown, `digest` its SHA-256 in hex. `approval_url` is the page's address, None where the
    worker does not know it; `approver_urls` are personal signed links, by the names of those approvers that
    are people. All of them let who has them decide, or look: they are for nobody else.
    """

    id: str
    execution_id: str
    workflow_id: str
    step_key: str
    run: int
    data: Any
    digest: str
    opened_at: datetime
    expires_at: datetime | None
    approvers: tuple[str, ...]
    approval_url: str | None
    approver_urls: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {
            **found,
            "opened_at": self.opened_at.isoformat(timespec="milliseconds"),
            "expires_at": None
            if self.expires_at is None
            else self.expires_at.isoformat(timespec="milliseconds"),
            "approvers": list(self.approvers),
            "approver_urls": dict(self.approver_urls),
        }


@runtime_checkable
class Channel(Protocol):
    """A way to reach people. `name` (a-z, 0-9, _ and -) is what workers know it by: those that have a channel
    of the same name send for each other."""

    name: str

    async def send(self, notification: Notification) -> None:
        """Send one; raises when it could not be sent: it is tried again later, while the suspension is open.
        It is cancelled when it takes too long (outbox.py), and may be called several times at once."""


class NotSentError(PolosError):
    """A notification was not taken; the message says why, without secrets."""


class WebhookChannel:
    """Sends notifications to a URL: a POST of JSON, signed as the Standard Webhooks specification has it.

    `secret` is `whsec_<base64 of 24 to 64 bytes>`; of several, all sign, so that it can be changed while
    receivers have either. Any 2xx answer within `timeout` seconds counts as taken; redirects don't.
    """

    def __init__(
        self, url: str, secret: str | Sequence[str], name: str = "webhook", timeout: float = 10.0
    ) -> None:
        if find_spec("httpx") is None:
            raise ConfigurationError("the webhook channel needs httpx: pip install 'polos-redis[webhook]'")
        self.name = name
        self.timeout = timeout
        self._url: str = settings.resolve("webhook_url", url)
        texts: list[str] = settings.resolve("webhook_secret", secret)
        self._keys = [base64.b64decode(text.removeprefix("whsec_")) for text in texts]
        self._tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"WebhookChannel(name={self.name!r})"  # the URL may be a secret too

    async def send(self, notification: Notification) -> None:
        """Raises `NotSentError`."""
        import httpx

        if self._tls is None:
            self._tls = httpx.create_ssl_context()  # takes a while: once
        payload = {
            "type": EVENT,
            "timestamp": notification.opened_at.isoformat(timespec="milliseconds"),
            "data": notification.as_json(),
        }
        body = json.dumps(payload, separators=(",", ":")).encode()
        headers = {"content-type": "application/json", **self._signed(notification.id, body)}
        request = httpx.Request("POST", self._url, content=body, headers=headers)
        try:
            # The transport alone: a client would log the URL, which may be a secret.
            async with asyncio.timeout(self.timeout), httpx.AsyncHTTPTransport(verify=self._tls) as transport:
                response = await transport.handle_async_request(request)
                try:
                    if not response.is_success:
                        raise NotSentError(f"the receiver answered {response.status_code}")
                finally:
                    await response.aclose()
        except TimeoutError:
            raise NotSentError(f"the receiver did not answer within {self.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise NotSentError(f"{type(error).__name__}: {error}") from None

    def _signed(self, message_id: str, body: bytes) -> dict[str, str]:
        """The headers that tell who sends it, and when."""
        moment = str(int(time.time()))
        signed = f"{message_id}.{moment}.".encode() + body
        digests = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in self._keys]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": moment,
            "webhook-signature": " ".join(f"v1,{digest}" for digest in digests),
        }


def channels_of(given: Iterable[Channel] | None) -> list[Channel]:
    """The channels of a worker: those given, else the webhook of POLOS_WEBHOOK_URL, if there is one. Raises
    `ConfigurationError`."""
    if given is None:
        url = settings.resolve("webhook_url")
        if url is None:
            return []
        secret = settings.resolve("webhook_secret")
        if secret is None:
            raise ConfigurationError("POLOS_WEBHOOK_URL needs POLOS_WEBHOOK_SECRET: what is sent is signed")
        return [WebhookChannel(url, secret)]
    channels = list(given)
    for channel in channels:
        if not isinstance(channel, Channel) or isinstance(channel, type):
            raise ConfigurationError(
                f"a channel has a name and an async send(notification): {channel!r} has not"
            )
        if not isinstance(channel.name, str) or not NAME.fullmatch(channel.name):
            raise ConfigurationError(f"a channel's name is of a-z, 0-9, _ and -, not {channel.name!r}")
    names = [channel.name for channel in channels]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"each channel has a name of its own, not {', '.join(sorted(names))}")
    return channels
