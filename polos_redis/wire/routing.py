"""Chooses the wire for a URL: `Wire` for one server, `ClusterWire` for a cluster, `ServersWire` for several
servers."""

from __future__ import annotations

from collections.abc import Sequence

from polos_redis.wire.cluster import ClusterWire
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.discovery import server_at
from polos_redis.wire.servers import ServersWire, Verify
from polos_redis.wire.transport import Script
from polos_redis.wire.urls import parse_all, split
from polos_redis.wire.wire import Wire

AnyWire = Wire | ClusterWire | ServersWire


def wire_to(
    url: str,
    *,
    name: str,
    scripts: Sequence[Script],
    partitions: int = 1,
    timeout: float = 5.0,
    credentials: CredentialProvider | None = None,
    verify: Verify | None = None,
) -> AnyWire:
    """The wire for a URL, not yet connected. Raises `ConfigurationError` for an invalid URL.

    Several servers share the namespace's `partitions`; `verify` is called for them, as in `ServersWire`.
    `credentials` are the servers'; sentinels have those in the URL. `timeout` as in `Wire`.
    """
    targets = parse_all(url)
    if len(targets) > 1:
        return ServersWire(
            split(url),
            partitions,
            name=name,
            scripts=scripts,
            timeout=timeout,
            credentials=credentials,
            verify=verify,
        )
    if targets[0].kind == "cluster":
        return ClusterWire(targets[0], name=name, scripts=scripts, timeout=timeout, credentials=credentials)
    return server_at(split(url)[0], name=name, scripts=scripts, timeout=timeout, credentials=credentials)
