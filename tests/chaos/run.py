"""One run: start everything, load it and strike it, let it settle, and collect the history."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polos_redis import PolosClient
from polos_redis.testing.model import Call, ModelRequest, Reply, Say, ScriptedModel
from tests.chaos.effects import EffectsFile
from tests.chaos.faults import ClusterFaults, Faults, ServerFaults, Workers
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.targets import OneServer, ServerCluster
from tests.chaos.terms import KEYED, NARROW
from tests.chaos.watch import Watch, final_snapshots, final_streams
from tests.harness.fleet import Fleet
from tests.invariants import state_invariants
from tests.invariants.state import UNFINISHED, Partition, read_all

NAMESPACE = "chaos"
PROGRESS_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
SETTLE_SECONDS = 120.0  # without a fault, for everything to come to an end


@dataclass(frozen=True)
class Plan:
    """The options of one run."""

    seed: int
    seconds: float
    workers: int
    users: int
    fsync: str
    partitions: int
    cluster: bool
    binary: Path
    lease_seconds: float

    def __str__(self) -> str:
        kind = "cluster" if self.cluster else "server"
        return (
            f"seed {self.seed}: {self.seconds:g} s, {self.workers} workers, {self.users} users, {kind} "
            f"{self.binary}, {self.partitions} partitions, appendfsync {self.fsync}, "
            f"lease {self.lease_seconds:g} s"
        )


async def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> History:
    """Carry out a run in an empty folder; returns what happened."""
    history = History(
        seed=plan.seed,
        fsync_always=plan.fsync == "always" and not plan.cluster,
        lease_seconds=plan.lease_seconds,
        limits={"narrow": NARROW, "keyed": KEYED},
    )
    target = (ServerCluster if plan.cluster else OneServer)(folder, plan.binary, plan.fsync)
    try:
        await target.start()
        async with _model(history):
            await _run(plan, folder, target, history, say)
    finally:
        await target.stop()
    return history


async def _run(
    plan: Plan, folder: Path, target: OneServer | ServerCluster, history: History, say: Callable[[str], None]
) -> None:
    os.environ["POLOS_PARTITIONS"] = str(plan.partitions)
    os.environ["POLOS_PATIENCE_SECONDS"] = "0.5"  # of workers, which must not need any
    options = {"lease_seconds": plan.lease_seconds, "max_deliveries": 1000, "grace_seconds": 2.0}
    with Fleet(target.url, NAMESPACE, folder) as fleet:
        effects = EffectsFile(fleet.effects_file)
        history.effects = effects.effects
        workers = Workers(fleet, plan.workers, history, options)
        await workers.start()
        servers = (
            ClusterFaults(target, history, plan.lease_seconds)
            if isinstance(target, ServerCluster)
            else ServerFaults(target, history, plan.lease_seconds, may_lose=not history.fsync_always)
        )
        faults = Faults(workers, servers, plan.seed)
        watch = Watch(target.direct_url, NAMESPACE, plan.partitions, history, effects)
        async with PolosClient(target.url, NAMESPACE, patience_seconds=PATIENCE_SECONDS) as client:
            load = Load(client, history, effects, plan.seed)
            async with asyncio.TaskGroup() as group:
                beside = [workers.keep(), watch.run(), load.run(plan.users), _progress(history, load, say)]
                tasks = [group.create_task(one) for one in beside]
                await asyncio.sleep(1.0)  # something is running when the first fault strikes
                await faults.run(plan.seconds)
                await workers.complete()
                load.stopping.set()
                await _settle(load, history)
                history.hung |= await _unfinished(target.direct_url)
                for task in tasks:
                    task.cancel()
        history.left += workers.unexpected_ends()
        await workers.stop()
        effects.read()
    partitions = await asyncio.to_thread(read_all, target.direct_url, NAMESPACE)
    history.final, history.final_streams = final_snapshots(partitions), final_streams(partitions)
    try:
        await asyncio.to_thread(state_invariants.check, target.direct_url, NAMESPACE)
    except AssertionError as error:
        history.left.append(str(error))
    history.left += _leaks(partitions)


async def _settle(load: Load, history: History) -> None:
    """Wait until every user has seen the end of what they started."""
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            await load.settled.wait()
    except TimeoutError:
        for execution_id, workflow in load.open.items():
            text = f"{workflow} has not ended {SETTLE_SECONDS:g} s after the last fault"
            history.hung[execution_id] = text


async def _unfinished(url: str) -> dict[str, str]:
    """Wait for the end of what nobody waits for: ticks, triggers, children. Returns what does not end."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        partitions = await asyncio.to_thread(read_all, url, NAMESPACE)
        left = {
            execution_id.decode(): _where(fields)
            for partition in partitions
            for execution_id, fields in partition.executions.items()
            if fields[b"status"] in UNFINISHED
        }
        busy = any(partition.errands or partition.timers for partition in partitions)
        if not (left or busy) or time.monotonic() > end:
            return left
        await asyncio.sleep(0.5)


def _where(fields: dict[bytes, bytes]) -> str:
    interesting = (b"workflow", b"status", b"run", b"entry", b"owner", b"waits", b"attempts", b"held_back")
    return ", ".join(f"{name.decode()}={fields[name]!r}" for name in interesting if name in fields)


def _leaks(partitions: list[Partition]) -> list[str]:
    """What is left of executions that have all ended."""
    found = []
    for partition in partitions:
        rows: dict[str, Collection[Any]] = {
            "timers": partition.timers,
            "open suspensions": partition.suspensions,
            "errands": partition.errands,
            "slots": partition.slots,
            "waiters": partition.waiters,
            "children": partition.children,
            "early answers": partition.early,
            "entries": [entry for queue in partition.queues.values() for entry in queue.entries],
        }
        found += [
            f"{partition.prefix} still has {what}: {list(some)[:5]}" for what, some in rows.items() if some
        ]
    return found


async def _progress(history: History, load: Load, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        say(
            f"{time.monotonic() - began:5.0f} s: {len(history.ended)} ends, {len(history.answered)} answers, "
            f"{len(history.faults)} faults, {len(load.open)} open"
        )


@asynccontextmanager
async def _model(history: History) -> AsyncIterator[ScriptedModel]:
    """The model that agents call: first the tools, then a word that names the job."""

    def reply(request: ModelRequest) -> Reply:
        if request.round == 0:
            job = {"name": request.prompt}
            return Say("", tool_calls=[Call("note", job), Call("pay", job)])
        return Say(f"done with {request.prompt}")

    async with ScriptedModel(reply) as model:
        offset = time.time() - time.monotonic()
        yield model
        for request in model.log:
            if request.outcome == "finished":
                call = f"{request.prompt} round {request.round}"
                history.paid.append((request.began - offset, call))
