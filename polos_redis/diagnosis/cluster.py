"""Checks of the partitions: whether the namespace's layout is the one that is set, and where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from polos_redis.diagnosis.finding import Finding, count, ok, problem, unknown, warning
from polos_redis.diagnosis.server_facts import whole
from polos_redis.errors import ConfigurationError, RedisRefusedError
from polos_redis.state import keys
from polos_redis.state.layout import COMPLETE, SERVER, Layout
from polos_redis.state.store import Store
from polos_redis.values.text import text
from polos_redis.wire.cluster import ClusterWire
from polos_redis.wire.servers import ServersWire
from polos_redis.wire.wire import Wire

SLOTS = 16384
SCAN_CALLS, SCAN_COUNT = 50, 1000  # in search of other namespaces
MOST_NAMESPACES = 5


async def check_layout(store: Store, url: str, nodes: Sequence[Wire]) -> tuple[list[Finding], bool]:
    """Returns findings about the namespace's layout, and whether it has been used and is as it is set, so
    that the rest can be checked. Writes nothing."""
    check, space, number = "partitions", store.partitions.namespace, store.partitions.number
    layout = Layout(url, space, number)
    servers: Sequence[Wire | ClusterWire] = nodes
    if not isinstance(store.wire, ServersWire):
        servers = [store.wire]
    found: list[Finding] = []
    used = False
    for position, server in enumerate(servers):
        try:
            record = await layout.compare(position, server, store.partitions.patience)
        except ConfigurationError as error:
            found.append(problem(check, server.address, str(error), _LAYOUT_REMEDY))
            continue
        used = used or SERVER in record
        if len(servers) > 1 and SERVER in record and COMPLETE not in record:
            found.append(
                warning(
                    check,
                    server.address,
                    "the layout of the namespace is not recorded on all of its servers",
                    "start them all, then a worker: it records the layout",
                )
            )
    if found:
        return found, not any(one.level == "problem" for one in found)
    if not used:
        others = await _other_namespaces(nodes[0], space)
        remedy = "none if it is new; else set POLOS_NAMESPACE and POLOS_REDIS_URL to those of your workers"
        here = f"; this server has {', '.join(map(repr, others))}" if others else ""
        return [warning(check, "", f"nothing has used namespace {space!r} yet{here}", remedy)], True
    return [ok(check, "", f"namespace {space!r} has {count(number, 'partition')}")], True


_LAYOUT_REMEDY = "set POLOS_PARTITIONS and POLOS_REDIS_URL to those that the namespace was created with"


async def check_cluster(store: Store, nodes: Sequence[Wire]) -> list[Finding]:
    """Returns findings about the state of a cluster, and how partitions are spread over its masters."""
    if not isinstance(store.wire, ClusterWire):
        return []
    found, patience = [], store.partitions.patience
    for node in nodes:
        try:
            said = text(await node.call("CLUSTER", "INFO", patience=patience))
        except RedisRefusedError:
            found.append(
                unknown(
                    "cluster",
                    node.address,
                    "the user may not call CLUSTER INFO",
                    "grant the ACL user +cluster|info",
                )
            )
            continue
        facts = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
        served = whole(facts.get("cluster_slots_ok", ""))
        if facts.get("cluster_state") != "ok" or served < SLOTS:
            found.append(
                problem(
                    "cluster",
                    node.address,
                    f"this node says that the cluster's state is {facts.get('cluster_state')}, with "
                    f"{served:,} of {SLOTS:,} slots served",
                    "bring back the node that has the missing slots: redis-cli --cluster check",
                )
            )
    spread = Counter(
        owner.address for prefix in store.prefixes if (owner := store.wire.node(prefix)) is not None
    )
    if len(spread) < len(nodes):
        found.append(
            warning(
                "cluster",
                "",
                f"{count(len(store.prefixes), 'partition')} {'is' if len(store.prefixes) == 1 else 'are'} on "
                f"{len(spread)} of {len(nodes)} masters, so the others have nothing to do",
                "create the next namespace with more partitions (POLOS_PARTITIONS=16): their number is fixed",
            )
        )
    return found or [ok("cluster", "", f"{count(len(nodes), 'master')} serve all slots")]


async def _other_namespaces(server: Wire, namespace: str) -> list[str]:
    """Some namespaces that the server has; none if it takes long to find them."""
    found, cursor = set[str](), b"0"
    for _ in range(SCAN_CALLS):
        try:
            cursor, page = await server.call(
                "SCAN", cursor, "MATCH", f"polos:{{*:0}}:{keys.META}", "COUNT", SCAN_COUNT, patience=1.0
            )
        except RedisRefusedError:
            break
        found |= {text(key).removeprefix("polos:{").removesuffix(f":0}}:{keys.META}") for key in page}
        if cursor == b"0":
            break
    return sorted(found - {namespace})[:MOST_NAMESPACES]
