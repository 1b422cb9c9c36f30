"""Makes golden data: `python -m tests.compatibility.golden_record` (`make golden`).

Executions of golden_flows.py run on real workers until there is one in each state; the last worker is killed
while it runs a step. What the server has then is the golden data of this version.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from polos_redis import Event, EventData, ExecutionHandle, PolosClient, apikeys, errands, events, schedules
from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.values import codec
from polos_redis.version import __version__
from tests import ROOT
from tests.compatibility import golden
from tests.compatibility.golden_flows import (
    FAR,
    FLOWS,
    RECORDING,
    TOPIC,
    VALUES,
    Order,
    Pager,
    after,
    before,
    pinned,
)
from tests.harness.fleet import Fleet
from tests.harness.running import Running, running, soon, until
from tests.invariants.state import RawConnection, read_all
from tests.invariants.state_invariants import check

PARTITIONS = 3
SETTINGS = {
    RECORDING: "1",
    "POLOS_PARTITIONS": str(PARTITIONS),
    "POLOS_RETENTION_SECONDS": str(FAR),
    "POLOS_AUDIT_SECONDS": str(FAR),
}
ORDER = Order(item="lamp", amount=5)


async def record(url: str, namespace: str, folder: Path) -> golden.Golden:
    """Runs everything in an empty namespace, in the environment `SETTINGS`; returns what it has then."""
    async with PolosClient(url, namespace) as client:
        found = _Recording(client, url, namespace)
        await found.everything(folder)
        check(url, namespace)
        executions = {role: await found.seen(role) for role in found.handles}
    with RawConnection(url) as connection:
        stored = [_placeless(one) for one in golden.read(connection, namespace, PARTITIONS)]
    return golden.Golden(__version__, PARTITIONS, executions, stored)


def _placeless(one: golden.Stored) -> golden.Stored:
    """Without the folder of this checkout, which tracebacks name. Lengths are stored, too, so they stay."""
    here = str(ROOT).encode()

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(part) for part in value]
        return value.replace(here, b"/".ljust(len(here), b"_")) if isinstance(value, bytes) else value

    return replace(one, content=without(one.content))


class _Recording:
    """One run of everything, and the executions that it leaves."""

    def __init__(self, client: PolosClient, url: str, namespace: str) -> None:
        self.client = client
        self.url, self.namespace = url, namespace
        self.handles: dict[str, ExecutionHandle[Any]] = {}

    async def seen(self, role: str) -> golden.Execution:
        execution = await self.client.get_execution(self.handles[role].id)
        return golden.Execution(execution.id, execution.status)

    async def everything(self, folder: Path) -> None:
        options = {"channels": [Pager()]}
        async with running(self.url, self.namespace, *FLOWS, pinned("1"), before, **options) as at:
            await self._orders(at)
            await self._waits(at)
            await self._failures(at)
            await self._others(at)
            await self._begin(at)
            await self._errand(at)
        async with running(self.url, self.namespace, *FLOWS, pinned("2"), after, **options) as at:
            await self._go_on(at)
        await self._killed(folder)

    async def _start(self, role: str, workflow: str, input: Any = None, **options: Any) -> Any:
        handle = await self.client.invoke(f"golden-{workflow}", input, **options)
        self.handles[role] = handle
        return handle

    async def _waiting(self, at: Running, role: str, workflow: str, input: Any = None, **options: Any) -> Any:
        handle = await self._start(role, workflow, input, **options)
        await at.reached(handle, "waiting")
        return handle

    async def _answer(self, execution_id: str, step_key: str, data: Any, **options: Any) -> None:
        await self.client.resume(
            suspend_execution_id=execution_id, suspend_step_key=step_key, data=data, **options
        )

    async def _kids(self, handle: ExecutionHandle[Any], count: int = 1) -> list[str]:
        """The ids of children whose suspension is open, in the order of their creation."""

        async def there() -> list[str]:
            found = [
                one.execution_id
                for one in await self.client.list_suspensions()
                if one.step_key == "count" and one.execution_id.startswith(handle.id)
            ]
            return found if len(found) == count else []

        found: list[str] = await until(there, f"{count} children of {handle.id}")
        return found

    async def _orders(self, at: Running) -> None:
        """Orders that have come to their suspension, to their last one, to their end; and a fork."""
        options = {"user_id": "eve", "session_id": "s1", "run_timeout_seconds": FAR, "idempotency_key": "k"}
        voted = await self._start("voted", "order", ORDER, **options)
        await at.opened(voted, "review")
        await self._answer(voted.id, "review", {"approved": True, "note": "a"}, resumed_by="ann")
        await self._answer(voted.id, "ship", {"by": "sea"}, resumed_by="cyd", early=True)
        await self._kids(voted)
        for role in ("shipping", "ordered"):
            handle = await self._start(role, "order", ORDER)
            await at.opened(handle, "review")
            (kid,) = await self._kids(handle)
            await self._answer(kid, "count", 2)
            await events.publish(self.client, f"{TOPIC}/{handle.id}", EventData("arrived", {"at": "dock"}))
            for name in ("ann", "bob"):
                await self._answer(handle.id, "review", {"approved": True, "note": name}, resumed_by=name)
            await at.opened(handle, "ship")
        await self._answer(self.handles["ordered"].id, "ship", {"by": "air"})
        await at.result(self.handles["ordered"])
        forked = await self.client.fork(
            self.handles["ordered"].id, from_step="ship", keep_decisions=True, by="ann"
        )
        self.handles["forked"] = forked
        await at.opened(forked, "ship")
        cancelled = await self._start("cancelled", "order", ORDER)
        await at.opened(cancelled, "review")
        await self._kids(cancelled)
        await self.client.cancel(cancelled.id)
        await at.reached(cancelled, "cancelled")

    async def _waits(self, at: Running) -> None:
        racing = await self._waiting(at, "racing", "race")
        await self._kids(racing)
        both = await self._start("batch", "batch")
        first, _ = await self._kids(both, 2)
        await self._answer(first, "count", 1)
        await self._kids(both, 1)
        await self._waiting(at, "sleeping", "sleeping")
        await self._waiting(at, "backing off", "backing-off")
        steps = await self._start("steps", "steps")
        await at.opened(steps, "after")
        continuing = await self._waiting(at, "continuing", "continuing", 1)
        await self._answer(continuing.id, "page-1", True)
        await at.opened(continuing, "page-2")

    async def _failures(self, at: Running) -> None:
        failed = await self._start("failed", "failing")
        await at.reached(failed, "failed")
        retried = await self._start("retried", "failing")
        await at.reached(retried, "failed")
        await self.client.retry(retried.id, by="ann")
        await at.reached(retried, "failed")
        paused = await self._start("paused", "paused")
        await at.opened(paused, "before")
        await self._answer(paused.id, "before", "yes")
        await at.reached(paused, "paused")
        retrying = await self._start("retrying", "retrying")
        await until(lambda: self._run_of(retrying, 2))

    async def _run_of(self, handle: ExecutionHandle[Any], run: int) -> bool:
        return (await self.client.get_execution(handle.id)).run == run

    async def _others(self, at: Running) -> None:
        """What a namespace has besides."""
        completed = await self._start("completed", "plain", VALUES)
        await at.result(completed)
        await self._start("delayed", "plain", "later", start_delay=FAR)
        await self._start("unknown", "of-nobody")
        await schedules.create(self.client, "golden-plain", "0 0 1 1 *", key="yearly")
        paused = await schedules.create(self.client, "golden-plain", "0 0 * * *", "Europe/Vienna", "daily")
        await schedules.pause(self.client, paused)
        await apikeys.create(self.client, "shop", ["read"], ["staff"], FAR, ["golden-order"])
        for number in (1, 2):
            await events.publish(self.client, TOPIC, EventData("parcel", number))
        following = await self._waiting(at, "followed", "pack", "vase")
        stream = events.stream_workflow(self.client, "golden-pack", following.id)
        async with aclosing(cast("AsyncGenerator[Event]", stream)) as read:
            await soon(anext(read))

    async def _errand(self, at: Running) -> None:
        """An errand that has failed: it could not read an early answer, which is whole again."""
        handle = await self._start("errand", "order", ORDER)
        await at.opened(handle, "review")
        await self._answer(handle.id, "ship", {"by": "rail"}, early=True)
        store = await self.client.store()
        name = store.partitions.prefix(handle.id) + keys.EARLY.encode() + handle.id.encode()
        sound = await store.wire.call("HGET", name, "ship")
        await store.wire.call("HSET", name, "ship", codec.encode("damaged"))
        (kid,) = await self._kids(handle)
        await self._answer(kid, "count", 2)
        await events.publish(self.client, f"{TOPIC}/{handle.id}", EventData("arrived", None))
        for person in ("ann", "bob"):
            await self._answer(handle.id, "review", {"approved": True, "note": "b"}, resumed_by=person)

        async def set_aside() -> bool:
            return [one.status for one in await errands.list_failed(self.client)] == ["set aside"]

        await until(set_aside, "an errand that is set aside")
        await store.wire.call("HSET", name, "ship", sound)

    async def _begin(self, at: Running) -> None:
        """Executions that begin to wait before their code changes."""
        changed = await self._start("changed", "changed")
        for step_key in ("review", "other"):
            await at.opened(changed, step_key)
        await self._answer(changed.id, "review", "yes", resumed_by="ann")
        await until(lambda: self._has_left(changed))
        await self._waiting(at, "pinned", "pinned")

    async def _has_left(self, handle: ExecutionHandle[Any]) -> bool:
        """Whether it waits for its other suspension only."""
        execution = await self.client.get_execution(handle.id)
        return execution.status == "waiting" and len(execution.open_suspensions) == 1

    async def _go_on(self, at: Running) -> None:
        """The code of these has changed, or is of another version."""
        changed, old = self.handles["changed"], self.handles["pinned"]
        await self._answer(changed.id, "other", "no", resumed_by="ann")
        await at.reached(changed, "stuck")
        await self._answer(old.id, "review", "yes")
        await until(lambda: self._is_unserved(old))

    async def _is_unserved(self, handle: ExecutionHandle[Any]) -> bool:
        return bool((await self.client.get_execution(handle.id)).unserved)

    async def _killed(self, folder: Path) -> None:
        """A worker is killed while it runs a step, and another execution waits for its slot."""
        with Fleet(self.url, self.namespace, folder) as fleet:
            worker = await fleet.start(defined_in="tests.compatibility.golden_flows")
            lost = await self._start("lost", "held")
            await until(lambda: self._reports(lost), "a report of its step")
            behind = await self._start("behind", "held")
            await until(lambda: self._is_behind(behind), "the other in the line")
            worker.kill()
        await self._start("queued", "plain", "at last")

    async def _reports(self, handle: ExecutionHandle[Any]) -> bool:
        steps = (await self.client.get_execution(handle.id)).running_steps
        return any(one.progress_at for one in steps)

    def _is_behind(self, handle: ExecutionHandle[Any]) -> bool:
        """Whether it waits for a slot, which may be in another partition."""
        partitions = read_all(self.url, self.namespace)
        lines = [line for one in partitions for line in one.waiters.values()]
        return any(handle.id.encode() in member for line in lines for member in line)


def _is_released(version: str) -> bool:
    command = ["git", "tag", "--list", f"v{version}"]
    return bool(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def main() -> None:
    if _is_released(__version__):
        sys.exit(
            f"{__version__} is released, so its golden data stays as it is: set __version__ in "
            "polos_redis/version.py to the next release first"
        )
    os.environ.update(SETTINGS)
    logging.disable()  # of failures that are meant
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "redis") as server:
        made = asyncio.run(record(server.url, f"golden-{uuid.uuid4().hex}", Path(name)))
    made.write()
    print(f"{golden.path_of(made.version)}: {len(made.stored)} keys, {len(made.executions)} executions")


if __name__ == "__main__":
    main()
