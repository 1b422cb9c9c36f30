"""Executions of workflows that no worker knows: one warning a minute, and what people see."""

from __future__ import annotations

import asyncio
import itertools
import logging
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import ExecutionHandle, Workflow, WorkflowContext
from polos_redis.metrics import exposition
from polos_redis.worker import unknown_workflows
from polos_redis.worker.unknown_workflows import UnknownWorkflows
from tests.harness.running import Running, running, until


async def _nothing(ctx: WorkflowContext) -> None:
    pass


known: Workflow[Any, Any] = Workflow(_nothing, "known")
later: Workflow[Any, Any] = Workflow(_nothing, "later")


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[list[str], int | str]]:
    """Workflows and number of executions of each warning."""
    return [
        (vars(one)["workflows"], vars(one)["executions"])
        for one in caplog.records
        if one.getMessage() == "unknown workflows, left to other workers" and one.levelno == logging.WARNING
    ]


async def is_moved(at: Running, handle: ExecutionHandle[Any]) -> bool:
    """Whether a worker that does not know the workflow has moved an execution to a reserved stream."""
    (queue,) = await (await at.client.store()).executions.read_fields(handle.id, "queue")
    return queue is not None


@pytest.mark.failure(10)
async def test_they_are_logged_together_and_the_execution_says_why_it_waits(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_workflows, "FIRST_SECONDS", 0.2)
    async with running(redis_url, namespace, known) as at:
        handles = [await at.client.invoke(name) for name in ("later", "later", "later", "never", "never")]
        await until(lambda: warnings(caplog))
        assert warnings(caplog) == [(["later", "never"], 5)]
        assert (await at.client.get_execution(handles[0].id))["unserved"] is True
        shown = (await exposition(at.client)).decode()
        assert 'polos_executions_unserved{workflow="later"} 3.0' in shown
        assert 'polos_executions_unserved{workflow="never"} 2.0' in shown
        ended = await known.invoke(at.client)
        await at.result(ended)
        assert (await at.client.get_execution(ended.id))["unserved"] is False
        shown = (await exposition(at.client)).decode()
        assert 'polos_executions_unserved{workflow="known"} 0.0' in shown
        again = await at.client.invoke("never")
        await until(partial(is_moved, at, again))
        await at.client.cancel(handles[3].id)
        assert (await at.client.get_execution(handles[3].id))["unserved"] is False
    # what came since the first warning is logged when the worker stops, not a minute later
    assert len(warnings(caplog)) == 2
    async with running(redis_url, namespace, known, later) as at:
        for handle in handles[:3]:
            await at.result(handle)
        assert (await at.client.get_execution(handles[4].id))["unserved"] is True


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40), st.floats(0, 90)), max_size=60))
def test_no_more_than_one_warning_a_minute_and_nothing_is_left_out(
    events: list[tuple[int, int, float]],
) -> None:
    """Each event is a workflow, an execution, and the seconds until the next event."""
    now = 0.0
    due: list[tuple[float, Any]] = []
    warned: list[tuple[float, dict[str, Any]]] = []

    class Loop:
        def time(self) -> float:
            return now

        def call_at(self, when: float, call: Any, *args: Any, context: Any) -> Any:
            due.append((when, lambda: call(*args)))
            return self

        def cancel(self) -> None:
            due.clear()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warned.append((now, vars(record)))

    handler = Handler()
    logger = unknown_workflows.logger
    logger.addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", Loop)
        unknown = UnknownWorkflows()
        noted: set[tuple[str, str]] = set()
        try:
            for workflow, execution, pause in events:
                unknown.note(f"w{workflow:02}", str(execution))
                noted.add((f"w{workflow:02}", str(execution)))
                end = now + pause
                while due and due[0][0] <= end:
                    now, fire = due[0]
                    fire()
                now = end
            unknown.close()
        finally:
            logger.removeHandler(handler)
    times = [at for at, _ in warned]
    assert all(
        b - a > unknown_workflows.EVERY_SECONDS - 0.001
        for a, b in itertools.pairwise(times[:-1])  # the last one is for the end
    )
    named = {name for _, one in warned for name in one["workflows"] if name.startswith("w")}
    more = any(name.startswith("and ") for _, one in warned for name in one["workflows"])
    assert more or named == {workflow for workflow, _ in noted}
    assert sum(one["executions"] for _, one in warned) >= len(noted)
    assert all(len(one["workflows"]) <= unknown_workflows.MAX_NAMES + 1 for _, one in warned)
    assert not due
