"""Spans that real worker processes export to a collector, and the trace ids in their logs."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis import ExecutionHandle, PolosClient
from polos_redis.tracing import TraceContext, received
from tests.harness.collector import Collector, Exported, collecting
from tests.harness.command import Command
from tests.harness.running import until

CONFIGURED = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=50))
trace.set_tracer_provider(provider)
"""
FLOWS = """
import asyncio, logging
from opentelemetry import trace
from polos_redis import workflow

mine = trace.get_tracer("mine")

@workflow(id="child")
async def child(ctx, input: int):
    return input

def charge():
    with mine.start_as_current_span("a call of my own"):
        return 1

async def charge_async():
    return charge()

attempts = []

def unreliable():
    attempts.append(1)
    if len(attempts) == 1:
        raise OSError("the network is down")

@workflow(id="order")
async def order(ctx):
    ctx.logger.warning("begins")
    with mine.start_as_current_span("around the charge"):
        await ctx.step.run("charge", charge)
    await ctx.step.suspend("approve")
    await asyncio.gather(ctx.step.run("left", charge_async), ctx.step.run("right", charge_async))
    await ctx.step.suspend("approve again")
    return await ctx.step.invoke_and_wait("child", child, 7)

@workflow(id="unreliable")
async def retried(ctx):
    await ctx.step.run("send", unreliable, base_delay=0.01)

def fail():
    raise ValueError("no such account")

@workflow(id="failing")
async def failing(ctx):
    await ctx.step.run("book", fail, max_retries=0)
"""
CALLER = TraceContext(f"00-{'ab' * 16}-{'cd' * 8}-01", "vendor=1")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path, collector: Collector) -> Command:
    (tmp_path / "traced.py").write_text(CONFIGURED + FLOWS)
    (tmp_path / "untraced.py").write_text(FLOWS)
    command = Command(redis_url, namespace, tmp_path)
    command.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "orders"}
    return command


def _check_chain(activations: list[Exported]) -> None:
    for before, after in itertools.pairwise(activations):
        assert after.links == [before.ids]


async def test_activations_and_steps_of_one_execution_are_one_trace(
    redis_url: str, namespace: str, polos: Command, collector: Collector
) -> None:
    with polos.worker("traced.py"), received(CALLER):
        execution_id = await _complete_order(redis_url, namespace, collector)
    activations = collector.named("activation order")
    ends = [one.attributes["polos.ended"] for one in activations]
    assert ends[:2] == ["parked", "parked"] and ends[-1] == "finished"  # it may park at its child, too
    assert [one.attributes["polos.waits"] for one in activations[:2]] == [["approve"], ["approve again"]]
    assert not activations[0].links
    _check_chain(activations)
    for one in activations:
        assert (one.trace_id, one.parent_id) == ("ab" * 16, "cd" * 8)
        assert one.attributes["polos.execution.id"] == execution_id
        assert one.service == "orders" and not one.is_error
    (charge,) = collector.named("step charge")
    around = collector.named("around the charge")  # the code runs again in each activation
    assert [one.parent_id for one in around] == [one.id for one in activations]
    assert charge.parent_id == around[0].id
    sides = [*collector.named("step left"), *collector.named("step right")]
    assert {one.parent_id for one in sides} == {activations[1].id}
    own = collector.named("a call of my own")
    assert {one.parent_id for one in own} == {charge.id, *(side.id for side in sides)}
    (child,) = collector.named("activation child")
    assert (child.trace_id, child.parent_id) == ("ab" * 16, activations[2].id)  # which started it
    assert {one.trace_id for one in collector.spans} == {"ab" * 16}


async def _complete_order(url: str, namespace: str, collector: Collector | None = None) -> str:
    """Run an order to its end, answering each suspension once it has parked; returns its id. With a
    collector, the span of the activation must have ended by then."""
    async with PolosClient(url, namespace) as client:
        handle = await client.invoke("order")
        for count, key in enumerate(("approve", "approve again"), 1):
            if collector is not None:
                await asyncio.to_thread(collector.wait_for, "activation order", count)
            await _answer(client, handle, key)
        assert await handle.result(timeout=60) == 7
        return handle.id


async def _answer(client: PolosClient, handle: ExecutionHandle[Any], key: str) -> None:
    async def is_parked() -> bool:
        execution = await client.get_execution(handle.id)
        opened = [one["step_key"] for one in execution["open_suspensions"]]
        return opened == [key] and await handle.status() == "waiting"

    await until(is_parked, f"{key} of {handle.id}")
    await client.resume(suspend_execution_id=handle.id, suspend_step_key=key, data="yes")


