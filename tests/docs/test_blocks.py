"""README.md and every page of docs/: each code block runs, or says why it does not.

A block that these tests have no way to run fails them. How a block runs depends on its language, its title,
and the marks right before it (HTML comments, invisible to readers):

- `python` without a title: all such blocks of a page form one module, in order. Each `async def
  example_*(client)` in it runs against a worker that has the page's workflows. Every function on the page
  must be called by then, or be excused anywhere on the page: `<!-- test: uncalled NAME: reason -->`.
- any language with `title="charge.py"`: a file. It is written to the page's folder, which starts empty, when
  its turn comes.
- `bash`: commands, without prompts. They run in the page's folder and must exit with 0 (`<!-- test: exits 1
  -->`: with that code instead). `export` and `cd` carry over to later blocks.
- `bash title="Terminal 2: ..."`: a separate shell in the background, which may keep running. The next block
  for the same terminal waits until it exits; `<!-- test: ctrl-c Terminal 2: ... -->` makes it. At the end of
  the page every terminal gets Ctrl-C and must exit with 0 or 130.
- `text` right after a `bash` block: its output. Commands must print exactly this; a terminal must print it
  sooner or later. `...` matches any text, on a line of its own any lines. Times, ids and durations match any
  others. `text title="Terminal 2: ..."`: what that terminal prints next.
- `json`, `yaml`, `toml`, `ini`, `js`: must be well-formed. `mermaid`: tests/docs/test_site.py draws it.
- any block after `<!-- test: skip: reason -->`: does not run. Python must still compile, and `polos` commands
  must exist, with their options.

More marks:

- `<!-- test: let EXECUTION_ID = started: (\\S+) -->`: waits until the regular expression matches something
  printed so far. From then on the word stands for the last match, in commands, files and outputs.
- `<!-- test: wait for TEXT -->`: waits until the terminal of the preceding block prints the text.
- `<!-- test: press Approve at http://127.0.0.1:8000/approve/EXECUTION_ID resumed_by=ann -->`: opens the page,
  fills in the form and presses the button.
- `<!-- test: own redis -->`: the page starts its own Redis on port 6379. Other pages use the test's server,
  through POLOS_REDIS_URL and POLOS_NAMESPACE.
- `<!-- test: needs curl -->`: skips the page's commands where this program is missing.
- multi-line marks, up to the closing `-->`: `<!-- test:python` adds code to the module, `<!-- test:bash` runs
  commands, `<!-- test:file NAME` writes a file, `<!-- test:model` is what the page's LLM says, as JSON for
  `polos_redis.testing.model.ScriptedReplies`. Write `--\\>` for a literal `-->`.

Two things differ from what a reader does. Ports that pages listen on are replaced by free ones, in commands
and files, and back in the output. `pip` is a stand-in: it checks that the requested packages are installed in
the test environment.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from polos_redis import PolosClient
from polos_redis.definitions.registry import _registry
from polos_redis.testing.model import ScriptedModel, ScriptedReplies
from polos_redis.workflow import Workflow
from tests.harness.markdown import Block, Mark, MarkdownPage, pages
from tests.harness.model_process import model_process
from tests.harness.programs import skip_without
from tests.harness.running import soon, working
from tests.harness.terminals import Reader

PAGES = [MarkdownPage.read(name) for name in pages()]
MARKS = {
    "skip",
    "exits",
    "uncalled",
    "let",
    "wait",
    "own",
    "needs",
    "ctrl-c",
    "press",
    "python",
    "bash",
    "file",
    "model",
}


def in_module(part: Block | Mark) -> bool:
    if isinstance(part, Mark):
        return part.kind == "python"
    return part.language == "python" and not part.title and part.skip is None


def is_followed(part: Block | Mark) -> bool:
    """Whether a reader acts on it, by writing a file or running a command."""
    if isinstance(part, Mark):
        return part.kind in {"bash", "file"}
    return part.skip is None and (part.language == "bash" or part.is_file)


def page_id(page: MarkdownPage) -> str:
    return page.name


# --- every block runs or says why not ---


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_block_can_be_run_or_says_why_not(page: MarkdownPage) -> None:
    check_blocks(page)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```\nx\n```\n", "nothing runs this block without a language"),
        ("```lua\nx\n```\n", "nothing runs this lua"),
        ("```text\nx\n```\n", "nothing runs this text"),
        ("<!-- test: skip: because -->\n```bash\nx\n```\n", "give the reason"),
        ("<!-- test: skip: needs a fleet -->\n```bash\npolos wrok x.py\n```\n", "there is no polos wrok"),
        ("<!-- test: skip: needs a fleet -->\n```bash\npolos keys list --al\n```\n", "no option --al"),
        ("```yaml\nargs: [worker, x.py, --fast]\n```\n", "polos worker has no option --fast"),
        ("```ini\n[Service]\nExecStart=/a/bin/polos sevre\n```\n", "there is no polos sevre"),
        ("<!-- test: skpi: needs a fleet -->\n", "skpi"),
        ("~~~bash\nx\n~~~\n", "~~~"),
    ],
)
def test_a_block_that_nothing_runs_is_reported(text: str, why: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(why)):
        check_blocks(MarkdownPage.of("page.md", text))


@pytest.mark.parametrize(
    "text", ["```python\nx = (\n```\n", "<!-- test: skip: too slow -->\n```python\nx = (\n```\n"]
)
def test_invalid_python_is_reported(text: str) -> None:
    with pytest.raises(SyntaxError):
        check_blocks(MarkdownPage.of("page.md", text))


def check_blocks(page: MarkdownPage) -> None:
    before: Block | None = None
    for block in page.blocks:
        if block.skip is not None:
            assert len(block.skip.split()) > 1, f"{block.place}: give the reason for skipping it"
            check_skipped(block)
        else:
            known = {"python", "bash", "json", "yaml", "toml", "ini", "js", "mermaid"}
            output = block.language == "text" and (
                block.is_terminal or (before is not None and before.language == "bash")
            )
            assert block.is_file or output or block.language in known, (
                f"{block.place}: nothing runs this {block.language or 'block without a language'}"
            )
            check_syntax(block)
        before = block
    assert {mark.kind for mark in page.marks} <= MARKS, page.name
    assert "~~~" not in page.text


def check_syntax(block: Block) -> None:
    match block.language:
        case "python":
            compile(block.code, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        case "bash":
            subprocess.run(["bash", "-n", "-c", block.code], check=True)
        case "json":
            json.loads(block.code)
        case "yaml":
            for document in yaml.safe_load_all(block.code):
                for command in _commands_in(document):
                    check_command(command, block.place)
        case "toml":
            tomllib.loads(block.code)
        case "ini":
            parsed = configparser.ConfigParser(strict=False, interpolation=None)
            parsed.read_string(block.code)
            if start := parsed.get("Service", "ExecStart", fallback=""):
                program, *arguments = shlex.split(start)
                check_command([Path(program).name, *arguments], block.place)
        case "js" if node := shutil.which("node"):
            subprocess.run([node, "--check", "-"], input=block.code.encode(), check=True)


def _commands_in(document: Any) -> Iterator[list[str]]:
    """Commands of the containers in a YAML document."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name in {"command", "args"} and isinstance(value, list) and value:
                words = [str(word) for word in value]
                # An image whose entrypoint is `polos` gets the arguments only.
                yield ["polos", *words] if words[0] in {"worker", "serve"} else words
            else:
                yield from _commands_in(value)
    elif isinstance(document, list):
        for one in document:
            yield from _commands_in(one)


