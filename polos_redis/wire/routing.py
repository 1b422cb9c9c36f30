"""From a URL to the wire that calls go over: one for a server, or one per master of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from polos_redis.wire.cluster import ClusterWire
from polos_redis.wire.discovery import find_master
from polos_redis.wire.transport import Script
from polos_redis.wire.urls import parse
from polos_redis.wire.wire import Wire

AnyWire = Wire | ClusterWire


def wire_to(url: str, *, name: str, scripts: Sequence[Script]) -> AnyWire:
    """The wire for a URL; no connection is made yet. Raises `ConfigurationError`."""
    target = parse(url)
    if target.kind == "cluster":
        return ClusterWire(target, name=name, scripts=scripts)
    if target.kind == "sentinel":
        return Wire(url, name=name, scripts=scripts, locate=partial(find_master, target))
    return Wire(url, name=name, scripts=scripts)
