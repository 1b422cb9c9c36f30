"""The format of a namespace: who can't read what is stored there is refused before it reads or writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from polos_redis import PolosClient, ReleaseTooOldError, WorkflowContext, workflow
from tests.harness.command import Command
from tests.harness.formats import store
from tests.invariants.state import read_all


@workflow(id="formatted")
async def formatted(ctx: WorkflowContext) -> int:
    return 1


FLOWS = """
from polos_redis import workflow

@workflow(id="formatted")
async def formatted(ctx):
    return 1
"""


async def test_the_first_use_records_the_format(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        await formatted.invoke(client)
    meta = next(one.meta for one in read_all(redis_url, namespace) if one.meta)
    assert (meta[b"format"], meta[b"minimum_reader"]) == (b"1", b"1")


@pytest.mark.parametrize("used", [True, False])
async def test_a_release_that_is_too_old_is_refused(used: bool, redis_url: str, namespace: str) -> None:
    if used:
        async with PolosClient(redis_url, namespace) as client:
            await formatted.invoke(client)
    store(redis_url, namespace, format=4, minimum_reader=3)
    before = read_all(redis_url, namespace)
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(ReleaseTooOldError) as caught:
            await formatted.invoke(client)
    assert f"namespace {namespace!r} on Redis at " in str(caught.value)
    assert str(caught.value).endswith(
        "needs a release that reads format 3, and this one reads up to format 1: deploy the release that is "
        "in use there"
    )
    after = read_all(redis_url, namespace)
    assert [one.executions for one in after] == [one.executions for one in before]
    assert [one.meta for one in after] == [one.meta for one in before]
    store(redis_url, namespace, minimum_reader=1)


async def test_a_newer_format_that_this_release_may_read_is_used_and_kept(
    redis_url: str, namespace: str
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        await formatted.invoke(client)
    store(redis_url, namespace, format=2)
    async with PolosClient(redis_url, namespace) as client:
        await formatted.invoke(client)
    meta = next(one.meta for one in read_all(redis_url, namespace) if one.meta)
    assert (meta[b"format"], meta[b"minimum_reader"]) == (b"2", b"1")


async def test_a_worker_that_is_too_old_does_not_start(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        await formatted.invoke(client)
    store(redis_url, namespace, minimum_reader=2)
    (tmp_path / "flows.py").write_text(FLOWS)
    ended = await Command(redis_url, namespace, tmp_path)("worker", "flows.py")
    assert ended.code == 78
    assert "needs a release that reads format 2, and this one reads up to format 1" in ended.err
    assert "Traceback" not in ended.err
    store(redis_url, namespace, minimum_reader=1)
