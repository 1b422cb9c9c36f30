"""docs/guides/logs.md lists every message of the package's loggers, with its level."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from polos_redis.logs import LOGGERS
from tests import ROOT

PAGE = ROOT / "docs" / "guides" / "logs.md"
LEVELS = {
    **{name: name.upper() for name in ("debug", "info", "warning", "error", "critical")},
    "exception": "ERROR",
}
# Functions that pass a message on: the position of the message, and the level or its position.
PASSING_ON: dict[str, tuple[int, int | str]] = {
    "log_failure": (1, 0),
    "_log_failure": (1, 0),
    "_warn": (1, "WARNING"),
    "exit_soon": (1, "WARNING"),
    "makeRecord": (4, 1),
    "log": (1, 0),
}
PASSED_ON = {"message", "why", "warning"}  # the names of their parameters
SEVERAL = {"polos_redis/watchdog.py": {"polos.worker", "polos.server"}}  # the logger is a parameter


class Line(NamedTuple):
    """A message, with `...` for each value in it."""

    logger: str
    level: str
    message: str


# --- the code ---------------------------------------------------------------------------


@cache
def in_code() -> frozenset[Line]:
    found: set[Line] = set()
    for folder in ("polos_redis", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(_in_file(path))
    return frozenset(found)


def _in_file(path: Path) -> Iterator[Line]:
    tree, name = ast.parse(path.read_text("utf-8")), str(path.relative_to(ROOT))
    given = _given(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    got = [str(_text(one.args[0])) for one in calls if _name(one) == "getLogger" and one.args]
    loggers = SEVERAL.get(name) or {one for one in got if one.startswith("polos.")} or set(got)
    for call in calls:
        for level, message in _logged(call, given, f"{name}:{call.lineno}"):
            assert loggers or _name(call) == "exit_soon", f"{name}:{call.lineno}: which logger?"
            for logger in loggers or {"polos.worker"}:
                yield Line(logger, level, message)
    for function in ast.walk(tree):  # the default of a parameter that is passed on
        if isinstance(function, ast.FunctionDef) and function.name in PASSING_ON:
            for default in function.args.defaults:
                if isinstance(default, ast.Constant) and isinstance(default.value, str):
                    known = str(PASSING_ON[function.name][1])
                    yield from (Line(logger, known, default.value) for logger in loggers)


def _logged(call: ast.Call, given: dict[str, ast.expr], where: str) -> Iterator[tuple[str, str]]:
    if _name(call) == "partial" and isinstance(call.args[0], ast.Attribute):
        call = ast.Call(call.args[0], call.args[1:], call.keywords)
    name = _name(call)
    of = call.func.value if isinstance(call.func, ast.Attribute) else None
    level: int | str
    if name in LEVELS and of is not None and _is_logger(of):
        at, level = 0, LEVELS[name]
    elif name in PASSING_ON and len(call.args) > PASSING_ON[name][0]:
        if not (name[0] != "_" if of is None else _is_logger(of) or ast.unparse(of) == "self"):
            return  # another function of this name
        at, level = PASSING_ON[name]
    else:
        return
    message = call.args[at]
    text = _text(given.get(message.id, message) if isinstance(message, ast.Name) else message)
    if text is None:
        parameter = message.id if isinstance(message, ast.Name) else ""
        assert parameter in PASSED_ON, f"{where}: the message is no text in the code"
        return
    levels = [level] if isinstance(level, str) else _levels(call.args[level], given)
    assert levels, f"{where}: which level?"
    for one in levels:
        yield one, text


def _levels(node: ast.expr, given: dict[str, ast.expr]) -> list[str]:
    """The levels that an argument may have."""
    value = given.get(node.id, node) if isinstance(node, ast.Name) else node
    found = [one.attr for one in ast.walk(value) if isinstance(one, ast.Attribute)]
    return [one for one in found if one in LEVELS.values()]


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[srd]", "...", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "..." for one in node.values)
    return None


def _given(tree: ast.Module) -> dict[str, ast.expr]:
    """What names are assigned."""
    return {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_logger(node: ast.expr) -> bool:
    return re.search(r"(^|[._])(log|logger)$|^logging\.getLogger", ast.unparse(node)) is not None


# --- the page ---------------------------------------------------------------------------


@cache
def on_page() -> frozenset[Line]:
    found: set[Line] = set()
    logger, columns = "", list[str]()
    for line in PAGE.read_text("utf-8").splitlines():
        if not line.startswith("|"):
            columns = []
            if named := re.findall(r"`(polos\.[a-z]+)`", line):
                logger = named[0]
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        if not columns:
            columns = cells
        elif not set(line) <= set("|- "):
            row = dict(zip(columns, cells, strict=True))
            name = row.get("logger", logger).strip("`")
            for message in _quoted(row["message"]):
                found.add(Line(name, row["level"], message))
    return frozenset(found)


def _quoted(cell: str) -> list[str]:
    return [one[0].strip() or one[1] for one in re.findall(r"``(.+?)``|`([^`]+)`", cell)]


def test_there_are_messages() -> None:
    assert len(in_code()) > 80
    assert {one.logger for one in in_code()} == {*LOGGERS, "polos"} - {"polos.workflow"}


@pytest.mark.parametrize("line", sorted(in_code()), ids=lambda line: line.message[:60])
def test_a_message_is_on_the_page(line: Line) -> None:
    assert line in on_page(), [one for one in on_page() if one.message == line.message]


@pytest.mark.parametrize("line", sorted(on_page()), ids=lambda line: line.message[:60])
def test_a_message_on_the_page_is_in_the_code(line: Line) -> None:
    assert line in in_code(), [one for one in in_code() if one.message == line.message]
