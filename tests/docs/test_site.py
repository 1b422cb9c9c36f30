"""The documentation site builds without warnings, and its reference is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

import polos_redis
from polos_redis import PolosClient
from polos_redis.server.app import create_app
from tests import ROOT
from tests.harness.markdown import MarkdownPage, pages

NEEDED = ("mkdocs", "material", "mkdocstrings", "griffe_pydantic", "mermaidx")
missing = [name for name in NEEDED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"{', '.join(missing)} not installed: pip install -e '.[docs]'"
)

# The modules that users import from, besides `polos_redis` itself.
PUBLIC = (
    *("client", "workflow", "events", "schedules", "types", "features.events", "worker", "notifications"),
    *("metrics", "embedded", "links", "apikeys", "agents", "results"),
)
MODULES = {"codec", "errors", "events", "schedules"}  # modules in `polos_redis.__all__`


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def html_of(site: Path, page: str) -> str:
    """The article of a page, given its Markdown file in docs/."""
    name = page.removesuffix(".md")
    folder = site if name == "index" else site / name
    html = (folder / "index.html").read_text()
    return html[html.index("<article") : html.index("</article>")]


def headings(html: str) -> list[str]:
    found = re.findall(r"<h[1-6][^>]*>(.*?)</h[1-6]>", html, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", "", one)).replace("¶", "").strip() for one in found]


@pytest.fixture(scope="module")
def python_names(site: Path) -> set[str]:
    """Anchors of the Python reference: canonical names and their aliases."""
    names: set[str] = set()
    for path in (site / "reference" / "python").rglob("index.html"):
        names |= set(re.findall(r'\bid="(polos_redis[\w.]*)"', path.read_text()))
    return names


def own_name(module: str, name: str) -> Iterator[str]:
    """Names under which the reference may list an object."""
    yield f"polos_redis.{module}.{name}" if module else f"polos_redis.{name}"
    value = getattr(import_module(f"polos_redis.{module}" if module else "polos_redis"), name)
    if hasattr(value, "__qualname__"):
        yield f"{value.__module__}.{value.__qualname__}"
    if name in polos_redis.__all__:
        yield f"polos_redis.{name}"


def test_the_reference_has_every_public_name(python_names: set[str]) -> None:
    public = [("", name) for name in polos_redis.__all__ if name not in MODULES]
    public += [(module, name) for module in PUBLIC for name in import_module(f"polos_redis.{module}").__all__]
    public.append(("server.app", "create_app"))
    undocumented = [one for one in public if not python_names.intersection(own_name(*one))]
    assert undocumented == []


def test_the_reference_has_every_step(python_names: set[str]) -> None:
    page = (ROOT / "docs/reference/python/context.md").read_text()
    (path,) = re.findall(r"^::: (\S+\.Step)$", page, re.MULTILINE)
    module, _, name = path.rpartition(".")
    calls = {call for call in dir(getattr(import_module(module), name)) if not call.startswith("_")}
    assert {"run", "suspend", "first_of", "invoke_and_wait"} <= calls
    assert {f"{path}.{call}" for call in calls} <= python_names


def test_the_reference_has_the_members_it_names(python_names: set[str]) -> None:
    """It shows selected members of some classes; the site silently drops names that do not exist."""
    pages = [path.read_text() for path in (ROOT / "docs/reference/python").glob("*.md")]
    named = re.findall(
        r"^::: (\S+)\n    options:\n(?:      .*\n)*?      members: \[(.*)\]$", "\n".join(pages), re.MULTILINE
    )
    assert len(named) > 5
    expected = {f"{path}.{member}" for path, members in named for member in members.split(", ") if member}
    assert expected <= python_names


def test_the_cli_page_has_every_command(site: Path) -> None:
    def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, one in getattr(command, "commands", {}).items():
            yield from commands(one, f"{path} {name}")

    html = html_of(site, "reference/cli.md")
    app = import_module("polos_redis.cli.app").app
    found = dict(commands(typer.main.get_command(app), "polos"))
    assert len(found) > 15
    assert {f"{path}" for path in found if path != "polos"} <= set(headings(html))
    text = unescape(re.sub(r"<[^>]+>", "", html))
    for path, command in found.items():
        options = {option for param in command.params for option in param.opts if option.startswith("-")}
        assert all(option in text for option in options), path


def test_the_rest_page_has_every_operation(site: Path) -> None:
    paths = create_app(PolosClient()).openapi()["paths"]
    expected = {f"{method.upper()} {path}" for path, found in paths.items() for method in found}
    assert len(expected) > 10
    assert expected <= set(headings(html_of(site, "reference/rest.md")))


@pytest.mark.parametrize("name", [name for name in pages() if name != "README.md"])
def test_every_block_on_the_site_is_tested(site: Path, name: str) -> None:
    """The site shows exactly the blocks that `tests/docs/test_blocks.py` finds, so none escapes it."""
    blocks = MarkdownPage.read(name).blocks
    html = html_of(site, name.removeprefix("docs/"))
    diagrams = html.count('<figure class="diagram"')
    code = len(re.findall(r"<pre\b", html)) - html.count("doc-signature")
    assert code + diagrams == len(blocks)
    assert diagrams == [block.language for block in blocks].count("mermaid")
    assert html.count("<svg id=") >= diagrams
    assert "<!-- test" not in re.sub(r"<!-- test.*?-->", "", html, flags=re.DOTALL)
    assert not re.search(r"<p>(```|=== |!!! )", html)


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    """Styles, scripts, fonts and pictures are all local."""
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]* src="([^"]*)"|<link[^>]* href="([^"]*)"', path.read_text()
        )
        assert not [one for found in loaded for one in found if re.match(r"(https?:)?//", one)], path
