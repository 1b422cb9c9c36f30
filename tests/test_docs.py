"""The examples in the pages of docs/ do what the pages say.

All Python blocks of a page, one after the other, are one module. Every `async def example_*(client)` in it is
run against a worker that works on the page's workflows; it asserts what the page promises. Blocks marked
`python no-run` are left out. Pages whose agents ask a model have what it says in `SAID`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from polos_redis import PolosClient
from polos_redis.definitions.definition import _registry
from polos_redis.workflow import Workflow
from tests.llm import Call, Reply, Say, When, llm
from tests.running import soon, working

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(page.name for page in DOCS.glob("*.md") if BLOCK.search(page.read_text()))


REFUND = {"order_id": "o-17", "amount": 250.0}
SIZE = {"name": "size", "label": "Size", "type": "text", "required": True, "options": []}
SAID: dict[str, list[Reply | When]] = {
    "page_agents": [
        When(
            Say({"description": "Delete old records", "steps": ["back up", "delete"], "cost": None}),
            prompt="customer records",
        ),
        When(Say(tool_calls=[Call("find_order", {"id": "o-17"})]), prompt="broken", round=0),
        When(
            Say(tool_calls=[Call("give_refund", REFUND), Call("ship", {"id": "o-17"})]),
            prompt="broken",
            round=1,
        ),
        When(Say("Half of it is on its way back."), prompt="broken", round=2),
        When(
            Say(tool_calls=[Call("ask_user", {"question": "Which size?", "fields": [SIZE]})]),
            prompt="new one",
            round=0,
        ),
        When(Say("A new one in L is on its way."), prompt="new one", round=1),
        When(Say("Once upon a time."), prompt="story"),
        *[When(Say(tool_calls=[Call("look")]), prompt="watch")] * 2,
    ]
}


@pytest.fixture
async def model(page: ModuleType, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """What the agents of the page ask."""
    async with llm(SAID.get(page.__name__, [])) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield


@pytest.fixture
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModuleType]:
    """The module that a page's blocks make."""
    text = (DOCS / request.param).read_text()
    name = "page_" + Path(request.param).stem.replace("-", "_")
    path = tmp_path / f"{name}.py"
    path.write_text("\n\n".join(BLOCK.findall(text)))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    before = dict(_registry)
    _registry.clear()
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]
    _registry.clear()
    _registry.update(before)


@pytest.mark.parametrize("page", PAGES, indirect=True)
async def test_the_examples_of_a_page_run(page: ModuleType, client: PolosClient, model: None) -> None:
    mine = [one for one in vars(page).values() if isinstance(one, Workflow)]
    examples = [one for name, one in vars(page).items() if name.startswith("example_")]
    assert examples, "a page with Python blocks has at least one `async def example_*(client)`"
    async with working(client, *mine):
        for example in examples:
            await soon(example(client))


def test_the_pages_about_composition_have_examples() -> None:
    wanted = {
        "agents.md",
        "children.md",
        "waiting.md",
        "queues.md",
        "schedules.md",
        "state-and-hooks.md",
        "decisions.md",
    }
    assert wanted <= set(PAGES)