async def test_a_trace_begins_with_the_first_activation_and_goes_on_in_another_process(
    redis_url: str, namespace: str, polos: Command, collector: Collector
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with polos.worker("traced.py"):
            handle = await client.invoke("order")
            await until(lambda: _is_waiting(handle))
        (first,) = collector.named("activation order")  # it was exported before the worker exited
        assert first.parent_id == "" and first.attributes["polos.ended"] == "parked"
        with polos.worker("traced.py"):
            for key in ("approve", "approve again"):
                await _answer(client, handle, key)
            assert await handle.result(timeout=60) == 7
    activations = collector.named("activation order")
    assert len(activations) >= 3
    _check_chain(activations)
    assert {one.parent_id for one in activations[1:]} == {first.id}
    assert {one.trace_id for one in collector.spans} == {first.trace_id}


async def _is_waiting(handle: ExecutionHandle[Any]) -> bool:
    return await handle.status() == "waiting"


def test_each_attempt_has_a_span_with_its_error(polos: Command, collector: Collector) -> None:
    with polos.worker("traced.py"):
        assert polos.run("invoke", "unreliable", "--wait").code == 0
    first, second = collector.named("step send")
    assert first.is_error and first.message == "OSError: the network is down"
    assert (first.attributes["error.type"], first.attributes["polos.step.status"]) == ("OSError", "retry")
    ((name, facts),) = first.events
    assert name == "exception" and facts["exception.type"] == "OSError"
    assert "in unreliable" in facts["exception.stacktrace"]
    assert not second.is_error and not second.events and second.attributes["polos.step.attempt"] == 2
    (activation,) = collector.named("activation unreliable")
    assert not activation.is_error and activation.attributes["polos.status"] == "completed"


def test_a_failed_execution_and_its_retry(polos: Command, collector: Collector) -> None:
    with polos.worker("traced.py"):
        started = polos.run("invoke", "failing", "--wait")
        assert started.code != 0
        execution_id = collector.wait_for("activation failing")[0].attributes["polos.execution.id"]
        assert polos.run("retry", execution_id).code == 0
        collector.wait_for("activation failing", 2)
    first, second = collector.named("activation failing")
    assert second.links == [first.ids] and second.trace_id == first.trace_id
    for one in (first, second):
        assert one.is_error and "no such account" in one.message
        assert one.attributes["polos.status"] == "failed"
    assert [one.attributes["polos.run"] for one in (first, second)] == [1, 2]


def test_logs_have_the_ids_of_their_span(polos: Command, collector: Collector) -> None:
    with polos.worker("traced.py", "--log-format", "json") as worker:
        polos.run("invoke", "failing", "--wait")
    (activation,) = collector.named("activation failing")
    (step,) = collector.named("step book")
    lines = {line["message"]: line for line in map(json.loads, worker.err.splitlines())}
    for message, span in (("start", activation), ("failed", activation), ("step failed", step)):
        assert (lines[message]["trace_id"], lines[message]["span_id"]) == span.ids, message


@pytest.mark.parametrize(
    ("program", "environment"),
    [("untraced.py", {}), ("traced.py", {"OTEL_SDK_DISABLED": "true"})],
    ids=["no provider", "disabled"],
)
def test_without_a_provider_nothing_is_traced(
    polos: Command, collector: Collector, program: str, environment: dict[str, str]
) -> None:
    polos.environment |= environment
    with polos.worker(program, "--log-format", "json") as worker:
        assert polos.run("invoke", "unreliable", "--wait").code == 0
    assert not collector.spans
    assert "trace_id" not in worker.err


async def test_what_is_not_sampled_runs_and_stays_unsampled(
    redis_url: str, namespace: str, polos: Command, collector: Collector
) -> None:
    polos.environment["OTEL_TRACES_SAMPLER"] = "parentbased_always_off"
    with polos.worker("traced.py"):
        await _complete_order(redis_url, namespace)
        assert not collector.spans
        with received(CALLER):
            await _complete_order(redis_url, namespace)
    assert len(collector.named("activation order")) >= 3
    assert {one.trace_id for one in collector.spans} == {"ab" * 16}


BROKEN = """
from opentelemetry.sdk.trace import SpanProcessor

class Broken(SpanProcessor):
    def on_start(self, span, parent_context=None):
        raise RuntimeError("a processor is broken")

    def on_end(self, span):
        raise RuntimeError("a processor is broken")

provider.add_span_processor(Broken())
"""


def test_a_broken_processor_breaks_no_execution(polos: Command, collector: Collector) -> None:
    (polos.folder / "broken.py").write_text(CONFIGURED + BROKEN + FLOWS)
    with polos.worker("broken.py") as worker:
        assert polos.run("invoke", "unreliable", "--wait").code == 0
    assert worker.err.count("tracing failed; the execution goes on without it") == 1
    assert "a processor is broken" in worker.err
