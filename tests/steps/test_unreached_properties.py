"""Random workflows whose decisions are answered while their activations crash, and whose code changes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polos_redis import ExecutionHandle, StepExecutionError, WorkflowContext
from polos_redis.errors import ResumeError
from tests.harness.deployments import Deployed, crash, journaled, stuck
from tests.harness.running import Running, running, soon

pytestmark = pytest.mark.failure(45)


@dataclass(frozen=True)
class Step:
    key: str = ""


@dataclass(frozen=True)
class Ask:
    key: str = ""


@dataclass(frozen=True)
class Fail:
    key: str = ""


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Gather:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Try:
    parts: tuple[Node, ...]  # what may fail, what follows then


@dataclass(frozen=True)
class Race:
    parts: tuple[Node, ...]
    key: str = ""


Node: TypeAlias = "Step | Ask | Fail | Sequence | Gather | Try | Race"

LEAVES: st.SearchStrategy[Node] = st.sampled_from([Step(), Ask(), Ask(), Fail()])


def _around(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    two = st.tuples(inner, inner)
    return st.one_of(
        some.map(Sequence), some.map(Gather), two.map(Try), st.tuples(inner, inner).map(lambda p: Race(p))
    )


def _numbered(node: Node, number: Iterator[int]) -> Node:
    """The node with a key of its own for each part that needs one."""
    if isinstance(node, Step | Ask | Fail):
        return replace(node, key=f"{type(node).__name__.lower()}{next(number)}")
    parts = tuple(_numbered(part, number) for part in node.parts)
    return Race(parts, f"race{next(number)}") if isinstance(node, Race) else replace(node, parts=parts)


NODES: st.SearchStrategy[Node] = st.recursive(LEAVES, _around, max_leaves=8)
PROGRAMS = NODES.map(lambda node: _numbered(node, itertools.count()))


def code_of(program: Node, keys: Callable[[str], str | None] = str) -> Any:
    """The code of a workflow that runs a program and ends well. `keys` maps each key of a suspension to the
    one it has now, None if it is gone."""

    async def run(flow: Deployed, ctx: WorkflowContext, node: Node) -> None:
        match node:
            case Step():
                await flow.step(ctx, node.key)
            case Fail():
                await ctx.step.run(node.key, _fails, max_retries=0)
            case Ask():
                key = keys(node.key)
                if key is not None:
                    await ctx.step.suspend(key)
            case Sequence():
                for part in node.parts:
                    await run(flow, ctx, part)
            case Gather():
                await asyncio.gather(*(run(flow, ctx, part) for part in node.parts))
            case Try():
                body, handler = node.parts
                try:
                    await run(flow, ctx, body)
                except StepExecutionError:
                    await run(flow, ctx, handler)
            case Race():
                branches = {}
                for name, part in zip("ab", node.parts, strict=True):
                    key = keys(part.key) if isinstance(part, Ask) else None
                    branches[name] = run(flow, ctx, part) if key is None else ctx.step.suspend(key)
                await ctx.step.first_of(node.key, branches)

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        with contextlib.suppress(StepExecutionError):
            await run(flow, ctx, program)
        await ctx.step.suspend("last")
        return "done"

    return code


async def _fails() -> None:
    raise ValueError("as planned")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def open_keys(at: Running, handle: ExecutionHandle[Any]) -> list[str]:
    execution = await at.client.get_execution(handle.id)
    return sorted(one["step_key"] for one in execution["open_suspensions"])


async def answer_one(at: Running, handle: ExecutionHandle[Any], key: str) -> None:
    with contextlib.suppress(ResumeError):  # its race was decided meanwhile
        await at.answer(handle, key)


async def until_parked(at: Running, handle: ExecutionHandle[Any]) -> list[str]:
    """Wait until the execution is parked; returns what it waits for."""
    await at.parked(handle)
    return await open_keys(at, handle)


async def finished(at: Running, handle: ExecutionHandle[Any]) -> None:
    """Answer whatever comes until the execution has ended, and check that it did so well."""
    while (await handle.status()) in ("queued", "running", "waiting"):
        for key in await open_keys(at, handle):
            await answer_one(at, handle, key)
    assert await at.result(handle) == "done"


async def crashes(at: Running, flow: Deployed, seed: int) -> None:
    """Run a program to its end while its activations crash at random."""
    chance = random.Random(seed)
    handle = await flow.workflow.invoke(at.client)
    for _ in range(chance.randrange(30)):
        await turns(chance.randrange(40))
        if chance.random() < 0.5:
            crash(at, handle)
        elif keys := await open_keys(at, handle):
            await answer_one(at, handle, chance.choice(keys))
    await finished(at, handle)


async def changes(at: Running, flow: Deployed, program: Node, new_key: str | None, seed: int) -> None:
    """Change the key of a suspension, or drop it, while it waits; put it back after its answer."""
    chance = random.Random(seed)
    handle = await flow.workflow.invoke(at.client)
    for _ in range(chance.randrange(4)):
        keys = await until_parked(at, handle)
        if len(keys) > 1:
            await answer_one(at, handle, chance.choice(keys[:-1]))  # not the last: "last", if that is open
    keys = [key for key in await until_parked(at, handle) if key != "last"]
    if keys:
        changed = chance.choice(keys)
        before = await journaled(at, handle)
        flow.deploy(code_of(program, lambda key: new_key if key == changed else key))
        await at.answer(handle, changed)
        reason = await stuck(at, handle)
        assert reason.keys == (changed,)
        assert flow.effects == [] and await journaled(at, handle) == before
        flow.deploy(code_of(program))
        await at.client.retry(handle.id)
    await finished(at, handle)


def play(
    url: str, namespace: str, programs: list[Node], scenario: Callable[..., Any], stuck_seconds: float
) -> None:
    """Play a scenario with every program, all at once, in one worker."""

    async def all_at_once() -> None:
        flows = [Deployed(code_of(program), f"deployed-{n}") for n, program in enumerate(programs)]
        async with running(url, namespace, *(flow.workflow for flow in flows)) as at:
            at.host.stuck_seconds = stuck_seconds
            async with asyncio.TaskGroup() as group:
                for flow, program in zip(flows, programs, strict=True):
                    group.create_task(scenario(at, flow, program))

    asyncio.run(soon(all_at_once()))


checked = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SEEDS = st.integers(0, 2**32)
MANY = st.lists(PROGRAMS, min_size=5, max_size=10)


@checked
@given(MANY, SEEDS)
def test_unchanged_code_is_never_stuck(
    redis_url: str, namespace: str, programs: list[Node], seed: int
) -> None:
    async def scenario(at: Running, flow: Deployed, _: Node) -> None:
        await crashes(at, flow, seed)

    play(redis_url, namespace, programs, scenario, 3600.0)


@checked
@given(MANY, st.sampled_from([None, "renamed"]), SEEDS)
def test_changed_code_never_gets_past_a_decision(
    redis_url: str, namespace: str, programs: list[Node], new_key: str | None, seed: int
) -> None:
    async def scenario(at: Running, flow: Deployed, program: Node) -> None:
        await changes(at, flow, program, new_key, seed)

    play(redis_url, namespace, programs, scenario, 0.4)
