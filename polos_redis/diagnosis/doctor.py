"""Diagnosis of an installation: `diagnose` runs all checks and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polos_redis.connection.clients import takes_client
from polos_redis.connection.connection import Connection
from polos_redis.diagnosis.cluster import check_cluster, check_layout
from polos_redis.diagnosis.environment import check_environment, effective_settings
from polos_redis.diagnosis.finding import Finding, Level, problem, unknown
from polos_redis.diagnosis.fleet import check_leaders, check_workers
from polos_redis.diagnosis.rights import check_rights
from polos_redis.diagnosis.server_facts import read_server
from polos_redis.diagnosis.servers import check_server
from polos_redis.diagnosis.versions import check_versions
from polos_redis.diagnosis.work import (
    check_errands,
    check_held_back,
    check_queues,
    check_stuck,
    check_timers,
    check_workflows,
)
from polos_redis.diagnosis.workers import read_workers, watch
from polos_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    RedisRefusedError,
    RedisUnavailableError,
)
from polos_redis.metrics.namespace_stats import read_namespace_stats
from polos_redis.state import scripts
from polos_redis.state.store import Store
from polos_redis.wire.replies import NotRedisError
from polos_redis.wire.routing import wire_to
from polos_redis.wire.urls import parse_all
from polos_redis.wire.wire import Wire

NOT_FOUND = "start Redis, or check --url and POLOS_REDIS_URL"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `diagnose` found: the address of the servers, the namespace, all findings in the order of the
    checks, and the effective settings of this process (see `effective_settings`)."""

    redis: str
    namespace: str
    findings: tuple[Finding, ...]
    settings: tuple[dict[str, Any], ...]

    def count(self, level: Level) -> int:
        """Returns the number of findings of a level."""
        return sum(one.level == level for one in self.findings)

    def plain(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {
            "redis": self.redis,
            "namespace": self.namespace,
            "problems": self.count("problem"),
            "warnings": self.count("warning"),
            "unknown": self.count("unknown"),
            "findings": [asdict(one) for one in self.findings],
            "settings": list(self.settings),
        }


@takes_client
async def diagnose(client: Connection) -> Diagnosis:
    """Check the servers, the namespace, its workers and its work, and the settings of this process.

    It only reads, over a connection of its own. A busy worker is watched until it renews its lease, so a
    diagnosis may take two thirds of the longest lease (10 s by default). What goes wrong is a finding, too:
    nothing is raised when Redis is away.
    """
    findings = list(check_environment(client))
    wire = wire_to(
        client.url,
        name="polos-doctor",
        scripts=(scripts.CHECK_COMMANDS, scripts.NAMESPACE_STATS, scripts.LIST_EXECUTIONS),
        partitions=client.partitions,
        credentials=client.credentials,
    )
    store = Store(wire, client.namespace, client.partitions, client.patience)
    try:
        findings += await _diagnose(store, client)
    finally:
        await wire.close()
    address = ", ".join(one.address for one in parse_all(client.url))
    return Diagnosis(address, client.namespace, tuple(findings), tuple(effective_settings(client)))


async def _diagnose(store: Store, connection: Connection) -> list[Finding]:
    try:
        nodes = await store.wire.nodes()
    except (RedisUnavailableError, RedisRefusedError, ConnectionLostError) as error:
        return [_unreachable(store.wire.address, error)]
    found: list[Finding] = []
    by_server = await asyncio.gather(*(_check_node(node, store, connection) for node in nodes))
    for findings in by_server:
        found += findings
    if any(one.check == "server" and one.level == "problem" for one in found):
        found.append(
            unknown("namespace", "", "the namespace can't be checked meanwhile", "repair the server first")
        )
        return found
    try:
        found += await check_cluster(store, nodes)
        layout, usable = await check_layout(store, connection.url, nodes)
        found += layout
        if usable:
            found += await _check_namespace(store)
    except (RedisUnavailableError, RedisRefusedError, ConnectionLostError) as error:
        found.append(unknown("namespace", "", f"not everything could be checked: {error}", "run it again"))
    return found


async def _check_node(node: Wire, store: Store, connection: Connection) -> Sequence[Finding]:
    try:
        facts = await read_server(node, store.partitions.patience)
    except (RedisUnavailableError, RedisRefusedError, ConnectionLostError, ConfigurationError) as error:
        return [_unreachable(node.address, error)]
    found = list(check_server(facts))
    if any(one.check == "server" and one.level == "problem" for one in found):
        return found
    for prefix in store.prefixes:
        try:
            if await _is_on(store, prefix, node):
                found += await check_rights(store, prefix, node.address, connection.durability)
                break
        except (RedisUnavailableError, RedisRefusedError, ConnectionLostError) as error:
            found.append(unknown("rights", node.address, str(error), "run it again"))
            break
    return found


async def _is_on(store: Store, prefix: bytes, node: Wire) -> bool:
    """Whether a server has a partition. Finds out which one has it, if that is not known yet."""
    if store.wire.node(prefix) is None:
        await store.wire.call("EXISTS", prefix, patience=store.partitions.patience)
    return store.wire.node(prefix) is node


async def _check_namespace(store: Store) -> list[Finding]:
    stats, workers = await asyncio.gather(read_namespace_stats(store), read_workers(store))
    await watch(store, workers)
    everyone = list(workers.values())
    alive = any(one.alive for one in everyone)
    found = [*check_workers(everyone, stats)]
    found += await check_leaders(store, alive)
    found += await check_timers(store, alive)
    found += [one async for one in check_errands(store)]
    found += check_workflows(stats, everyone)
    found += await check_versions(store, everyone)
    found += [one async for one in check_queues(store, stats, everyone)]
    found += [one async for one in check_stuck(store, stats)]
    found += [one async for one in check_held_back(store)]
    return found


def _unreachable(address: str, error: Exception) -> Finding:
    if isinstance(error, NotRedisError):
        return problem("server", address, str(error), "check --url and POLOS_REDIS_URL")
    if isinstance(error, (RedisRefusedError, ConfigurationError)):
        return problem("server", address, str(error), "do what the message says")
    return problem("server", address, str(error), NOT_FOUND)
