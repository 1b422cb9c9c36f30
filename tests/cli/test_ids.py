"""The beginning of an id in place of the whole one, in every command that takes an id."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.cli.ids import is_beginning
from polos_redis.state import keys
from tests.harness.command import Command
from tests.harness.running import until, working


@workflow(id="ids-asks")
async def asks(ctx: WorkflowContext) -> Any:
    return (await ctx.step.suspend("ok"))["data"]


@workflow(id="ids-parent")
async def parent(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("child", asks)


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


DIGITS = st.text("0123456789abcdef", min_size=keys.ID_LENGTH, max_size=keys.ID_LENGTH)


@given(DIGITS, st.integers(0, keys.ID_LENGTH))
def test_a_beginning_has_four_digits_and_is_not_whole(root: str, length: int) -> None:
    child = keys.child_id(root, "step", 0)
    assert is_beginning(root[:length]) == (4 <= length < keys.ID_LENGTH)
    assert not is_beginning(child)
    assert is_beginning(child[:-1]) and is_beginning(root + ".")
    assert is_beginning(f"{root[:length]}.{child[33:]}") == (4 <= length < keys.ID_LENGTH)


@given(st.text(string.printable))
def test_other_text_is_no_beginning(text: str) -> None:
    if not set(text) <= set("0123456789abcdef."):
        assert not is_beginning(text)


async def test_every_command_accepts_a_beginning(polos: Command, client: PolosClient) -> None:
    async with working(client, asks, parent):
        handle = await client.invoke(parent)

        async def open_child() -> str:
            below = (await client.get_execution(handle.id))["open_suspensions_below"]
            return below[0]["execution_id"] if below else ""

        child = await until(open_child)
        root, _, rest = child.partition(".")
        assert (await polos("show", root[:12], "--json")).json["id"] == handle.id, "not one of its children"
        assert (await polos("show", f"{root[:12]}.{rest[:3]}", "--json")).json["id"] == child
        assert (await polos("show", f"{root}.", "--json")).json["id"] == child
        assert (await polos("resume", f"{root[:12]}.{rest[:6]}", "--approve")).code == 0
        await handle.result()
        for command in ("events", "audit", "tail"):
            done = await polos(command, root[:12])
            assert done.code == 0, done.err
        assert (await polos("delete", root[:12], "--yes", "--json")).json["id"] == handle.id


async def test_several_ids_with_a_beginning_are_named(polos: Command, client: PolosClient) -> None:
    ids: list[str] = []
    while len({one[:4] for one in ids}) == len(ids):  # until two share a beginning: some 300 in the mean
        handles = [await client.invoke("nobody-serves-this", {"n": n}) for n in range(50)]
        ids += [one.id for one in handles]
    first = next(one for one in ids if sum(other[:4] == one[:4] for other in ids) > 1)
    same = sorted(one for one in ids if one[:4] == first[:4])
    done = await polos("show", first[:4])
    assert done.code == 2
    said = f"several executions have ids that begin with {first[:4]!r}: {', '.join(same)}. Type more of it"
    assert done.sentence == f"polos: {said}"
    assert (await polos("show", first[:31], "--json")).json["id"] == first


async def test_a_beginning_that_no_execution_has_is_not_found(polos: Command) -> None:
    done = await polos("show", "0123456")
    assert done.code == 1
    assert "0123456" in done.sentence


@pytest.mark.parametrize("given", ["", "0", "abc"])
async def test_a_beginning_needs_four_digits(given: str, polos: Command) -> None:
    done = await polos("show", given)
    assert (done.code, done.sentence) == (
        2,
        f"polos: {given!r} is too short for an id: type at least 4 digits of it",
    )
