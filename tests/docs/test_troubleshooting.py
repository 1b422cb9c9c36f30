"""docs/operations/troubleshooting.md quotes messages as they are in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests import ROOT

PAGE = ROOT / "docs" / "operations" / "troubleshooting.md"


def quoted() -> Iterator[str]:
    """The messages in the first column of every table whose heading is about messages."""
    in_messages = False
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            in_messages = False
        elif cells[0].startswith("message"):
            in_messages = True
        elif in_messages and (message := re.fullmatch(r"`(.+)`", cells[0])):
            yield message[1]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """All strings of the package and the command, without the values filled into them."""
    found = []
    for path in (*(ROOT / "polos_redis").rglob("*.py"), *(ROOT / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


@pytest.mark.parametrize("message", list(quoted()))
def test_a_quoted_message_is_in_the_code(message: str, texts: list[str]) -> None:
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")))
    assert any(pattern.search(text) for text in texts)


def test_the_page_quotes_messages() -> None:
    assert len(list(quoted())) > 20
