"""A definition that runs again: a reloaded module, a notebook cell, a REPL input, an agent, a tool."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.definitions import registry
from polos_redis.definitions.registry import registered
from polos_redis.errors import ConfigurationError
from polos_redis.worker.served import resolved
from tests import ROOT
from tests.harness.running import running

HEAD = "from polos_redis import Agent, WorkflowContext, tool, workflow\n"
KINDS = {
    "function": "@workflow(id='{id}')\nasync def run(ctx: WorkflowContext):\n    return {value}\n",
    "named": "@workflow\nasync def {id}(ctx: WorkflowContext):\n    return {value}\n",
    "agent": "agent = Agent(id='{id}', model='m-{value}')\n",
    "tool": "@tool(id='{id}')\nasync def used(ctx: WorkflowContext):\n    return {value}\n",
    "factory": (
        "def make(value):\n    @workflow(id='{id}')\n    async def inner(ctx: WorkflowContext):\n"
        "        return value\n    return inner\nmake({value})\n"
    ),
    "scheduled": (
        "@workflow(id='{id}', schedule='* * * * *', queue={{'concurrency_limit': {value} or 1}})\n"
        "async def tick(ctx: WorkflowContext, input):\n    return {value}\n"
    ),
}


@pytest.fixture(autouse=True, scope="module")
def registry_as_before() -> Iterator[None]:
    """Other tests of this process start workers of whatever is registered."""
    before = dict(registry._registry)
    yield
    registry._registry.clear()
    registry._registry.update(before)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> Path:
        path = tmp_path / "redefined.py"
        path.write_text(HEAD + source)
        importlib.invalidate_caches()
        return path

    yield write
    sys.modules.pop("redefined", None)


def _run_cell(source: str, name: str, namespace: dict[str, Any]) -> None:
    exec(compile(HEAD + source, name, "exec"), namespace)


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_reloaded_after_an_edit_replaces_its_definitions(
    kind: str, write: Callable[[str], Path]
) -> None:
    name = f"reloaded_{kind}"
    write(KINDS[kind].format(id=name, value=0))
    module = importlib.import_module("redefined")
    first = registered()[name]
    write("\n\n# moved\n" + KINDS[kind].format(id=name, value=1))
    importlib.reload(module)
    assert registered()[name] is not first
    del sys.modules["redefined"]
    write("\n" + KINDS[kind].format(id=name, value=2))
    importlib.import_module("redefined")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_that_runs_again_replaces_its_definitions(kind: str) -> None:
    name = f"cell_{kind}"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    files = ["/tmp/ipykernel_7/12.py", "/tmp/ipykernel_7/34.py", "<ipython-input-3-ab>", "<stdin>", "<stdin>"]
    files += ["notebook.py", "notebook.py"]  # an IDE's cell of a file
    for number, file in enumerate(files):
        before = registered().get(name)
        _run_cell("\n" * number + KINDS[kind].format(id=name, value=number), file, namespace)
        assert registered()[name] is not before


@pytest.mark.parametrize("kind", KINDS)
def test_two_definitions_in_one_source_are_refused(kind: str, write: Callable[[str], Path]) -> None:
    name = f"doubled_{kind}"
    once = KINDS[kind].format(id=name, value=0)
    path = write(once + once)
    with pytest.raises(ConfigurationError) as caught:
        importlib.import_module("redefined")
    assert f"workflow id {name!r} is already used at {path}:" in str(caught.value)
    with pytest.raises(ConfigurationError, match="is already used at"):
        _run_cell(once + once, "<ipython-input-1-ab>", {"__name__": "__main__"})


@given(st.permutations(list(KINDS)), st.sampled_from(["redefined_a", "redefined_b"]))
def test_another_function_with_the_id_is_refused(kinds: list[str], module: str) -> None:
    """Of another name in the module, or in another module, whatever ran in between."""
    name = f"taken_{'_'.join(kinds)}_{module}"[:80]
    _run_cell(KINDS[kinds[0]].format(id=name, value=0), "one.py", {"__name__": module})
    for other in kinds[1:]:
        with pytest.raises(ConfigurationError, match=r"is already used at one\.py:"):
            _run_cell(KINDS[other].format(id=name, value=0), "two.py", {"__name__": module})
    with pytest.raises(ConfigurationError, match=r"is already used at one\.py:"):
        _run_cell(KINDS[kinds[0]].format(id=name, value=0), "two.py", {"__name__": "redefined_c"})


def test_two_functions_behind_one_decorator_are_two(write: Callable[[str], Path]) -> None:
    """`functools.wraps` gives them one code object; the functions behind it count."""
    write("")
    wrapped = (
        "import functools\ndef same(function):\n    @functools.wraps(function)\n"
        "    async def call(ctx):\n        return await function(ctx)\n    return call\n"
    )
    namespace: dict[str, Any] = {"__name__": "redefined_wraps"}
    _run_cell(wrapped, "wraps.py", namespace)
    _run_cell("@workflow(id='wrapped')\n@same\nasync def charge(ctx): ...\n", "wraps.py", namespace)
    other = {**namespace, "__name__": "redefined_other"}
    with pytest.raises(ConfigurationError, match=r"is already used at wraps\.py:"):
        _run_cell("\n@workflow(id='wrapped')\n@same\nasync def charge(ctx): ...\n", "other.py", other)


def test_a_repl_accepts_the_same_definition_twice() -> None:
    typed = "@workflow\nasync def typed(ctx: WorkflowContext):\n    return 1\n\n"
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=HEAD + typed + "x = 1\n" + typed + "print('defined', typed.id)\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "defined typed" in done.stdout
    assert "Error" not in done.stderr


async def test_the_new_definition_runs(
    redis_url: str, namespace: str, write: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of a tool as well, though its agent still names the old one."""
    agent = "agent = Agent(id='live_agent', model='m', tools=[used])\n"
    write(KINDS["named"].format(id="live", value=1) + KINDS["tool"].format(id="live_tool", value=1) + agent)
    module: ModuleType = importlib.import_module("redefined")
    old = module.agent
    write("\n" + KINDS["named"].format(id="live", value=2) + KINDS["tool"].format(id="live_tool", value=2))
    importlib.reload(module)
    known: dict[str, Any] = dict(registered())
    assert old.needed[0] is not known["live_tool"]
    assert resolved([known["live"], known["live_tool"], old])[b"live_tool"] is known["live_tool"]
    async with running(redis_url, namespace, known["live"]) as at:
        assert await at.result(await at.client.invoke("live")) == 2
