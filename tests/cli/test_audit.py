"""`polos audit` and `polos delete`: who decided what, and deleting stored data."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis import ExecutionHandle, ExecutionNotFoundError, Workflow, WorkflowContext
from tests.harness.command import DEADLINE, POLOS, Command, Done
from tests.harness.running import Running, running

MARK = "Jane Roe"


async def _asks(ctx: WorkflowContext, input: str) -> Any:
    return await ctx.step.suspend("ask", {"of": input}, timeout=3600)


asks: Workflow[Any, Any] = Workflow(_asks, "cli-audit-asks")


async def _asks_below(ctx: WorkflowContext, input: str) -> str:
    await ctx.step.invoke_and_wait("child", asks, input)
    await ctx.step.suspend("own")
    return MARK


asks_below: Workflow[Any, Any] = Workflow(_asks_below, "cli-audit-below")


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@pytest.fixture
async def at(redis_url: str, namespace: str) -> AsyncIterator[Running]:
    async with running(redis_url, namespace, asks, asks_below) as at:
        yield at


async def asked(at: Running) -> ExecutionHandle[Any]:
    """An execution that waits for an answer."""
    handle = await asks.invoke(at.client, "a charge")
    await at.parked(handle)
    return handle


async def decided(at: Running) -> tuple[ExecutionHandle[Any], str]:
    """An execution answered by bob, its child answered by ann, and the child's id."""
    handle = await asks_below.invoke(at.client, "a charge")
    await at.parked(handle)
    (child,) = [one["id"] for one in (await at.client.get_execution(handle.id))["children"]]
    await at.opened(at.client.get_handle(child), "ask")
    for execution_id, step_key, by in ((child, "ask", "ann"), (handle.id, "own", "bob")):
        await at.opened(at.client.get_handle(execution_id), step_key)
        await at.client.resume(
            suspend_execution_id=execution_id,
            suspend_step_key=step_key,
            data={"approved": True, "reason": MARK},
            resumed_by=by,
        )
    await at.result(handle)
    return handle, child


async def test_the_audit_is_a_table_and_json(polos: Command, at: Running) -> None:
    handle, child = await decided(at)
    entries = await at.client.audit(handle.id)
    plain, json = await polos("audit", handle.id), await polos("audit", handle.id, "--json")
    of_child = await polos("audit", child, "--json")
    assert plain.code == json.code == of_child.code == 0, plain.err
    titles, below, own = plain.out.splitlines()
    assert titles.split() == ["AT", "STEP", "WHAT", "BY", "CHANNEL", "ANSWER", "SHOWN", "REASON"]
    for row, step, by, entry in (
        (below, f"ask of {child}", "ann", entries[0]),
        (own, "own", "bob", entries[1]),
    ):
        at_second = entry["at"][:19].replace("T", " ")
        assert row.startswith(f"{at_second} UTC  {step} ")
        assert row.split(step)[1].split()[:3] == ["answered", by, "client"]
        assert '{"approved": true, "reason": "Jane Roe"}' in row
        assert row.endswith(entry["digest"][:16])
    assert json.json == entries
    assert of_child.json == entries[:1]


async def test_without_decisions_the_audit_is_empty(polos: Command, at: Running) -> None:
    handle = await asked(at)
    plain, json = await polos("audit", handle.id), await polos("audit", handle.id, "--json")
    assert (plain.code, plain.out, plain.err) == (0, "", "no decisions yet\n")
    assert (json.code, json.out, json.err) == (0, "[]\n", "")


@pytest.mark.parametrize("command", [("audit",), ("delete", "--yes")], ids=["audit", "delete"])
async def test_an_unknown_execution_is_one_sentence(polos: Command, command: tuple[str, ...]) -> None:
    done = await polos(*command, "0" * 32)
    assert done.code == 1
    assert "there is no execution '000" in done.sentence


async def test_a_delete_leaves_only_a_stub(polos: Command, at: Running) -> None:
    handle, child = await decided(at)
    entries = await at.client.audit(handle.id)
    done = await polos("delete", handle.id, "--yes")
    assert (done.code, done.out) == (0, "deleted: 2 executions\n"), done.err
    for gone in (handle.id, child):
        with pytest.raises(ExecutionNotFoundError):
            await at.client.get_execution(gone)
        assert "there is no execution" in (await polos("show", gone)).sentence
    stub, plain = await polos("audit", handle.id, "--json"), await polos("audit", handle.id)
    assert stub.json == [{**entry, "data": None} for entry in entries]
    assert MARK not in plain.out and " ann " in plain.out and " bob " in plain.out
    repeated = await polos("delete", handle.id, "-y", "--json")
    assert repeated.json == {"id": handle.id, "deleted": 0}


async def test_a_delete_can_print_json(polos: Command, at: Running) -> None:
    handle = await asked(at)
    await at.answer(handle, "ask")
    await at.result(handle)
    done = await polos("delete", handle.id, "--yes", "--json")
    assert done.json == {"id": handle.id, "deleted": 1}


async def test_unfinished_executions_and_lone_children_are_not_deleted(polos: Command, at: Running) -> None:
    handle = await asked(at)
    done = await polos("delete", handle.id, "--yes")
    assert done.code == 1
    assert "deleted while it is waiting: cancel it" in done.sentence
    root, child = await decided(at)
    done = await polos("delete", child, "--yes")
    assert done.code == 1
    assert f"is a child and shares its root's events: delete {root.id} instead" in done.sentence
    for undeleted in (handle.id, root.id, child):
        assert (await at.client.get_execution(undeleted))["id"] == undeleted


async def test_without_a_terminal_a_delete_needs_yes(polos: Command, at: Running) -> None:
    handle, _ = await decided(at)
    done = await polos("delete", handle.id, input=b"y\n")
    assert done.code == 2
    assert "there is no terminal: pass --yes" in done.sentence
    assert (await at.client.get_execution(handle.id))["status"] == "completed"


async def test_on_a_terminal_a_delete_asks(polos: Command, at: Running) -> None:
    handle, _ = await decided(at)
    refused = await asyncio.to_thread(_typed, polos, b"n\n", "delete", handle.id)
    assert refused.code != 0
    assert f"Delete execution {handle.id} and its descendants? [y/N]" in refused.out + refused.err
    assert "Traceback" not in refused.err
    assert (await at.client.get_execution(handle.id))["status"] == "completed"
    done = await asyncio.to_thread(_typed, polos, b"y\n", "delete", handle.id)
    assert done.code == 0, done.err
    assert done.out.endswith("deleted: 2 executions\n")


def _typed(polos: Command, keys: bytes, *args: str) -> Done:
    """Runs a command with input typed at a terminal."""
    controller, terminal = pty.openpty()
    try:
        os.write(controller, keys)
        done = subprocess.run(
            [POLOS, *args],
            stdin=terminal,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
            env=polos.environment,
        )
    finally:
        os.close(terminal)
        os.close(controller)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())
