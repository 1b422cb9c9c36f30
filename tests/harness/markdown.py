"""Parses Markdown pages into code blocks and test marks; `tests/docs/test_blocks.py` documents the marks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from textwrap import dedent

from tests import ROOT

_PART = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=indent)(?P=fence)[ ]*$"
    r"|^ *<!-- test:(?P<mark>.*?)-->[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'\btitle="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Mark:
    """`<!-- test: KIND REST -->`; further lines are its `code`."""

    line: int
    kind: str
    rest: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block and the marks directly before it."""

    page: str
    line: int
    language: str
    title: str
    code: str
    marks: list[Mark] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def skip(self) -> str | None:
        """Why it does not run; None if it does."""
        return next((mark.rest for mark in self.marks if mark.kind == "skip"), None)

    @property
    def is_terminal(self) -> bool:
        return self.title.startswith("Terminal")

    @property
    def is_file(self) -> bool:
        return bool(self.title) and not self.is_terminal


@dataclass(frozen=True, slots=True)
class MarkdownPage:
    """A page of the documentation; `name` is its path from the root of the repository."""

    name: str
    text: str
    parts: list[Block | Mark]

    @classmethod
    def read(cls, name: str) -> MarkdownPage:
        return cls.of(name, (ROOT / name).read_text("utf-8"))

    @classmethod
    def of(cls, name: str, text: str) -> MarkdownPage:
        return cls(name, text, list(_parts(name, text)))

    @property
    def blocks(self) -> list[Block]:
        return [part for part in self.parts if isinstance(part, Block)]

    @property
    def marks(self) -> list[Mark]:
        """All marks of the page, including those before blocks."""
        return [mark for part in self.parts for mark in (part.marks if isinstance(part, Block) else [part])]

    def has(self, kind: str) -> bool:
        return any(mark.kind == kind for mark in self.marks)

    def rests(self, kind: str) -> list[str]:
        return [mark.rest for mark in self.marks if mark.kind == kind]


_BEFORE_A_BLOCK = {"skip", "exits"}


def _parts(page: str, text: str) -> Iterator[Block | Mark]:
    waiting: list[Mark] = []  # for the next block
    for found in _PART.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["mark"] is not None:
            mark = _mark(line, found["mark"])
            if mark.kind in _BEFORE_A_BLOCK:
                waiting.append(mark)
            else:
                yield mark
            continue
        info, code = found["info"].strip(), found["code"]
        indent = len(found["indent"])
        code = "".join(row[min(indent, len(row) - len(row.lstrip(" "))) :] for row in code.splitlines(True))
        title = _TITLE.search(info)
        yield Block(page, line, info.partition(" ")[0], title[1] if title else "", code, waiting)
        waiting = []
    assert not waiting, f"{page}:{waiting[0].line}: no block follows this mark"


def _mark(line: int, text: str) -> Mark:
    head, _, code = text.partition("\n")
    kind, _, rest = head.strip().partition(" ")
    return Mark(line, kind.rstrip(":"), rest.strip(), dedent(code).replace(r"--\>", "-->"))


def pages() -> list[str]:
    """README.md and all pages of docs/."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
