"""The channels of a worker: those it was given, or the webhook from the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable

from polos_redis import settings
from polos_redis.errors import ConfigurationError
from polos_redis.notifications.channels import Channel
from polos_redis.notifications.webhook import WebhookChannel

NAME = re.compile(r"[a-z0-9_-]{1,50}")


def configured_channels(channels: Iterable[Channel] | None) -> list[Channel]:
    """Validate a worker's channels; for None, return the webhook of POLOS_WEBHOOK_URL, if it is set.

    Raises `ConfigurationError`.
    """
    if channels is None:
        return _webhook()
    channels = list(channels)
    for channel in channels:
        if not isinstance(channel, Channel) or isinstance(channel, type):
            raise ConfigurationError(
                f"a channel needs a name and an async send(notification): {channel!r} lacks them"
            )
        if not isinstance(channel.name, str) or not NAME.fullmatch(channel.name):
            raise ConfigurationError(
                f"a channel's name must be 1 to 50 of a-z, 0-9, _ and -, not {channel.name!r}"
            )
    names = [channel.name for channel in channels]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"channels need different names, not {', '.join(sorted(names))}")
    return channels


def _webhook() -> list[Channel]:
    url = settings.resolve("webhook_url")
    if url is None:
        return []
    secret = settings.resolve("webhook_secret")
    if secret is None:
        raise ConfigurationError("POLOS_WEBHOOK_URL needs POLOS_WEBHOOK_SECRET, to sign notifications with")
    return [WebhookChannel(url, secret)]
