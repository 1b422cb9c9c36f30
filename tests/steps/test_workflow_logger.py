"""`ctx.logger` and the filter for other loggers: whose records they are, and that a replay logs nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polos_redis import WorkflowContext
from polos_redis.logs import ExecutionFilter, KeyValueFormatter
from tests.harness.deployments import Deployed, crash
from tests.harness.running import Running, running, soon, until

FACTS = ("execution", "workflow", "step", "attempt")
shop = logging.getLogger("shop")


class Collecting(logging.Handler):
    """Keeps the records of a logger, as they are after the handler's filters."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def facts(self, message: str) -> dict[str, Any]:
        (record,) = [record for record in self.records if record.getMessage() == message]
        return {name: value for name, value in vars(record).items() if name in FACTS}


@pytest.fixture
def logged() -> Iterator[Collecting]:
    """What workflows log, with ctx.logger and with a logger of their own under the filter."""
    handler = Collecting()
    handler.addFilter(ExecutionFilter())
    loggers = (shop, logging.getLogger("polos.workflow"))
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


async def _sells(flow: Deployed, ctx: WorkflowContext) -> None:
    def in_thread() -> None:
        ctx.logger.info("in a thread")
        shop.info("shop in a thread")

    async def in_loop() -> None:
        ctx.logger.info("in the loop")
        shop.info("shop in the loop")
        if not flow.new.is_set():
            flow.new.set()
            raise OSError("once")
        ctx.logger.info("again")

    ctx.logger.info("starts for %s", "ann", extra={"customer": "ann"})
    shop.info("shop starts")
    try:
        await ctx.step.run("thread", in_thread)
        ctx.logger.info("between")
        await ctx.step.run("loop", in_loop, base_delay=0.0)
        await ctx.step.suspend("ask")
        ctx.logger.info("answered")
        shop.info("shop answered")
        await ctx.step.suspend("again")
    finally:
        ctx.logger.info("leaves")
        shop.info("shop leaves")


async def test_records_carry_whose_they_are_and_a_replay_is_silent(
    redis_url: str, namespace: str, logged: Collecting
) -> None:
    flow = Deployed(_sells, "sells")
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        for key in ("ask", "again"):
            await at.parked(handle)
            await at.answer(handle, key)
        await at.result(handle)
    whose = {"execution": handle.id, "workflow": "sells"}
    assert logged.messages == [
        *("starts for ann", "shop starts", "in a thread", "shop in a thread", "between"),
        *("in the loop", "shop in the loop", "in the loop", "shop in the loop", "again"),
        *("answered", "shop answered", "leaves", "shop leaves"),
    ]
    for message in ("starts for ann", "shop starts", "between", "answered", "shop leaves"):
        assert logged.facts(message) == whose
    for message in ("in a thread", "shop in a thread"):
        assert logged.facts(message) == {**whose, "step": "thread", "attempt": 1}
    assert logged.facts("again") == {**whose, "step": "loop", "attempt": 2}
    attempts = [vars(one)["attempt"] for one in logged.records if one.getMessage() == "shop in the loop"]
    assert attempts == [1, 2]
    assert vars(logged.records[0])["customer"] == "ann"
    assert "execution=" in KeyValueFormatter().format(logged.records[1])


async def test_the_callers_own_facts_win_and_records_of_others_pass(
    redis_url: str, namespace: str, logged: Collecting
) -> None:
    def in_a_bare_thread(ctx: WorkflowContext) -> None:
        ctx.logger.info("bare")
        shop.info("shop bare")

    async def code(flow: Deployed, ctx: WorkflowContext) -> None:
        shop.info("own", extra={"step": "mine"})
        ctx.logger.info("own too", extra={"step": "mine"})
        thread = threading.Thread(target=in_a_bare_thread, args=(ctx,))
        thread.start()
        thread.join()
        assert not ctx.logger.isEnabledFor(logging.DEBUG)
        with pytest.raises(KeyError, match="message"):
            ctx.logger.info("refused", extra={"message": "reserved"})

    flow = Deployed(code, "sells")
    async with running(redis_url, namespace, flow.workflow) as at:
        shop.info("outside")
        handle = await flow.workflow.invoke(at.client)
        await at.result(handle)
    whose = {"execution": handle.id, "workflow": "sells"}
    assert logged.facts("outside") == {} == logged.facts("shop bare")
    assert logged.facts("own") == logged.facts("own too") == {**whose, "step": "mine"}
    assert logged.facts("bare") == whose


async def test_a_line_after_a_crash_is_logged(redis_url: str, namespace: str, logged: Collecting) -> None:
    async def code(flow: Deployed, ctx: WorkflowContext) -> None:
        ctx.logger.info("before")
        await flow.step(ctx, "one")
        ctx.logger.info("after")
        if not flow.new.is_set():
            flow.kept = ctx
            await flow.new.wait()
        await flow.step(ctx, "two")
        ctx.logger.info("end")

    flow = Deployed(code, "sells")
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await until(lambda: flow.kept is not None)
        flow.new.set()
        assert crash(at, handle) == 1
        await at.result(handle)
    assert logged.messages == ["before", "after", "after", "end"], "it may have been lost with the worker"


