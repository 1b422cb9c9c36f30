"""Long versions of what the suite tests briefly: `python -m tests.soak WHAT [--count N]`.

crash      random SIGKILLs of workers and of Redis while executions run; afterwards every execution has
           finished, every step was journaled once, and nothing is pending
race       rounds of fifty answers against a timeout
suspended  what executions that wait for a person cost one worker
children   one execution with many children on two workers, one of which is killed twice
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from polos_redis import PolosClient
from polos_redis.state import keys
from tests.decisions import test_answer_races
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import chain
from tests.harness.running import until
from tests.harness.servers import ChaosServer, chosen_binary
from tests.invariants import state_invariants
from tests.steps import test_fan_out
from tests.worker import test_many_suspended

STEPS, SUSPEND_AFTER = 5, 2
WORKERS = 3
NAMESPACE = "soak"
FAULTS = ("worker killed", "redis killed", "worker frozen", "worker killed")
WORKER_OPTIONS: dict[str, Any] = {"lease_seconds": 1.0, "max_deliveries": 1000}


async def crash(
    server: ChaosServer, namespace: str, folder: Path, count: int, *, every: int
) -> dict[str, Any]:
    """Run executions to completion, with one fault per `every` executions, and check the guarantees."""
    began = time.monotonic()
    faults: Counter[str] = Counter()
    with Fleet(server.url, namespace, folder) as fleet:
        async with PolosClient(server.url, namespace, patience_seconds=120) as client:
            for _ in range(WORKERS):
                await fleet.start(**WORKER_OPTIONS)
            everybody: list[asyncio.Task[str]] = []
            for number in range(count // every):
                numbers = range(number * every, (number + 1) * every)
                batch = [asyncio.create_task(_one(client, one)) for one in numbers]
                everybody += batch
                finished = asyncio.as_completed(batch)
                for _ in range(every // 2):
                    await next(finished)
                kind = FAULTS[number % len(FAULTS)]
                faults[kind] += 1
                await _fault(kind, server, fleet)
            results = await asyncio.gather(*everybody)
            await _check(client, fleet, results)
            effects = sum((Counter(counts.values()) for counts in fleet.counts().values()), Counter[int]())
            state_invariants.check(server.url, namespace)
    return {
        "executions": len(results),
        "seconds": round(time.monotonic() - began, 1),
        **faults,
        "effects that happened once, twice, ...": dict(sorted(effects.items())),
    }


async def _one(client: PolosClient, number: int) -> str:
    """Run one execution and check its result."""
    handle = await chain.invoke(client, {"steps": STEPS, "suspend_after": SUSPEND_AFTER, "pause": 0.01})
    while await handle.status() != "waiting":  # noqa: ASYNC110 - polls Redis
        await asyncio.sleep(0.02)
    resumed = await client.resume(
        suspend_execution_id=handle.id, suspend_step_key="middle", data=f"answer {number}"
    )
    assert resumed.outcome in ("accepted", "same")  # same: the reply to the first attempt was lost
    result = await handle.result()
    expected: list[Any] = list(range(STEPS))
    expected.insert(SUSPEND_AFTER + 1, f"answer {number}")
    assert result == expected
    return handle.id


async def _fault(kind: str, server: ChaosServer, fleet: Fleet) -> None:
    victim = random.choice([worker for worker in fleet.workers if worker.running])
    if kind == "redis killed":
        await asyncio.to_thread(server.restart)
    elif kind == "worker frozen":
        victim.pause()
        await asyncio.sleep(random.uniform(0.5, 3.0))  # shorter and longer than the lease
        victim.resume()
    else:
        victim.kill()
        fleet.launch(**WORKER_OPTIONS)


async def _check(client: PolosClient, fleet: Fleet, ids: list[str]) -> None:
    store = await client.store()
    effects = fleet.counts()
    for execution_id in ids:
        topic = store.partitions.topic_prefix(execution_id) + f"topic:{execution_id}".encode()
        entries = await store.wire.call("XRANGE", topic, "-", "+")
        counts = Counter(
            name.decode() if name != b"step_finish" else (name, data)
            for _, flat in entries
            for name, data in zip(flat[::2], flat[1::2], strict=True)
        )
        once = {what: times for what, times in counts.items() if what[0] == b"step_finish"}
        assert len(once) == STEPS and set(once.values()) == {1}, f"journaled twice: {execution_id} {counts}"
        assert counts["workflow_finish"] == counts["suspend_middle"] == counts["resume_middle"] == 1
        assert set(effects[execution_id]) == {f"step-{number}" for number in range(STEPS)}

    async def nothing_pending() -> bool:
        for queue in (prefix + b"queue:default" for prefix in store.prefixes):
            pending = await store.wire.call("XPENDING", queue, keys.GROUP)
            if pending[0] or await store.wire.call("XLEN", queue):
                return False
        return True

    await until(nothing_pending, "the queue to be empty")


async def _main(what: str, count: int | None) -> None:
    figures: dict[str, Any]
    with (
        tempfile.TemporaryDirectory(prefix="polos-soak-") as name,
        ChaosServer(Path(name) / "redis", binary=chosen_binary()) as server,
    ):
        folder = Path(name)
        if what == "crash":
            figures = await crash(server, NAMESPACE, folder, count or 10_000, every=80)
        elif what == "race":
            figures = dict(await test_answer_races.rounds(server.url, NAMESPACE, count or 1000))
        elif what == "children":
            figures = await test_fan_out.fan_out(server, NAMESPACE, folder, count or 1000)
        else:
            figures = await test_many_suspended.suspend_many(server, NAMESPACE, folder, count or 10_000)
    for name, value in figures.items():
        print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("crash", "race", "suspended", "children"))
    parser.add_argument("--count", type=int)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.what, arguments.count))
