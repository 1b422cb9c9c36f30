"""Which versions of workflows still have open executions."""

from __future__ import annotations

from collections import Counter

from polos_redis.connection.connection import Connection
from polos_redis.metrics.namespace_stats import read_namespace_stats
from polos_redis.results import WorkflowVersion
from polos_redis.state.executions import UNFINISHED
from polos_redis.values.times import iso


async def open_versions(connection: Connection) -> list[WorkflowVersion]:
    """See `PolosClient.versions`."""
    store = await connection.store()
    by_version = await store.versions.open()
    workers = Counter(
        one for announced in await store.workers.announced() for one in announced.get("versions", {}).items()
    )
    stats = await read_namespace_stats(store)
    without: Counter[str] = Counter()
    for (workflow_id, status), count in stats.executions.items():
        if workflow_id and status in UNFINISHED:
            without[workflow_id] += count
    for (workflow_id, _), found in by_version.items():
        without[workflow_id] -= found.open
    rows = [
        WorkflowVersion(
            workflow_id=workflow_id,
            version=version,
            open=found.open,
            oldest=found.oldest,
            oldest_created_at=iso(found.oldest_us / 1000),
            workers=workers[workflow_id, version],
        )
        for (workflow_id, version), found in by_version.items()
    ]
    rows += [
        WorkflowVersion(
            workflow_id=workflow_id,
            version=version,
            open=0,
            oldest=None,
            oldest_created_at=None,
            workers=count,
        )
        for (workflow_id, version), count in workers.items()
        if (workflow_id, version) not in by_version
    ]
    rows += [
        WorkflowVersion(
            workflow_id=workflow_id,
            version=None,
            open=count,
            oldest=None,
            oldest_created_at=None,
            workers=None,
        )
        for workflow_id, count in without.items()
        if count > 0
    ]
    return sorted(rows, key=lambda row: (row.workflow_id, row.version is None, row.version or ""))
