"""The examples in the pages of docs/ do what the pages say.

All Python blocks of a page, one after the other, are one module. Every `async def example_*(client)` in it is
run against a worker that works on the page's workflows; it asserts what the page promises. Blocks marked
`python no-run` are left out.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from polos_redis import PolosClient
from polos_redis.workflow import Workflow, _registry
from tests.running import soon, working

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(page.name for page in DOCS.glob("*.md") if BLOCK.search(page.read_text()))


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
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]
    _registry.clear()
    _registry.update(before)


@pytest.mark.parametrize("page", PAGES, indirect=True)
async def test_the_examples_of_a_page_run(page: ModuleType, client: PolosClient) -> None:
    mine = [one for one in vars(page).values() if isinstance(one, Workflow)]
    examples = [one for name, one in vars(page).items() if name.startswith("example_")]
    assert examples, "a page with Python blocks has at least one `async def example_*(client)`"
    async with working(client, *mine):
        for example in examples:
            await soon(example(client))


def test_the_pages_about_composition_have_examples() -> None:
    wanted = {"children.md", "waiting.md", "queues.md", "schedules.md", "state-and-hooks.md", "decisions.md"}
    assert wanted <= set(PAGES)