def check_skipped(block: Block) -> None:
    if block.language in {"python", "bash"}:
        check_syntax(block)
    if block.language == "bash":
        for line in block.code.replace("\\\n", " ").splitlines():
            check_command(shlex.split(line, comments=True), block.place)


def check_command(words: list[str], place: str) -> None:
    """Check that a `polos` command and its options exist."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if not words or words[0] != "polos":
        return
    command: Any = typer.main.get_command(import_module("polos_redis.cli.app").app)
    path = "polos"
    for word in words[1:]:
        if word in {"|", "&&", ";", ">", "&"}:
            break
        if word.startswith("-") and word != "-":
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            options |= {"-h", "--help"}
            assert word.partition("=")[0] in options, f"{place}: {path} has no option {word}"
        elif hasattr(command, "commands"):
            assert word in command.commands, f"{place}: there is no {path} {word}"
            command, path = command.commands[word], f"{path} {word}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_commands_named_in_the_text_exist(page: MarkdownPage) -> None:
    for text in re.findall(r"(?<!`)`(polos [a-z][^`\n]*)`(?!`)", page.text):
        check_command(shlex.split(text, comments=True), page.name)


# --- untitled Python: one module per page ---


@dataclass
class PageModule:
    """A page's Python blocks as a module, and the functions called so far."""

    page: MarkdownPage
    module: ModuleType
    functions: set[str]
    called: set[str] = field(default_factory=set)

    @property
    def workflows(self) -> list[Workflow]:  # type: ignore[type-arg]
        return [one for one in vars(self.module).values() if isinstance(one, Workflow)]


