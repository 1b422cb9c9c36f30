"""The cost of an execution on the wire, counted where nothing is hidden: at the server and at the socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import BatchWorkflowInput, PolosClient, Workflow, WorkflowContext
from polos_redis.embedded import EmbeddedServer
from polos_redis.links import Links
from polos_redis.state import scripts
from polos_redis.values import packing
from polos_redis.wire.wire import Wire
from tests.harness.running import Running, created_at, running, until
from tests.harness.serving import serving
from tests.harness.visiting import visiting

SCRIPTS = {script.sha.decode(): script.name for script in scripts.ALL}
BESIDES = {
    "renew_lease",
    "fire_timers",
    "repair",
    "xpending",
    "hgetall",
    "xinfo",
    "smembers",
    "zrange",
}  # what an idle worker sends periodically


class Monitor:
    """Counts the commands that a server receives for one namespace."""

    def __init__(self, server: EmbeddedServer, namespace: str) -> None:
        self._path = server.url.removeprefix("unix://").partition("?")[0]
        self._namespace = namespace
        self.seen: Counter[str] = Counter()

    async def __aenter__(self) -> Monitor:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        self._writer.write(b"MONITOR\r\n")
        assert await self._reader.readline() == b"+OK\r\n"
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        self._writer.close()
        await self._writer.wait_closed()

    async def _read(self) -> None:
        while line := (await self._reader.readline()).decode("utf-8", "replace"):
            words = line.split('"')[1::2]
            if " lua]" in line or not words:
                continue
            name = words[0].lower()
            if name == "evalsha":
                name = SCRIPTS[words[1]]
            if name == "note_starts":
                continue  # of steps that take long, so only on a slow machine
            if name == "hget" and words[-1] == "minimum_reader":
                continue  # by a process that looks whether it can still read the namespace, every few seconds
            if name == "echo":
                self._mark.set()
            elif self._namespace in line and name not in BESIDES:
                self.seen[name] += 1

    async def drain(self, client: PolosClient) -> Counter[str]:
        """Wait until all commands so far are counted; returns the counts and resets them."""
        self._mark = asyncio.Event()
        await (await client.store()).wire.call("ECHO", "now")
        await self._mark.wait()
        seen, self.seen = self.seen, Counter()
        return seen


async def _nothing() -> None: ...


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def does_nothing(ctx: WorkflowContext) -> None: ...


@flow
async def takes_steps(ctx: WorkflowContext) -> None:
    for number in range(10):
        await ctx.step.run(f"step-{number}", _nothing)


@flow
async def gathers_steps(ctx: WorkflowContext) -> None:
    await asyncio.gather(*(ctx.step.run(f"step-{number}", _nothing) for number in range(10)))


@flow
async def asks(ctx: WorkflowContext) -> None:
    await ctx.step.run("before", _nothing)
    await ctx.step.suspend("ask")
    await ctx.step.run("after", _nothing)


class Decision(BaseModel):
    approved: bool


@flow
async def asks_for_a_decision(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("ask", schema=Decision)


@flow
async def naps(ctx: WorkflowContext) -> None:
    await ctx.step.wait_for("nap", seconds=0.05)


@flow
async def starts_children(ctx: WorkflowContext) -> None:
    await ctx.step.batch_invoke_and_wait("kids", [BatchWorkflowInput(does_nothing) for _ in range(250)])


@flow
async def races(ctx: WorkflowContext) -> None:
    await ctx.step.first_of(
        "race", {"ask": ctx.step.suspend("ask"), "limit": ctx.step.wait_for("limit", seconds=60)}
    )


def _reads(seen: Counter[str]) -> int:
    return seen.pop("xreadgroup", 0)


async def _one(at: Running, monitor: Monitor, one: Workflow[Any, Any]) -> Counter[str]:
    await at.client.list_executions()
    await monitor.drain(at.client)
    handle = await one.invoke(at.client)
    await until(lambda: _done(at, handle.id))
    seen = await monitor.drain(at.client)
    del seen["hget"], seen["hmget"]
    return seen


async def _done(at: Running, execution_id: str) -> bool:
    (status,) = await (await at.client.store()).executions.read_fields(execution_id, "status")
    return status == b"completed"


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (does_nothing, {"invoke": 1, "finish": 1}),
        (takes_steps, {"invoke": 1, "write_step": 10, "finish": 1}),
        (gathers_steps, {"invoke": 1, "write_step": 10, "finish": 1}),
    ],
)
async def test_calls_of_an_execution(
    which: Workflow[Any, Any], expected: dict[str, int], server: EmbeddedServer, namespace: str
) -> None:
    async with running(server.url, namespace, which) as at, Monitor(server, namespace) as monitor:
        seen = await _one(at, monitor, which)
        assert _reads(seen) <= 3  # the one that delivers it, the next one, and a timeout in between
        assert seen == expected


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (naps, {"invoke": 1, "open_wait": 1, "finish": 1}),
        (starts_children, {"invoke": 1, "start_children": 3, "load": 1, "finish": 251}),
    ],
)
async def test_calls_of_a_parked_execution(
    which: Workflow[Any, Any], expected: dict[str, int], server: EmbeddedServer, namespace: str
) -> None:
    async with (
        running(server.url, namespace, which, does_nothing) as at,
        Monitor(server, namespace) as monitor,
    ):
        seen = await _one(at, monitor, which)
        assert _reads(seen) < 100
        assert seen.pop("park") == 1
        assert seen == expected


async def test_calls_of_a_race_between_waits(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, races) as at, Monitor(server, namespace) as monitor:
        await at.client.list_executions()
        await monitor.drain(at.client)
        handle = await races.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        await until(lambda: _done(at, handle.id))
        seen = await monitor.drain(at.client)
        del seen["hmget"], seen["read_statuses"]
        assert _reads(seen) <= 5
        assert seen == {"invoke": 1, "suspend": 1, "open_wait": 1, "park": 1, "answer": 1, "finish": 1}


@flow
async def is_answered_in_place(ctx: WorkflowContext) -> None:
    await asyncio.gather(ctx.step.suspend("ask"), ctx.step.run("held", _HELD.wait))


_HELD = asyncio.Event()


async def test_calls_of_an_answer_in_place(server: EmbeddedServer, namespace: str) -> None:
    """The notice of the answer counts: the end needs no look at the journal."""
    _HELD.clear()
    async with (
        running(server.url, namespace, is_answered_in_place) as at,
        Monitor(server, namespace) as monitor,
    ):
        await at.client.list_executions()
        await monitor.drain(at.client)
        handle = await is_answered_in_place.invoke(at.client)
        await at.opened(handle, "ask")
        (activation,) = at.worker.active
        await monitor.drain(at.client)
        await at.answer(handle, "ask")
        await until(lambda: activation.journal.answers)
        _HELD.set()
        await until(lambda: _done(at, handle.id))
        seen = await monitor.drain(at.client)
        del seen["hmget"], seen["load"]  # a waiting activation looks regularly
        assert _reads(seen) <= 10
        assert seen == {"answer": 1, "write_step": 1, "finish": 1}


async def test_deliveries_share_a_read(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, does_nothing) as at, Monitor(server, namespace) as monitor:
        await at.client.list_executions()
        await monitor.drain(at.client)
        handles = await asyncio.gather(*(does_nothing.invoke(at.client) for _ in range(500)))
        await asyncio.gather(*(at.result(handle) for handle in handles))
        seen = await monitor.drain(at.client)
        assert _reads(seen) < 100
        assert (seen["invoke"], seen["finish"]) == (500, 500)
        assert set(seen) <= {"invoke", "finish", "watch_execution", "ssubscribe"}
        assert seen["watch_execution"] <= 500


async def test_calls_of_a_suspension(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, asks) as at, Monitor(server, namespace) as monitor:
        await at.client.list_executions()
        await monitor.drain(at.client)
        handle = await asks.invoke(at.client)
        await at.parked(handle)
        seen = await monitor.drain(at.client)
        del seen["hmget"], seen["read_statuses"]  # the test's own status checks
        assert _reads(seen) <= 3
        assert seen == {"invoke": 1, "write_step": 1, "suspend": 1, "park": 1}

        await at.answer(handle, "ask")
        await until(lambda: _done(at, handle.id))
        seen = await monitor.drain(at.client)
        del seen["hmget"], seen["read_statuses"]
        assert _reads(seen) <= 3
        assert seen == {"answer": 1, "write_step": 1, "finish": 1}


ANSWER = {"approved": True}


@pytest.mark.parametrize(
    ("which", "shown", "expected"),
    [
        (asks, False, {"answer": 1}),
        (asks, True, {"answer": 2}),
        (asks_for_a_decision, False, {"answer": 2}),
        (asks_for_a_decision, True, {"answer": 2}),
    ],
)
async def test_calls_of_a_resume_by_a_client(
    which: Workflow[Any, Any],
    shown: bool,
    expected: dict[str, int],
    server: EmbeddedServer,
    namespace: str,
) -> None:
    async with (
        _waiting(server, namespace, which) as (client, execution_id),
        Monitor(server, namespace) as monitor,
    ):
        digest = (await client.get_suspension(execution_id, "ask"))["digest"] if shown else None
        await monitor.drain(client)
        await client.resume(
            suspend_execution_id=execution_id, suspend_step_key="ask", data=ANSWER, shown_digest=digest
        )
        assert await monitor.drain(client) == expected


@pytest.mark.parametrize("which", [asks, asks_for_a_decision])
@pytest.mark.parametrize("way", ["api", "page"])
async def test_calls_of_a_resume_by_a_link(
    way: str, which: Workflow[Any, Any], server: EmbeddedServer, namespace: str
) -> None:
    """One read of the suspension and its execution, then the answer: it needs no second look."""
    links = Links(["a secret of more than 32 characters, for tests"], namespace, None, 3600)
    async with (
        _waiting(server, namespace, which) as (client, execution_id),
        serving(client, links=links) as base,
        visiting(base) as visitor,
        Monitor(server, namespace) as monitor,
    ):
        token = links.token(execution_id, "ask", 1, await created_at(client, execution_id))
        page = await visitor.get(f"/approve/{execution_id}/ask", token=token)
        await monitor.drain(client)
        if way == "api":
            answer = await visitor.http.post(
                f"/api/v1/executions/{execution_id}/resume",
                json={"step_key": "ask", "data": ANSWER},
                headers={"Authorization": f"Bearer {token}"},
            )
            assert answer.status_code == 200, answer.text
        else:
            form = page.form("/approve")
            answer = await visitor.http.post(
                form.action, data=visitor.data(form, "Approve"), follow_redirects=False
            )
            assert answer.status_code == 303, answer.text
        assert await monitor.drain(client) == {"hmget": 2, "read_statuses": 1, "answer": 1}


@pytest.mark.parametrize(
    ("which", "answer"),
    [
        (asks, ANSWER),
        (asks, Decision(approved=True)),
        (asks_for_a_decision, ANSWER),
        (asks_for_a_decision, Decision(approved=True)),
    ],
)
async def test_an_answer_is_encoded_once(
    which: Workflow[Any, Any],
    answer: Any,
    server: EmbeddedServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _waiting(server, namespace, which) as (client, execution_id):
        pack, packed = packing.pack, []

        def counting(value: Any, depth: int = 0) -> bytes:
            if depth == 0:
                packed.append(value)
            return pack(value, depth)

        monkeypatch.setattr(packing, "pack", counting)
        done = await client.resume(suspend_execution_id=execution_id, suspend_step_key="ask", data=answer)
        assert done.outcome == "accepted"
        assert packed == [answer]


@contextlib.asynccontextmanager
async def _waiting(
    server: EmbeddedServer, namespace: str, which: Workflow[Any, Any]
) -> AsyncIterator[tuple[PolosClient, str]]:
    """A client and an execution that waits for an answer, with no worker."""
    async with running(server.url, namespace, which) as at:
        handle = await which.invoke(at.client)
        await at.parked(handle)
    async with PolosClient(server.url, namespace) as client:
        await client.list_executions()
        yield client, handle.id


async def test_a_suspended_execution_causes_no_calls(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, asks) as at, Monitor(server, namespace) as monitor:
        handles = [await asks.invoke(at.client) for _ in range(20)]
        for handle in handles:
            await at.parked(handle)
        await monitor.drain(at.client)
        reads = 0
        while reads < 2:  # two complete reads
            await asyncio.sleep(0.02)
            seen = await monitor.drain(at.client)
            reads += _reads(seen)
            assert not seen


@pytest.mark.parametrize("count", [1, 10, 500])
async def test_calls_of_one_turn_leave_in_one_write(
    count: int, server: EmbeddedServer, namespace: str
) -> None:
    async with PolosClient(server.url, namespace) as client:
        wire = (await client.store()).wire
        assert isinstance(wire, Wire)
        await wire.call("PING")
        link = wire._transport
        assert link is not None
        writes: list[int] = []
        transport = link.transport

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: bytes) -> None:
                writes.append(len(data))
                transport.write(data)

        link.transport = Counting()  # type: ignore[assignment]
        answers = await asyncio.gather(*(wire.call("ECHO", str(number)) for number in range(count)))
        link.transport = transport
        assert answers == [str(number).encode() for number in range(count)]
        assert len(writes) == 1
