"""Output that nobody reads to its end, as with `| head -1`: the command ends, and says nothing about it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from polos_redis import (
    EventData,
    ExecutionFailedError,
    PolosClient,
    WorkflowContext,
    events,
    workflow,
)
from tests.harness.command import POLOS, Command
from tests.harness.running import until, working

FLOW = """
from polos_redis import workflow

@workflow(id="pipes-asks")
async def asks(ctx):
    await ctx.step.run("quote", lambda: 5)
    await ctx.step.suspend("review")
"""


@workflow(id="pipes-asks")
async def asks(ctx: WorkflowContext) -> None:
    await ctx.step.run("quote", lambda: 5)
    await ctx.step.suspend("review", data={"text": "please"})


@workflow(id="pipes-fails")
async def fails(ctx: WorkflowContext) -> None:
    raise LookupError("no ink")


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    (tmp_path / "flow.py").write_text(FLOW)
    polos = Command(redis_url, namespace, tmp_path)
    del polos.environment["PYTHONUNBUFFERED"]
    return polos


@asynccontextmanager
async def unread(polos: Command, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command whose standard output has lost its reader."""
    reader, writer = os.pipe()
    os.close(reader)
    process = await asyncio.create_subprocess_exec(
        POLOS,
        *args,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
        cwd=polos.folder,
        env=polos.environment,
    )
    os.close(writer)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _errors(process: asyncio.subprocess.Process) -> str:
    """What it has said at its end."""
    _, err = await asyncio.wait_for(process.communicate(), 60)
    return err.decode()


async def test_a_command_without_a_reader_ends_quietly(polos: Command, client: PolosClient) -> None:
    async with working(client, asks, fails):
        waiting = await client.invoke(asks)
        failed = await client.invoke(fails)
        with pytest.raises(ExecutionFailedError):
            await failed.result()

        async def are_waiting() -> bool:
            return await waiting.status() == "waiting"

        await until(are_waiting)
        shown = waiting.id
        for command in (
            ("--help",),
            ("demo", "--approve"),
            ("doctor",),
            ("events", failed.id),
            ("export", shown, failed.id),
            ("invoke", "pipes-asks"),
            ("list",),
            ("list", "--json"),
            ("show", failed.id),
            ("suspensions",),
            ("top",),
        ):
            async with unread(polos, *command) as process:
                err = await _errors(process)
            assert process.returncode == 1, (command, err)
            said = [one for one in ("Traceback", "Exception", "Broken pipe") if one in err]
            assert not said, (command, err)
        for row in await client.list_executions():
            if row.status not in ("completed", "failed", "cancelled"):
                await client.cancel(row.id)


@pytest.mark.parametrize("options", [("--all",), ("--topic", "news")])
async def test_a_tail_without_a_reader_ends(
    polos: Command, client: PolosClient, options: tuple[str, ...]
) -> None:
    async with working(client, fails), unread(polos, "tail", *options) as process:

        async def has_ended() -> bool:
            if options == ("--all",):
                await client.invoke(fails)
            else:
                await events.publish(client, "news", EventData(event_type="rain", data={"mm": 1}))
            return process.returncode is not None

        await until(has_ended)
        err = await _errors(process)
        assert process.returncode == 1
        assert "Traceback" not in err and "Broken pipe" not in err


async def test_a_dev_server_without_a_reader_works_on(polos: Command, client: PolosClient) -> None:
    async with unread(polos, "dev", "flow.py", "--port", "0") as process:
        handle = await client.invoke("pipes-asks")

        async def is_waiting() -> bool:
            return await handle.status() == "waiting"

        await until(is_waiting)
        await client.cancel(handle.id)
        process.send_signal(signal.SIGINT)
        err = await _errors(process)
        assert process.returncode == 0, err
        assert "Traceback" not in err and "Broken pipe" not in err