async def test_code_that_no_longer_reaches_a_step_is_not_silent_for_ever(
    redis_url: str, namespace: str, logged: Collecting
) -> None:
    async def old(flow: Deployed, ctx: WorkflowContext) -> None:
        await flow.step(ctx, "gone")
        await ctx.step.suspend("ask")

    async def new(flow: Deployed, ctx: WorkflowContext) -> None:
        ctx.logger.info("replayed")
        await ctx.step.suspend("ask")
        ctx.logger.info("answered")
        await flow.step(ctx, "added")
        ctx.logger.info("end")

    flow = Deployed(old, "sells")
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        flow.deploy(new)
        await at.answer(handle, "ask")
        await at.result(handle)
    assert logged.messages == ["answered", "end"]


async def test_a_patch_that_is_asked_during_a_replay_does_not_end_it(
    redis_url: str, namespace: str, logged: Collecting
) -> None:
    async def old(flow: Deployed, ctx: WorkflowContext) -> None:
        ctx.logger.info("starts")
        await flow.step(ctx, "one")
        ctx.logger.info("one done")
        await ctx.step.suspend("ask")

    async def new(flow: Deployed, ctx: WorkflowContext) -> None:
        assert not await ctx.patched("new")
        await old(flow, ctx)
        ctx.logger.info("answered")

    flow = Deployed(old, "sells")
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        flow.deploy(new)
        await at.answer(handle, "ask")
        await at.result(handle)
    assert logged.messages == ["starts", "one done", "answered"]


# --- any shape of code --------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    kind: str
    key: str = ""


@dataclass(frozen=True)
class Parts:
    parts: tuple[Node, ...]
    at_once: bool


Node: TypeAlias = "Leaf | Parts"

LEAVES: st.SearchStrategy[Node] = st.sampled_from(["step", "ask", "ask"]).map(Leaf)
NODES: st.SearchStrategy[Node] = st.recursive(
    LEAVES,
    lambda inner: st.builds(Parts, st.lists(inner, min_size=1, max_size=4).map(tuple), st.booleans()),
    max_leaves=10,
)


def _numbered(node: Node, number: Iterator[int]) -> Node:
    if isinstance(node, Leaf):
        return replace(node, key=f"{node.kind}{next(number)}")
    return replace(node, parts=tuple(_numbered(part, number) for part in node.parts))


def _keys(node: Node) -> list[str]:
    return [node.key] if isinstance(node, Leaf) else [key for part in node.parts for key in _keys(part)]


def _code(program: Node) -> Any:
    """Code that logs the key of each call after it."""

    async def run(flow: Deployed, ctx: WorkflowContext, node: Node) -> None:
        if isinstance(node, Parts):
            if node.at_once:
                await asyncio.gather(*(run(flow, ctx, part) for part in node.parts))
            else:
                for part in node.parts:
                    await run(flow, ctx, part)
            return
        if node.kind == "step":
            await flow.step(ctx, node.key)
        else:
            await ctx.step.suspend(node.key)
        ctx.logger.info("%s", node.key, extra={"customer": ctx.execution_id})

    async def code(flow: Deployed, ctx: WorkflowContext) -> None:
        await run(flow, ctx, program)

    return code


async def _answered(at: Running, flow: Deployed, order: int) -> None:
    """Answer one after the other, and let the execution park each time."""
    handle = await flow.workflow.invoke(at.client)

    async def is_settled() -> bool:
        return await handle.status() == "completed" or handle.id not in {one.id for one in at.worker.active}

    while True:
        await until(is_settled)
        if await handle.status() == "completed":
            return
        waiting = sorted(
            one["step_key"] for one in (await at.client.get_execution(handle.id))["open_suspensions"]
        )
        if waiting:
            await at.answer(handle, waiting[order % len(waiting)])
        await asyncio.sleep(0)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(NODES, min_size=4, max_size=8), st.integers(0, 6))
def test_each_line_is_logged_once(
    redis_url: str, namespace: str, logged: Collecting, programs: list[Node], order: int
) -> None:
    numbered = [_numbered(program, itertools.count()) for program in programs]
    flows = [Deployed(_code(program), f"logs-{n}") for n, program in enumerate(numbered)]

    async def play() -> None:
        workflows = [flow.workflow for flow in flows]
        async with running(redis_url, namespace, *workflows) as at, asyncio.TaskGroup() as group:
            for flow in flows:
                group.create_task(_answered(at, flow, order))

    asyncio.run(soon(play()))
    lines = [(vars(one)["workflow"], one.getMessage()) for one in logged.records]
    logged.records.clear()
    expected = [
        (flow.workflow.id, key) for flow, one in zip(flows, numbered, strict=True) for key in _keys(one)
    ]
    assert sorted(lines) == sorted(expected)
