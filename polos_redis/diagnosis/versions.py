"""Checks of versions: those that executions are pinned to and nobody serves."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Container, Sequence

from polos_redis.diagnosis.finding import Finding, count, problem, warning
from polos_redis.diagnosis.workers import WorkerReading
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.text import text


async def check_versions(store: Store, workers: Sequence[WorkerReading]) -> list[Finding]:
    """Returns the versions that executions are pinned to and no live worker serves."""
    served = {pair for one in workers if one.alive for pair in one.versions.items()}
    unserved = {
        pair: found
        for pair, found in (await store.versions.open()).items()
        if pair not in served and await _is_pinned(store, found.oldest, pair[1])
    }
    runnable = await _runnable(store, unserved) if unserved else Counter[tuple[str, str]]()
    found = []
    for workflow, version in sorted(unserved):
        ready, total = runnable[workflow, version], unserved[workflow, version].open
        stand = (
            f"{ready:,} of them {'is' if ready == 1 else 'are'} ready to run" if ready else "all of them wait"
        )
        found.append(
            (problem if ready else warning)(
                "versions",
                workflow,
                f"no worker serves version {version!r} of this workflow, to which "
                f"{count(total, 'open execution')} {'is' if total == 1 else 'are'} pinned; {stand}",
                "start a worker with the code of that version until they have ended, or cancel them: "
                f"polos list --workflow {shlex.quote(workflow)}",
            )
        )
    return found


async def _is_pinned(store: Store, execution_id: str, version: str) -> bool:
    (queue,) = await store.executions.read_fields(execution_id, "queue")
    return keys.parse_stream(text(queue))[1] == version


async def _runnable(store: Store, wanted: Container[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Counts the executions that wait for a worker to read the stream of their version."""
    found: Counter[tuple[str, str]] = Counter()
    patience = store.partitions.patience
    for prefix in store.prefixes:
        for name in await store.wire.call("SMEMBERS", prefix + keys.RESERVED.encode(), patience=patience):
            _, version, workflow = keys.parse_stream(text(name))
            if (workflow, version) in wanted:
                unserved = prefix + f"{keys.INDEX}unserved:".encode() + name
                found[workflow, version] += await store.wire.call("ZCARD", unserved, patience=patience)
                stream = prefix + keys.QUEUE.encode() + name
                found[workflow, version] += await store.wire.call("XLEN", stream, patience=patience)
    return found
