"""The webhook channel: notifications by HTTP, signed (extra `webhook`)."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from polos_redis import settings
from polos_redis.errors import ConfigurationError
from polos_redis.notifications.channels import Notification, NotSentError

if TYPE_CHECKING:
    import ssl

    import httpx2

EVENT = "suspension.opened"


class WebhookChannel:
    """A channel that POSTs notifications to a URL as JSON, signed according to Standard Webhooks.

    `secret` is `whsec_<base64 of 24 to 64 bytes>`, or several: all of them sign, so you can rotate secrets
    while receivers have either. A notification is delivered when the receiver answers 2xx within `timeout`
    seconds; a redirect is a failure.
    """

    def __init__(
        self, url: str, secret: str | Sequence[str], name: str = "webhook", timeout: float = 10.0
    ) -> None:
        if find_spec("httpx2") is None:
            raise ConfigurationError("the webhook channel needs httpx2: pip install 'polos-redis[webhook]'")
        self.name = name
        self.timeout = timeout
        self._url: str = settings.resolve("webhook_url", url)
        secrets: list[str] = settings.resolve("webhook_secret", secret)
        self._keys = [base64.b64decode(one.removeprefix("whsec_")) for one in secrets]
        self._tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"WebhookChannel(name={self.name!r})"  # without the URL, which may be a secret

    async def send(self, notification: Notification) -> None:
        """POST one notification. Raises `NotSentError`."""
        import httpx2

        if self._tls is None:
            self._tls = httpx2.create_ssl_context()  # slow, so once
        request = self._request(notification)
        try:
            # The transport alone: a client would log the URL, which may be a secret.
            async with (
                asyncio.timeout(self.timeout),
                httpx2.AsyncHTTPTransport(verify=self._tls) as transport,
            ):
                response = await transport.handle_async_request(request)
                try:
                    if not response.is_success:
                        raise NotSentError(f"the receiver answered {response.status_code}")
                finally:
                    await response.aclose()
        except TimeoutError:
            raise NotSentError(f"the receiver did not answer within {self.timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise NotSentError(f"{type(error).__name__}: {error}") from None

    def _request(self, notification: Notification) -> httpx2.Request:
        import httpx2

        payload = {
            "type": EVENT,
            "timestamp": notification.opened_at.isoformat(timespec="milliseconds"),
            "data": notification.as_json(),
        }
        body = json.dumps(payload, separators=(",", ":")).encode()
        headers = {"content-type": "application/json", **self._signature(notification.id, body)}
        return httpx2.Request("POST", self._url, content=body, headers=headers)

    def _signature(self, message_id: str, body: bytes) -> dict[str, str]:
        """The headers that identify and sign a message."""
        timestamp = str(int(time.time()))
        signed = f"{message_id}.{timestamp}.".encode() + body
        digests = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in self._keys]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{digest}" for digest in digests),
        }