class _NoteCalls(ast.NodeTransformer):
    """Makes every function record its name when called."""

    def __init__(self) -> None:
        self.functions: set[str] = set()

    def _visit(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        self.functions.add(node.name)
        note = ast.parse(f"__called__.add({node.name!r})").body[0]
        for one in ast.walk(note):
            ast.copy_location(one, node.body[0])
        has_doc = ast.get_docstring(node) is not None
        node.body.insert(1 if has_doc else 0, note)
        return node

    visit_FunctionDef = _visit
    visit_AsyncFunctionDef = _visit


@pytest.fixture
def module(page: MarkdownPage, tmp_path: Path) -> Iterator[PageModule]:
    # Keep the page's line numbers, so that tracebacks point into the page.
    lines = [""] * (page.text.count("\n") + 1)
    for part in filter(in_module, page.parts):
        for number, row in enumerate(part.code.splitlines(), part.line):
            lines[number] = row
    name = "page_" + re.sub(r"\W", "_", page.name.removesuffix(".md"))
    path = tmp_path / f"{name}.py"
    path.write_text("\n".join(lines))
    notes = _NoteCalls()
    tree = notes.visit(ast.parse(path.read_text()))
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(path)
    found = PageModule(page, module, notes.functions)
    vars(module)["__called__"] = found.called
    before = dict(_registry)
    _registry.clear()
    try:
        exec(compile(tree, str(path), "exec"), vars(module))
        yield found
    finally:
        del sys.modules[name]
        _registry.clear()
        _registry.update(before)


def model_of(page: MarkdownPage) -> str | None:
    """The page's script for its LLM, as JSON."""
    found = [mark.code for mark in page.marks if mark.kind == "model"]
    assert len(found) < 2, f"{page.name}: has several models"
    return found[0] if found else None


@pytest.fixture
async def model(page: MarkdownPage, tmp_path: Path) -> AsyncIterator[None]:
    """The LLM that the page's agents call."""
    said = model_of(page)
    if said is None:
        yield
        return
    path = tmp_path / "model.json"
    path.write_text(said)
    async with ScriptedModel(ScriptedReplies.load(path)):
        yield


@pytest.mark.parametrize("page", [one for one in PAGES if any(map(in_module, one.parts))], ids=page_id)
async def test_a_pages_examples_run(
    page: MarkdownPage, module: PageModule, client: PolosClient, model: None
) -> None:
    examples = [one for name, one in vars(module.module).items() if name.startswith("example_")]
    assert examples, "a page with Python blocks has at least one `async def example_*(client)`"
    async with working(client, *module.workflows):
        for example in examples:
            assert inspect.iscoroutinefunction(example)
            await soon(example(client))
    excused = {rest.partition(":")[0] for rest in page.rests("uncalled")}
    assert excused <= module.functions, f"{page.name}: {excused - module.functions} is not on the page"
    never = module.functions - module.called
    assert never == excused, f"{page.name}: never called {never - excused}, but called {excused - never}"


# --- files, commands and their output ---


@pytest.mark.parametrize("page", [one for one in PAGES if any(map(is_followed, one.parts))], ids=page_id)
def test_a_page_can_be_followed(page: MarkdownPage, redis_url: str, namespace: str, tmp_path: Path) -> None:
    for program in page.rests("needs"):
        if shutil.which(program) is None:
            skip_without(program, "it is not on PATH")
    environment = {"POLOS_REDIS_URL": redis_url, "POLOS_NAMESPACE": namespace}
    said = model_of(page)
    if said is not None:
        (tmp_path / "model.json").write_text(said)
    server = model_process(tmp_path / "model.json", tmp_path / "model.log") if said else nullcontext()
    with server as base_url:
        if base_url is not None:
            environment |= {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": base_url}
        Reader(page, tmp_path, environment).follow()
