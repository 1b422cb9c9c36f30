"""What a worker logs about failures: executions at ERROR, attempts at WARNING, with the user's frames."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import polos_redis
from polos_redis import (
    ExecutionFailedError,
    NoRetryError,
    PolosClient,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    failures,
)
from polos_redis.logs import JsonFormatter, KeyValueFormatter
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import deadly
from tests.harness.running import running, until, working

Flow = Workflow[Any, Any]
OURS = polos_redis.__path__[0]


def _charges(amount: int) -> None:
    raise ConnectionError("no\nline")


async def _fails_in_a_step(ctx: WorkflowContext) -> None:
    await ctx.step.run("charge", _charges, 5, max_retries=2, base_delay=0.0)


async def _fails_in_a_group(ctx: WorkflowContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.step.run("charge", _charges, 5, max_retries=0))


async def _wraps(ctx: WorkflowContext) -> None:
    try:
        await ctx.step.run("charge", _charges, 5, max_retries=0)
    except StepExecutionError:
        raise ValueError("not sold") from None


async def _fails_by_itself(ctx: WorkflowContext) -> None:
    raise ValueError("not sold")


async def _catches(ctx: WorkflowContext) -> str:
    try:
        await ctx.step.run("charge", _charges, 5, max_retries=1, base_delay=0.0)
    except StepExecutionError:
        return "later"
    return "never"


fails_in_a_step: Flow = Workflow(_fails_in_a_step, "fails-in-a-step")
fails_in_a_group: Flow = Workflow(_fails_in_a_group, "fails-in-a-group")
wraps: Flow = Workflow(_wraps, "wraps")
fails_by_itself: Flow = Workflow(_fails_by_itself, "fails-by-itself")
catches: Flow = Workflow(_catches, "catches")
retried: Flow = Workflow(_fails_in_a_step, "retried", retries=1, retry_delay=0.0)


def records(caplog: pytest.LogCaptureFixture, level: int) -> list[dict[str, Any]]:
    """The records of executions of a level, as dicts."""
    return [
        {**vars(one), "message": one.getMessage()}
        for one in caplog.records
        if one.name == "polos.execution" and one.levelno == level
    ]


@pytest.mark.parametrize(
    ("flow", "error", "attempt", "functions"),
    [
        (
            fails_in_a_step,
            "StepExecutionError: step 'charge' failed (tried 3 times): ConnectionError: no\nline",
            3,
            ["_charges", "_fails_in_a_step"],
        ),
        (
            fails_in_a_group,
            (
                "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception): "
                "StepExecutionError: step 'charge' failed (tried once): ConnectionError: no\nline"
            ),
            1,
            ["_fails_in_a_group", "_charges"],
        ),
        (wraps, "ValueError: not sold", 1, ["_wraps"]),
        (fails_by_itself, "ValueError: not sold", None, ["_fails_by_itself"]),
    ],
    ids=lambda value: value.id if isinstance(value, Workflow) else "",
)
async def test_a_failed_execution_is_logged_as_an_error(
    redis_url: str,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    flow: Flow,
    error: str,
    attempt: int | None,
    functions: list[str],
) -> None:
    caplog.set_level(logging.INFO)
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client)
        with pytest.raises(ExecutionFailedError):
            await at.result(handle)
        await until(lambda: records(caplog, logging.ERROR), "the failure to be logged")
    (found,) = records(caplog, logging.ERROR)
    assert (found["message"], found["execution"], found["workflow"]) == ("failed", handle.id, flow.id)
    assert found["error"] == error
    assert (found.get("step"), found.get("attempt")) == (attempt and "charge", attempt)
    assert OURS not in found["exc_text"] and "/asyncio/" not in found["exc_text"]
    shown = [line.rpartition(" in ")[2] for line in found["exc_text"].splitlines() if ", line " in line]
    assert list(dict.fromkeys(shown)) == functions
    assert error.partition(":")[0] in found["exc_text"]
    kind, raised, trace = found["exc_info"]
    assert (kind.__name__, trace) == (error.partition(":")[0], raised.__traceback__)
    assert not [one for one in caplog.records if one.getMessage() == "finish"]


async def test_both_formats_show_the_users_frames(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(redis_url, namespace, fails_by_itself) as at:
        handle = await fails_by_itself.invoke(at.client)
        await at.reached(handle, "failed")
        await until(lambda: records(caplog, logging.ERROR))
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    first, *rest = KeyValueFormatter().format(record).splitlines()
    expected = f'failed execution={handle.id} workflow=fails-by-itself error="ValueError: not sold"'
    assert first.partition(" ")[2] == f"ERROR {expected}"
    assert "\n".join(rest) == record.exc_text and len(rest) == 4, rest
    assert json.loads(JsonFormatter().format(record))["exception"] == record.exc_text


async def test_attempts_are_logged_as_warnings_with_the_next_try(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def impatient(ctx: WorkflowContext) -> None:
        error = NoRetryError("never")
        error.retry_after = 0.01  # type: ignore[attr-defined]

        def fails() -> None:
            if not tries:
                tries.append(1)
                raise TimeoutError("slow")
            raise error

        await ctx.step.run("call", fails, base_delay=0.125)

    tries: list[int] = []
    flow: Flow = Workflow(impatient, "impatient")
    async with running(redis_url, namespace, flow, catches) as at:
        handle = await flow.invoke(at.client)
        await at.reached(handle, "failed")
        assert await at.result(await catches.invoke(at.client)) == "later"
    mine = [one for one in records(caplog, logging.WARNING) if one["workflow"] == "impatient"]
    assert [(one["message"], one["attempt"], one["error"], one.get("retry_in_seconds")) for one in mine] == [
        ("step failed, is retried", 1, "TimeoutError: slow", 0.125),
        ("step failed", 2, "NoRetryError: never", None),
    ]
    assert {(one["execution"], one["step"]) for one in mine} == {(handle.id, "call")}
    caught = [one["message"] for one in records(caplog, logging.WARNING) if one["workflow"] == "catches"]
    assert caught == ["step failed, is retried", "step failed"]
    assert [one["workflow"] for one in records(caplog, logging.ERROR)] == ["impatient"]


async def test_a_workflow_that_is_retried_fails_loudly_in_the_end_only(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(redis_url, namespace, retried) as at:
        handle = await retried.invoke(at.client)
        with pytest.raises(ExecutionFailedError):
            await at.result(handle)
        await until(lambda: records(caplog, logging.ERROR))
    (again,) = [
        one for one in records(caplog, logging.WARNING) if one["message"].startswith("failed, continues")
    ]
    (last,) = records(caplog, logging.ERROR)
    for one, run in ((again, 2), (last, 2)):
        assert (one["execution"], one["run"], one["step"], one["attempt"]) == (handle.id, run, "charge", 3)
        assert "_charges" in one["exc_text"]


async def test_an_execution_that_runs_out_of_time_is_logged(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def waits(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("ask")

    flow: Flow = Workflow(waits, "waits")
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client, run_timeout_seconds=0.2)
        await at.reached(handle, "failed")
        await until(lambda: records(caplog, logging.ERROR))
    (found,) = records(caplog, logging.ERROR)
    assert (found["message"], found["execution"], found["workflow"]) == ("failed", handle.id, "waits")
    assert found["error"] == "WorkflowTimeoutError: it did not finish within its 0.2 seconds"


@pytest.mark.failure(9)
async def test_an_execution_that_kills_its_workers_is_logged(
    fleet: Fleet, client: PolosClient, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await deadly.invoke(client, {"always": True})
    first = await fleet.start(lease_seconds=0.3, max_deliveries=1)
    await first.ended()
    async with working(client, fails_by_itself, lease_seconds=0.3, max_deliveries=1):
        await until(lambda: records(caplog, logging.ERROR))
    (found,) = records(caplog, logging.ERROR)
    assert (found["message"], found["execution"], found["workflow"]) == ("failed", handle.id, "deadly")
    assert found["error"].startswith("WorkerLostError: its worker was lost 1 times in a row")


# --- tracebacks of any shape ----------------------------------------------------------------


def _raised(error: BaseException, files: list[str]) -> BaseException:
    """The exception as if it had come through functions in these files, the innermost last."""
    call: Any = None
    for file in reversed(files):
        space: dict[str, Any] = {"call": call, "error": error}
        body = "raise error" if call is None else "call()"
        exec(compile(f"def inner():\n    {body}\n", file, "exec"), space)
        call = space["inner"]
    try:
        call()
    except BaseException as raised:
        return raised.with_traceback(raised.__traceback__.tb_next if raised.__traceback__ else None)
    raise AssertionError


USER, INSTALLED = "/app/shop.py", "/app/.venv/lib/site-packages/httpx/api.py"
LIBRARY, RUNTIME = asyncio.__file__, f"{OURS}/runtime/steps/run.py"
FILES = st.lists(st.sampled_from([USER, INSTALLED, LIBRARY, RUNTIME]), min_size=1, max_size=5)


@st.composite
def chains(draw: st.DrawFn) -> tuple[BaseException, list[list[str]]]:
    """An exception with causes, contexts and members, and the files of each."""
    files = [draw(FILES)]
    error = _raised(ValueError("0"), files[0])
    for number in range(1, draw(st.integers(1, 4))):
        files.append(draw(FILES))
        how = draw(st.sampled_from(["cause", "context", "group"]))
        outer: BaseException = ValueError(str(number))
        if how == "group":
            outer = BaseExceptionGroup(str(number), [error])
        elif how == "cause":
            outer.__cause__ = error
        else:
            outer.__context__ = error
        error = _raised(outer, files[-1])
    return error, files


@given(chains())
def test_only_the_users_frames_are_shown_and_every_exception(
    chain: tuple[BaseException, list[list[str]]],
) -> None:
    error, files = chain
    before = "".join(traceback.format_exception(error))
    text = failures.traceback_of(error, of_user=True)
    for number in range(len(files)):
        assert f": {number}" in text
    own = sum(file == USER for each in files for file in each)
    installed = sum(file == INSTALLED for each in files if USER not in each for file in each)
    assert text.count(f'File "{USER}"') == own or "[Previous line repeated" in text
    assert text.count(f'File "{INSTALLED}"') == installed or "[Previous line repeated" in text
    assert LIBRARY not in text and RUNTIME not in text
    traces = failures.tracebacks_of(error)
    assert traces.whole == failures.traceback_of(error)
    assert traces.own == (text if own or installed else "")
    assert "".join(traceback.format_exception(error)) == before, "the exception is as it was"
