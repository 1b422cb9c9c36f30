"""`polos errands`: failed errands are listed and retried; `polos show` names those of an execution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polos_redis import PolosClient, Workflow, WorkflowContext, errands
from polos_redis.state import keys
from polos_redis.state.errands import Errand
from polos_redis.worker import errands as runner
from tests.harness.command import Command
from tests.harness.running import running, until


async def _asks(ctx: WorkflowContext) -> Any:
    await ctx.step.wait_for("before", seconds=0.2)
    return await ctx.step.suspend("ask", approvers=["ann"])


asks: Workflow[Any, Any] = Workflow(_asks, "cli-errands-asks")


async def test_failed_errands_are_listed_shown_and_retried(
    redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FIRST_RETRY_MS", 5)
    polos = Command(redis_url, namespace, tmp_path)
    assert (await polos("errands", "list")).err == "no failed errands\n"
    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client)
        await answer_early(at.client, handle.id)
        store = await at.client.store()
        early = store.partitions.prefix(handle.id) + keys.EARLY.encode() + handle.id.encode()
        sound = await store.wire.call("HGET", early, "ask")
        await store.wire.call("HSET", early, "ask", b"\xc1")

        async def is_aside() -> bool:
            return any(one["status"] == "set aside" for one in await errands.list_failed(at.client))

        await until(is_aside)
        await store.wire.call("HSET", early, "ask", sound)
        name = f"y{handle.id} ask"
        listed = (await polos("errands", "list")).out
        assert name in listed and "early answer" in listed and "set aside" in listed
        (found,) = json.loads((await polos("errands", "list", "--json")).out)
        assert (found["errand"], found["attempts"]) == (name, runner.MOST_ATTEMPTS)
        shown = (await polos("show", handle.id)).out
        assert "ask  came before its suspension by ann (client)" in shown
        assert f"set aside; try again: polos errands retry '{name}'" in shown
        audit = (await polos("audit", handle.id)).out
        assert "set aside" in audit

        done = await polos("errands", "retry", "nobody knows it")
        assert (done.code, done.err) == (
            1,
            "polos: no errand 'nobody knows it' has failed: polos errands list shows those that have\n",
        )
        for wrong in ((), (name, "--all")):
            done = await polos("errands", "retry", *wrong)
            assert (done.code, done.err) == (2, "polos: name one errand, or pass --all\n")
        done = await polos("errands", "retry", "--all", "--json")
        assert json.loads(done.out) == {"retried": [name]}
        assert (await at.result(handle))["data"] == {"approved": True}


async def answer_early(client: PolosClient, execution_id: str) -> None:
    await client.resume(
        suspend_execution_id=execution_id,
        suspend_step_key="ask",
        data={"approved": True},
        resumed_by="ann",
        early=True,
    )


@pytest.mark.parametrize(
    "name", ["", " ", "enews\n", "\x1b[31my", "y" + "0" * 5_000, "u9 x", "y\u202e ask", "l*", "{x}", "-"]
)
async def test_a_name_that_no_errand_has_is_refused_and_shown_visibly(
    name: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    done = await Command(redis_url, namespace, tmp_path)("errands", "retry", "--", name)
    assert done.code == 1 and done.err.count("\n") == 1
    assert done.err.startswith("polos: no errand ") and done.err.rstrip("\n").isprintable()


async def test_retrying_all_leaves_those_that_run(redis_url: str, namespace: str, tmp_path: Path) -> None:
    async with PolosClient(redis_url, namespace) as client:
        store = await client.store()
        prefix = store.prefixes[0]
        await store.wire.call("ZADD", prefix + keys.ERRANDS.encode(), 1, "enews", 1, "kdaily")
        for name in ("enews", "kdaily"):
            errand = Errand(name, b"1")
            _, due = await store.errands.start(prefix, errand, "a", most=3, alone=True, longest_ms=60_000)
        failing = Errand("kdaily", due)
        await store.errands.failed(prefix, failing, "a", "no", most=3, first_ms=60_000, longest_ms=60_000)
        polos = Command(redis_url, namespace, tmp_path)
        assert "running" in (await polos("errands", "list")).out
        done = await polos("errands", "retry", "--all", "--json")
        assert json.loads(done.out) == {"retried": ["kdaily"]}
        (left,) = await errands.list_failed(client)
        assert (left["errand"], left["status"]) == ("enews", "running")
        await store.wire.call("DEL", prefix + keys.ERRANDS.encode(), prefix + keys.ERRAND_FAILURES.encode())
