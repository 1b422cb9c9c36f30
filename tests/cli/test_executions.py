"""`polos list`, `show`, `events`, `suspensions`, `cancel`, `retry` and `fork`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel

from polos_redis import (
    ExecutionFailedError,
    ExecutionHandle,
    Polos,
    PolosClient,
    StepExecutionError,
    WorkflowContext,
    events,
    workflow,
)
from tests.harness.command import DEADLINE, POLOS, Command

LONG = "a long story " * 500  # longer than any terminal is wide


class Story(BaseModel):
    text: str


@workflow(id="cli-story")
async def story(ctx: WorkflowContext, input: Story) -> Story:
    await ctx.step.run("write", lambda: input)
    with contextlib.suppress(StepExecutionError):
        await ctx.step.run("print", _broken, max_retries=1, base_delay=0.001)
    await ctx.step.suspend("review", data={"text": input.text}, timeout=3600)
    raise LookupError("no reader\x1b[2J")


def _broken() -> None:
    raise OSError("no paper")


@workflow(id="cli-magazine")
async def magazine(ctx: WorkflowContext, input: str) -> str:
    """A story, and a wait for an event next to it."""
    one = ctx.step.invoke_and_wait("story", story, Story(text=input))
    await asyncio.gather(one, ctx.step.wait_for_event("news", "weather", timeout=3600))
    return "printed"


@workflow(id="cli-two-steps")
async def two_steps(ctx: WorkflowContext, input: str) -> list[str]:
    bought = await ctx.step.run("buy", lambda: input)
    return [bought, await ctx.step.run("print", lambda: "printed")]


@workflow(id="cli-second-run")
async def second_run(ctx: WorkflowContext) -> int:
    if ctx.run == 1:
        raise LookupError("no ink")
    return ctx.run


@workflow(id="cli-continues")
async def continues(ctx: WorkflowContext, number: int) -> int:
    await ctx.step.uuid(f"step {number}")
    if number == 0:
        await ctx.continue_as_new(1)
    if ctx.run == 2:
        raise LookupError("no ink")
    return number


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@pytest.fixture
def working(redis_url: str, namespace: str) -> Polos:
    return Polos(
        url=redis_url, namespace=namespace, workflows=[story, magazine, two_steps, second_run, continues]
    )


async def waiting(client: PolosClient) -> ExecutionHandle[Story]:
    """An execution that waits for its review."""
    handle = await story.invoke(client, Story(text=LONG))
    async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id):
        if event.event_type == "suspend_review":
            break
    return handle


async def test_show_says_what_an_execution_waits_for(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await waiting(client)
        shown = await polos("show", handle.id)
        whole = await polos("show", handle.id, "--full")
        (one,) = (await client.get_execution(handle.id))["open_suspensions"]
        await client.cancel(handle.id, cancelled_by="bob")
        cancelled = await polos("show", handle.id)
    assert shown.code == 0, shown.err
    deadline = one["expires_at"][:19].replace("T", " ")
    assert f"waits for   review, until {deadline} UTC (in " in shown.out
    assert f"status      waiting for a person (review) until {deadline} UTC (in " in shown.out
    assert "  write  ok  at " in shown.out
    assert "  print  failed  at " in shown.out
    assert "journal     3 records\n" in shown.out
    assert "2 attempts\n      OSError: no paper\n" in shown.out
    assert 'raise OSError("no paper")' in shown.out
    assert ", in _run\n" not in shown.out and ", in _run\n" in whole.out
    assert json.dumps({"text": LONG}) in shown.out
    assert f"polos resume {handle.id} review --approve" in shown.out
    assert "status      cancelled by bob" in cancelled.out
    assert "  review  closed  at " in cancelled.out


async def test_show_says_that_a_journal_is_long(polos: Command, working: Polos) -> None:
    polos.environment["POLOS_MAX_JOURNAL_RECORDS"] = "10"
    async with working as client:
        handle = await waiting(client)
        shown = await polos("show", handle.id)
        await client.cancel(handle.id)
        cancelled = await polos("show", handle.id)
    hint = " of at most 10: call ctx.continue_as_new, or let children do parts of the work\n"
    assert f"journal     3 records{hint}" in shown.out
    assert "journal     3 records\n" in cancelled.out


async def test_show_says_that_an_execution_continued_as_new(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await continues.invoke(client, 0)
        await client.wait_for_end(handle.id)
        failed = await polos("show", handle.id)
        await polos("retry", handle.id)
        assert await handle.result() == 1
        shown, exported = await polos("show", handle.id), await polos("export", handle.id)
    assert "run         2, continued as new\n" in failed.out
    assert "run         3, continued as new in run 2, after LookupError: no ink\n" in shown.out
    assert "step 1  ok" in shown.out and "step 0" not in shown.out
    assert exported.json["continued_in"] == 2
    assert {one["step_key"] for one in exported.json["steps"]} == {"step 1"}


async def test_show_says_who_answered_and_why_it_failed(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await waiting(client)
        await client.resume(
            suspend_execution_id=handle.id, suspend_step_key="review", data={"ok": LONG}, resumed_by="ana"
        )
        await client.wait_for_end(handle.id)
        shown, as_json = await polos("show", handle.id), await polos("show", handle.id, "--json")
        assert as_json.json == await client.get_execution(handle.id)
    assert "  review  answered by ana at " in shown.out
    assert f"answer  {json.dumps({'ok': LONG})}\n" in shown.out
    assert (
        "\nerror  LookupError: no reader\\x1b[2J\n" in shown.out
    )  # a terminal would have obeyed the escape code
    assert "Traceback (most recent call last):" in shown.out
    assert "\x1b" not in shown.out


async def test_events_follows_an_execution_to_its_end(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await waiting(client)
        with polos.start(POLOS, "events", handle.id, "--json") as following:
            following.wait_for("suspend_review")  # live: it has not ended yet
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="review", data=None)
            assert await following.ended() == 0
            rows = [json.loads(row) for row in following.out.splitlines()]
        plain = await polos("events", handle.id)
    kinds = [row["event_type"] for row in rows]
    assert kinds.count("workflow_start") == 1  # even with an input too large for the queue's entry
    assert kinds[-3:] == ["suspend_review", "resume_review", "workflow_finish"]
    assert rows[-1]["data"]["status"] == "failed"
    assert len(plain.out.splitlines()) == len(rows)
    assert LONG in plain.out


async def test_suspensions_lists_open_suspensions(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await waiting(client)
        plain = await polos("suspensions")
        listed = await polos("suspensions", "--workflow", "cli-story", "--json")
        other = await polos("suspensions", "--workflow", "cli-other", "--json")
        assert listed.json["suspensions"] == list(await client.list_suspensions())
        await client.cancel(handle.id)
    titles, row = plain.out.splitlines()
    assert titles.split() == ["ID", "SINCE", "UNTIL", "STEP", "WORKFLOW", "SHOWN"]
    assert row.startswith(handle.id) and row.endswith(json.dumps({"text": LONG}))
    assert other.json == {"suspensions": [], "next_cursor": None}


async def test_list_filters_and_continues_by_cursor(polos: Command, redis_url: str, namespace: str) -> None:
    workflow_id = "cli-" + "w" * 252
    async with PolosClient(redis_url, namespace) as client:
        ids = [(await client.invoke(workflow_id)).id for _ in range(3)]
        await client.invoke("cli-another")
        await client.cancel(ids[0], cancelled_by="ann")
        newest = (await polos("list", "--workflow", workflow_id, "--limit", "2", "--json")).json
        older = await polos("list", "--workflow", workflow_id, "--cursor", newest["next_cursor"], "--json")
        plain = await polos("list", "--status", "cancelled")
        first = await polos("list", "--limit", "1")
        for row in await client.list_executions(status="queued"):
            await client.cancel(row["id"])
    assert [row["id"] for row in newest["executions"] + older.json["executions"]] == ids[::-1]
    assert older.json["next_cursor"] is None
    titles, cancelled = plain.out.splitlines()
    assert titles.split() == ["ID", "STATUS", "CREATED", "FINISHED", "WORKFLOW", "DETAILS"]
    assert cancelled.split()[:2] == [ids[0], "cancelled"] and cancelled.endswith(f"{workflow_id}  by ann")
    assert "more results: --cursor " in first.err


async def test_list_says_why_executions_have_failed(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await second_run.invoke(client)
        with pytest.raises(ExecutionFailedError):
            await handle.result()
        _, failed = (await polos("list")).out.splitlines()
        assert failed.endswith("  cli-second-run  LookupError: no ink")
        (row,) = (await polos("list", "--json")).json["executions"]
        assert row["reason"] == "LookupError: no ink"
        assert (await polos("show", handle.id)).out.count("no ink") == 3  # twice in the traceback
        await client.retry(handle.id)
        await handle.result()
        _, completed = (await polos("list")).out.splitlines()
        assert completed.endswith("  cli-second-run")


async def test_cancel_ends_an_execution_once(polos: Command, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke("cli-nobody")
        done = await polos("cancel", handle.id, "--by", "ana", "--json")
        again = await polos("cancel", handle.id, "--by", "ana", "--json")
        repeated = await polos("cancel", handle.id, "--by", "bob")
        found = await client.get_execution(handle.id)
    assert done.json == again.json == {"id": handle.id, "status": "cancelled", "cancelled_by": "ana"}
    assert (found["status"], found["cancelled_by"]) == ("cancelled", "ana")
    assert repeated.code == 1
    assert "it is cancelled" in repeated.sentence


async def test_show_says_when_a_delayed_execution_starts(
    polos: Command, redis_url: str, namespace: str
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke("cli-nobody", start_at=datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC))
        at_once = await client.invoke("cli-nobody")
        shown, other = await polos("show", handle.id), await polos("show", at_once.id)
    assert "status      queued until 2100-01-02 03:04:05 UTC (in " in shown.out
    assert "status      queued since 20" in other.out


async def test_show_and_events_include_children(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await magazine.invoke(client, "once upon a time")
        async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id):
            if event.event_type == "suspend_review":
                break
        child = str(event.metadata["execution_id"])
        shown, below = await polos("show", handle.id), await polos("show", child)
        cancelled = await polos("cancel", handle.id, "--by", "ana")
        assert cancelled.out == f"cancelled {handle.id}\n"
        await client.wait_for_end(child)
        followed = await polos("events", handle.id)
        ended = await polos("show", child)
    assert "waits for   news, an event of weather, until 20" in shown.out
    assert "waits for   story, 1 child\n" in shown.out
    assert f"\nchildren\n  story  waiting  {child}  cli-story\n" in shown.out
    assert f"  review of {child}  open  since " in shown.out
    assert f"child of    {handle.id}\n" in below.out
    assert "status      cancelled by ana" in ended.out
    assert f"  of {child}\n" in followed.out
    assert f"  of {handle.id}\n" not in followed.out


async def test_retry_resumes_a_failed_execution_once(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await second_run.invoke(client)
        await client.wait_for_end(handle.id)
        done = await polos("retry", handle.id, "--json")
        assert done.json == {"id": handle.id, "run": 2}, done.err
        assert await handle.result(timeout=DEADLINE) == 2
        repeated, shown = await polos("retry", handle.id), await polos("show", handle.id)
    assert repeated.code == 1
    assert "it is completed, not failed, stuck or paused" in repeated.sentence
    assert "run         2, after LookupError: no ink\n" in shown.out


async def test_fork_starts_from_a_step(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await two_steps.invoke(client, "ink")
        assert await handle.result(timeout=DEADLINE) == ["ink", "printed"]
        done = await polos("fork", handle.id, "--from", "print", "--by", "ann")
        fork = client.get_handle(done.out.strip())
        assert await fork.result(timeout=DEADLINE) == ["ink", "printed"]
        shown = await polos("show", fork.id)
        other = await polos(
            "fork", handle.id, "--from", "print", "--set", 'buy="toner"', "--by", "bob", "--json"
        )
        assert other.json["forked_from"] == handle.id and other.json["workflow_id"] == "cli-two-steps"
        toner = client.get_handle(other.json["id"])
        assert await toner.result(timeout=DEADLINE) == ["toner", "printed"]
        with_toner = await polos("show", toner.id)
        missing = await polos("fork", handle.id, "--from", "sell")
        wrong = await polos("fork", handle.id, "--from", "print", "--set", "buy")
        no_json = await polos("fork", handle.id, "--from", "print", "--set", "buy=toner")
    assert f"forked from {handle.id}, by ann\n" in shown.out.replace("  ", " ")
    assert with_toner.out.count("set by bob") == 1 and "copied" not in with_toner.out
    assert (missing.code, wrong.code, no_json.code) == (1, 2, 2)
    assert "step 'sell': its journal has no such step" in missing.sentence
    assert "--set must be STEP_KEY=JSON, not 'buy'" in wrong.err
    assert "--set buy can't be read as JSON" in no_json.err


@pytest.mark.parametrize("command", ["show", "events", "cancel", "retry"])
async def test_an_unknown_execution_is_one_sentence(polos: Command, command: str) -> None:
    done = await polos(command, "0" * 32)
    assert done.code == 1
    assert "there is no execution '000" in done.sentence


async def test_a_terminal_gets_colours_and_whole_values(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await waiting(client)
        screen = _on_a_terminal(polos, "suspensions", "--full")
        shortened = _on_a_terminal(polos, "suspensions")
        table = _on_a_terminal(polos, "list")
        await client.cancel(handle.id)
    assert "\x1b[" in screen
    assert handle.id in screen
    assert "".join(screen.split()).count("".join(LONG.split())) == 1
    assert "…" not in screen + table and "…" in shortened
    assert handle.id in table


def _on_a_terminal(polos: Command, *args: str) -> str:
    """What a command prints to a terminal of 80 columns."""
    controller, terminal = pty.openpty()
    environment = {**polos.environment, "TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([POLOS, *args], stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    said = b""
    try:
        while data := _read(controller):
            said += data
        assert process.wait(DEADLINE) == 0, said
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    return said.decode()


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # how Linux reports that the other side has closed
        return b""
