"""The pytest plugin, in pytest runs of its own: as users have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFIGURED = {
    "pytest.ini": "[pytest]\nanyio_mode = auto\nfilterwarnings = error\n",
    "conftest.py": """
import pytest


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
""",
    "orders.py": """
from polos_redis import workflow
from refunds import refund


@workflow
async def order(ctx, input: int) -> int:
    return await ctx.step.invoke_and_wait("refund", refund, input)
""",
    "refunds.py": """
from polos_redis import workflow


@workflow
async def refund(ctx, input: int) -> int:
    return -input
""",
}


def _pytest(folder: Path, *options: str, **files: str) -> str:
    """Write the files and run pytest there; returns what it prints."""
    for name, source in {**CONFIGURED, **{f"{name}.py": source for name, source in files.items()}}.items():
        (folder / name).write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


def test_the_module_is_served_with_what_it_imports_and_what_that_needs(tmp_path: Path) -> None:
    shown = _pytest(
        tmp_path,
        test_it="""
from polos_redis import workflow
from orders import order


@workflow
async def mine(ctx, input: int) -> int:
    return input


async def test_it(world):
    assert await order.run(world.client, 5, timeout=10) == -5
    assert await mine.run(world.client, 5, timeout=10) == 5
    assert await world.client.served_workflows() == {"order", "refund", "mine"}


async def test_one_that_the_test_defines(world):
    @workflow
    async def late(ctx) -> str:
        return "late"

    assert await late.run(world.client, timeout=10) == "late"
""",
        test_other="""
import orders
from polos_redis import workflow


@workflow
async def others(ctx) -> None: ...


async def test_a_module_that_imports_modules(world):
    assert await world.client.served_workflows() == {"order", "refund", "others"}
    assert await orders.order.run(world.client, 1, timeout=10) == -1
""",
    )
    assert "3 passed" in shown, shown


def test_each_test_has_a_world_of_its_own_on_one_server(tmp_path: Path) -> None:
    shown = _pytest(
        tmp_path,
        test_it="""
import pytest
from orders import order

seen = []


@pytest.mark.parametrize("number", [1, 2])
async def test_it(world, number):
    await order.run(world.client, number, timeout=10)
    assert len(await world.client.list_executions(workflow=order)) == 1
    seen.append((world.url, world.namespace))


def test_they_differ():
    (url, one), (same, other) = seen
    assert url == same and one != other
""",
    )
    assert "3 passed" in shown, shown


def test_the_server_can_be_another(tmp_path: Path, redis_url: str, namespace: str) -> None:
    shown = _pytest(
        tmp_path,
        test_it=f"""
import pytest
from orders import order


@pytest.fixture(scope="session")
def world_url():
    return {redis_url!r}


async def test_it(world):
    assert world.url == {redis_url!r}
    assert await order.run(world.client, 5, timeout=10) == -5
""",
    )
    assert "1 passed" in shown, shown


def test_a_failed_test_leaves_nothing_running(tmp_path: Path) -> None:
    """`nothing_left_behind` checks that the server is gone."""
    shown = _pytest(
        tmp_path,
        test_it="""
from polos_redis import workflow


@workflow
async def asks(ctx) -> None:
    await ctx.step.suspend("ask")


async def test_it(world):
    handle = await asks.invoke(world.client)
    await world.suspension(handle)
    raise AssertionError("as the test wants it")
""",
    )
    assert "1 failed" in shown and "as the test wants it" in shown, shown
    assert "error" not in shown.splitlines()[-1], shown


def test_an_unused_plugin_starts_and_imports_nothing(tmp_path: Path) -> None:
    shown = _pytest(
        tmp_path,
        test_it="""
import sys


def test_it():
    assert "polos_redis.testing.plugin" in sys.modules
    heavy = {"redis", "pydantic", "polos_redis.worker.worker", "polos_redis.testing.worlds"}
    assert not heavy & set(sys.modules)
""",
    )
    assert "1 passed" in shown, shown


def test_pytest_lists_the_fixtures(tmp_path: Path) -> None:
    shown = _pytest(tmp_path, "--fixtures", test_it="")
    assert "world_url [session scope]" in shown and "in a namespace of its own" in shown, shown
