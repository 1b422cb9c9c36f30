"""Chooses the wire for a URL: `Wire` for one server, `ClusterWire` for a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from polos_redis.wire.cluster import ClusterWire
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.discovery import find_master
from polos_redis.wire.transport import Script
from polos_redis.wire.urls import parse
from polos_redis.wire.wire import Wire

AnyWire = Wire | ClusterWire


def wire_to(
    url: str,
    *,
    name: str,
    scripts: Sequence[Script],
    timeout: float = 5.0,
    credentials: CredentialProvider | None = None,
) -> AnyWire:
    """The wire for a URL, not yet connected. Raises `ConfigurationError` for an invalid URL.

    `credentials` are the servers'; sentinels have those in the URL. `timeout` as in `Wire`.
    """
    target = parse(url)
    if target.kind == "cluster":
        return ClusterWire(target, name=name, scripts=scripts, timeout=timeout, credentials=credentials)
    locate = partial(find_master, target) if target.kind == "sentinel" else None
    return Wire(url, name=name, scripts=scripts, timeout=timeout, locate=locate, credentials=credentials)
