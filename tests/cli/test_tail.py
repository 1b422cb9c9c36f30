"""`polos tail`: new events of an execution, of a topic, and of all executions."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polos_redis import PolosClient, WorkflowContext, events, workflow
from polos_redis.cli.all_executions import AllExecutions
from tests.harness.command import POLOS, Command, Running
from tests.harness.running import until, working


@workflow(id="tail-asks")
async def asks(ctx: WorkflowContext) -> Any:
    return (await ctx.step.suspend("ok"))["data"]


@workflow(id="tail-parent")
async def parent(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("child", asks)


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@contextmanager
def following(polos: Command, *arguments: str) -> Iterator[Running]:
    """A tail that sees every event from here on."""
    with polos.start(POLOS, "tail", *arguments, "--json") as tail:
        tail.wait_for("following")
        yield tail


def rows(tail: Running) -> list[tuple[str, str]]:
    """The type and the execution of each event so far."""
    whole = tail.out.rpartition("\n")[0].splitlines()
    found = [json.loads(row) for row in whole]
    return [(one["event_type"], one["metadata"].get("execution_id", "")) for one in found]


async def waiting(client: PolosClient) -> str:
    handle = await client.invoke(asks)

    async def waits() -> bool:
        return await handle.status() == "waiting"

    await until(waits)
    return handle.id


async def answer(client: PolosClient, execution_id: str) -> None:
    await client.resume(suspend_execution_id=execution_id, suspend_step_key="ok", data=1)


async def test_an_execution_is_followed_from_now_to_its_end(polos: Command, client: PolosClient) -> None:
    async with working(client, asks):
        execution_id = await waiting(client)
        with following(polos, execution_id) as tail:
            await answer(client, execution_id)
            assert await tail.ended() == 0
            assert rows(tail) == [("resume_ok", execution_id), ("workflow_finish", execution_id)]
        again = await polos("tail", execution_id)
    assert (again.code, again.out) == (0, "")
    assert again.err == f"execution {execution_id} has finished: polos events {execution_id}\n"


async def test_a_topic_is_followed_from_now_until_ctrl_c(polos: Command, client: PolosClient) -> None:
    await events.publish(client, "tail/orders", events.EventData("old", 1))
    with following(polos, "--topic", "tail/orders") as tail:
        await events.publish(client, "tail/orders", events.EventData("new", {"n": 2}))
        await until(lambda: rows(tail))
        tail.signal(signal.SIGINT)
        assert await tail.ended() == 0
        assert rows(tail) == [("new", "")]
        assert "Traceback" not in tail.err


async def test_all_executions_are_followed_with_those_that_begin(polos: Command, client: PolosClient) -> None:
    async with working(client, asks, parent):
        old = await waiting(client)
        done = await waiting(client)
        await answer(client, done)
        await client.get_handle(done).result()
        with following(polos, "--all") as tail:
            await answer(client, old)
            new = await client.invoke(parent)
            await until(lambda: any(kind == "suspend_ok" for kind, _ in rows(tail)))
            child = next(of for kind, of in rows(tail) if kind == "suspend_ok")
            await answer(client, child)
            await until(lambda: ("workflow_finish", new.id) in rows(tail))
            seen = rows(tail)
    assert [kind for kind, of in seen if of == old] == ["resume_ok", "workflow_finish"]
    assert child.startswith(new.id + ".")
    assert ("workflow_start", new.id) in seen and ("workflow_finish", child) in seen
    assert not [kind for kind, of in seen if of == done]
    assert len(seen) == len(set(seen)), "each event once"


async def test_beyond_the_most_the_newest_are_followed_and_a_note_says_so(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("polos_redis.cli.all_executions.MOST", 2)
    shown: list[events.Event] = []
    said = ""

    def says(text: str) -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return text in said

    async with working(client, asks):
        ids = [await waiting(client) for _ in range(3)]
        following = asyncio.create_task(AllExecutions(client, shown.append).follow())
        await until(lambda: says("following all"))
        ids.append(await waiting(client))
        await until(lambda: any(one.metadata["execution_id"] == ids[3] for one in shown))
        for one in ids:
            await answer(client, one)
        ended = {("workflow_finish", one) for one in ids[2:]}
        await until(lambda: ended <= {(one.event_type, one.metadata["execution_id"]) for one in shown})
        following.cancel()
        await asyncio.wait([following])
    assert ids[0] not in {one.metadata["execution_id"] for one in shown}
    assert says("not all") and said.count("not all executions are shown: the 2 newest are followed") == 1


async def test_one_thing_is_followed(polos: Command) -> None:
    for arguments in ((), ("x", "--all"), ("--topic", "t", "--all")):
        done = polos.run("tail", *arguments)
        assert done.code == 2
        assert done.sentence == "polos: say what to follow: an EXECUTION_ID, --topic TOPIC or --all"
    done = polos.run("tail", "no-such")
    assert (done.code, "no-such" in done.sentence) == (1, True)
