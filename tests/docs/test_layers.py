"""The layers of the package: a file imports only from its own layer and those below, no files form a circle,
and no two classes share a name.

Every import counts, including those for type checkers and those inside functions: to understand a file, a
reader has to open what it names, whenever Python loads it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

# From the bottom to the top, as docs/architecture.md draws them.
LAYERS = (
    *("version", "errors", "frames", "failures", "redaction", "tracing", "tasks", "threads", "watchdog"),
    *("values", "results", "logs", "wire", "embedded", "state", "definitions", "settings", "connection"),
    "decisions",
    *(
        "metrics",
        "events",
        "errands",
        "executions",
        "links",
        "apikeys",
        "features",
        "triggers",
        "notifications",
        "runtime",
        "replay",
    ),
    *(
        "client",
        "workflow",
        "schedules",
        "sync",
        "agents",
        "worker",
        "diagnosis",
        "server",
        "polos",
        "testing",
        "types",
        "__init__",
        "cli",
    ),
)


def _modules(root: Path) -> dict[str, Path]:
    """Maps module names to files, with cli/ as installed. Skips an editable install's link to cli/."""
    found = {}
    for folder in (root / "polos_redis", root / "cli"):
        for file in sorted(folder.rglob("*.py")):
            parts = ("polos_redis", *file.relative_to(root).with_suffix("").parts)
            parts = parts[1:] if folder.name == "polos_redis" else parts
            if folder.name == "polos_redis" and parts[1] == "cli":
                continue
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def _layer(module: str) -> int:
    name = module.split(".")[1] if "." in module else "__init__"
    if name not in LAYERS:
        raise AssertionError(f"{module} belongs to no layer: add {name!r} to LAYERS in its place")
    return LAYERS.index(name)


def _imports(module: str, file: Path, modules: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The package's modules that a file imports, with the line of each import."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name in modules:
                    yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for name in node.names:
                target = f"{source}.{name.name}"
                if target in modules:
                    yield target, node.lineno
                elif source in modules:
                    yield source, node.lineno


def _upward(root: Path) -> Iterator[str]:
    modules = _modules(root)
    for module, file in modules.items():
        for target, line in _imports(module, file, modules):
            if _layer(target) > _layer(module):
                yield f"{file.relative_to(root)}:{line} imports {target}, which stands above it"


def _circles(root: Path) -> Iterator[str]:
    modules = _modules(root)
    arrows = {
        module: {target: line for target, line in _imports(module, file, modules) if target != module}
        for module, file in modules.items()
    }
    done: set[str] = set()
    for start in arrows:
        path: list[str] = []
        stack = [(start, iter(arrows[start]))] if start not in done else []
        path += [start] if stack else []
        while stack:
            module, targets = stack[-1]
            for target in targets:
                if target in path:
                    circle = path[path.index(target) :]
                    where = f"{modules[module].relative_to(root)}:{arrows[module][target]}"
                    yield f"{where} closes a circle: {' -> '.join([*circle, target])}"
                elif target not in done:
                    path.append(target)
                    stack.append((target, iter(arrows[target])))
                    break
            else:
                done.add(module)
                path.pop()
                stack.pop()


def _shared_names(root: Path) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for module, file in _modules(root).items():
        if module.startswith("polos_redis.sync."):
            continue  # its names are those of the asynchronous classes, on purpose
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                where = f"{file.relative_to(root)}:{node.lineno}"
                found.setdefault(node.name.lstrip("_"), []).append(where)
    for name, places in found.items():
        if len(places) > 1:
            yield f"{name} is the name of {len(places)} classes: {', '.join(places)}"


def test_no_import_points_upward() -> None:
    assert not (found := sorted(_upward(ROOT))), "\n" + "\n".join(found)


def test_no_imports_form_a_circle() -> None:
    assert not (found := sorted(_circles(ROOT))), "\n" + "\n".join(found)


def test_no_two_classes_share_a_name() -> None:
    assert not (found := sorted(_shared_names(ROOT))), "\n" + "\n".join(found)


@pytest.mark.parametrize("guard", ["", "if TYPE_CHECKING:\n    ", "def late():\n    "])
def test_an_upward_import_is_reported(tmp_path: Path, guard: str) -> None:
    _package(tmp_path, {"errors": "", "client": "", "state/keys": f"{guard}from polos_redis import client"})
    line = guard.count("\n") + 1
    assert list(_upward(tmp_path)) == [
        f"polos_redis/state/keys.py:{line} imports polos_redis.client, which stands above it"
    ]


def test_a_circle_is_reported(tmp_path: Path) -> None:
    files = {
        "state/keys": "from polos_redis.state.journal import COUNT",
        "state/journal": "import os\nfrom polos_redis.state import keys",
    }
    _package(tmp_path, files)
    (found,) = _circles(tmp_path)
    assert found.startswith("polos_redis/state/keys.py:1 closes a circle: polos_redis.state.journal -> ")


def test_a_name_of_two_classes_is_reported(tmp_path: Path) -> None:
    _package(tmp_path, {"state/keys": "class Start: ...", "client": "import os\n\nclass _Start: ..."})
    assert list(_shared_names(tmp_path)) == [
        "Start is the name of 2 classes: polos_redis/client.py:3, polos_redis/state/keys.py:1"
    ]


def test_relative_imports_in_cli_count(tmp_path: Path) -> None:
    _package(tmp_path, {"client": ""})
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("from .app import main")
    (tmp_path / "cli" / "app.py").write_text("from . import main")
    assert len(list(_circles(tmp_path))) == 1


def _package(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        file = root / "polos_redis" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        for folder in file.parents:
            if folder == root:
                break
            (folder / "__init__.py").touch()
