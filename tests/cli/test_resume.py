"""`polos resume`: every outcome and every refusal."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path

import pytest

from polos_redis import ExecutionHandle, Polos, SuspendTimeoutError, WorkflowContext, events, workflow
from tests.harness.command import Command


@workflow(id="cli-permission")
async def permission(ctx: WorkflowContext, input: dict[str, float]) -> object:
    timeout = input.get("timeout")
    try:
        first = await ctx.step.suspend("first", timeout=timeout)
    except SuspendTimeoutError:
        await ctx.step.suspend("afterwards")
        return None
    return [first["data"], first["resumed_by"], first["channel"]]


@workflow(id="cli-both")
async def both(ctx: WorkflowContext) -> object:
    answers = await asyncio.gather(ctx.step.suspend("left"), ctx.step.suspend("right"))
    return [answer["data"] for answer in answers]


@workflow(id="cli-asks-below")
async def asks_below(ctx: WorkflowContext, input: int) -> object:
    keys = [f"child {number}" for number in range(input)]
    return await asyncio.gather(*(ctx.step.invoke_and_wait(key, permission, {}) for key in keys))


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@pytest.fixture
def working(redis_url: str, namespace: str) -> Polos:
    return Polos(url=redis_url, namespace=namespace, workflows=[permission, both, asks_below])


async def until(client: Polos, handle: ExecutionHandle[object], event_type: str) -> None:
    async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id):
        if event.event_type == event_type:
            return


async def test_an_answer_can_be_repeated_but_not_changed(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await permission.invoke(client, {})
        await until(client, handle, "suspend_first")
        answer = ("--data", '{"approved": true, "limit": 100}')
        accepted = await polos("resume", handle.id, "first", *answer, "--by", "ana", "--json")
        assert accepted.json["outcome"] == "accepted", accepted.err
        assert accepted.json["resumed_by"] == "ana"
        assert await handle.result() == [{"approved": True, "limit": 100}, "ana", "cli"]

        repeated = await polos(
            "resume", handle.id, *answer, "--by", "bob"
        )  # no suspension is open, so the last one is meant
        assert repeated.code == 0
        assert repeated.out.startswith("unchanged: first of ") and "given by ana at 20" in repeated.out

        other = await polos("resume", handle.id, "--reject", "--by", "bob")
        assert other.code == 1
        assert "was already answered by ana at 20" in other.sentence


async def test_approve_reject_and_reason_are_short_for_data(polos: Command, working: Polos) -> None:
    async with working as client:
        for options, data in (
            (("--approve",), {"approved": True}),
            (("--reject", "--reason", "too much"), {"approved": False, "reason": "too much"}),
        ):
            handle = await permission.invoke(client, {})
            await until(client, handle, "suspend_first")
            done = await polos("resume", handle.id, *options)
            assert done.out.startswith(f"accepted: first of {handle.id} was answered by ")
            assert await handle.result() == [data, getpass.getuser(), "cli"]


async def test_several_open_suspensions_need_a_step_key(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await both.invoke(client)
        await until(client, handle, "suspend_right")
        unclear = await polos("resume", handle.id, "--approve")
        assert unclear.code == 1
        assert "has 2 open suspensions ('left', 'right')" in unclear.sentence
        for key in ("right", "left"):
            assert (await polos("resume", handle.id, key, "--data", f'"{key}"')).code == 0
        assert await handle.result() == ["left", "right"]
        late = await polos("resume", handle.id, "--approve", "--by", "zoe")
        assert late.code == 1
        assert "has no open suspension: it is completed" in late.sentence
        assert "'left' was answered by " in late.sentence


async def test_an_early_answer_is_stored(polos: Command, redis_url: str, namespace: str) -> None:
    async with Polos(url=redis_url, namespace=namespace, workflows=[both]) as client:
        handle = await client.invoke("cli-permission", {})  # of a workflow without a worker yet
        early = await polos("resume", handle.id, "first", "--data", "@answer.json", "--early", "--json")
        assert early.code == 2  # no such file
        (polos.folder / "answer.json").write_text("[1]")
        early = await polos("resume", handle.id, "first", "--data", "@answer.json", "--early", "--json")
        assert early.json["outcome"] == "early", early.err
        refused = await polos("resume", handle.id, "first", "--approve")
        assert refused.code == 1
        unknown = await polos("resume", handle.id, "--approve")
        assert "it is queued; it has never had one" in unknown.sentence
    async with Polos(url=redis_url, namespace=namespace, workflows=[permission]) as client:
        assert await client.get_handle(handle.id).result() == [[1], getpass.getuser(), "cli"]


async def test_closed_and_unknown_suspensions_refuse_an_answer(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await permission.invoke(client, {"timeout": 0.001})
        await until(client, handle, "suspend_afterwards")
        expired = await polos("resume", handle.id, "first", "--approve")
        assert expired.code == 1
        assert "timed out at 20" in expired.sentence
        unknown = await polos("resume", handle.id, "nothing", "--approve")
        assert unknown.code == 1
        assert "has no suspension 'nothing'; open: 'afterwards'" in unknown.sentence
        await client.cancel(handle.id)
        closed = await polos("resume", handle.id, "afterwards", "--approve")
        assert closed.code == 1
        assert "the execution is cancelled" in closed.sentence
        missing = await polos("resume", "f" * 32, "first", "--approve")
        assert missing.code == 1
        assert "there is no execution" in missing.sentence


@pytest.mark.failure(28)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "pass the answer: --approve, --reject or --data"),
        (("--approve", "--reject"), "--approve and --reject contradict each other"),
        (("--data", "{}", "--approve"), "--data and --approve contradict each other"),
        (("--data", "{}", "--reason", "r"), "--reason goes with"),
        (("--data", "yes"), "--data can't be read as JSON: line 1, column 1"),
        (("--approve", "--early"), "--early needs STEP_KEY"),
    ],
)
def test_an_unclear_answer_is_refused(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = Command("redis://127.0.0.1:1/0", "offline", tmp_path).here("resume", "x", *options)
    assert done.code == 2
    assert said in done.sentence


async def test_a_childs_suspension_is_answered_through_the_root(polos: Command, working: Polos) -> None:
    async with working as client:
        handle = await asks_below.invoke(client, 1)
        await until(client, handle, "suspend_first")
        shown = await polos("show", handle.id)
        done = await polos("resume", handle.id, "--approve", "--by", "ana", "--json")
        assert await handle.result() == [[{"approved": True}, "ana", "cli"]]
        child = done.json["execution_id"]
        assert child.startswith(handle.id + ".")
        assert f"  first of {child}  open  since " in shown.out
        assert f"polos resume {child} first --approve" in shown.out

        several = await asks_below.invoke(client, 2)
        await wait_below(client, several, 2)
        refused = await polos("resume", several.id, "--approve")
        assert refused.code == 1
        assert f"'first of {several.id}." in refused.sentence
        await client.cancel(several.id)


async def wait_below(client: Polos, handle: ExecutionHandle[object], count: int) -> None:
    """Waits until `count` suspensions are open below an execution."""
    async with asyncio.timeout(20):
        async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id):
            count -= event.event_type == "suspend_first"
            if not count:
                return
