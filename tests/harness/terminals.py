"""Follows a page as a reader does: writes its files, runs its commands, compares the output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.harness.markdown import Block, Mark, MarkdownPage
from tests.harness.visiting import visiting

DEADLINE = 60.0
PORTS = ("6379", "8000", "8080", "9000", "9464")  # ports in pages; replaced by free ones
KEPT = {"POLOS_PARTITIONS"}  # kept: tests may run in namespaces of several partitions

_PIP = '''\
#!{python}
"""A stand-in for pip: checks that the requested packages are in the test environment."""
import sys
from importlib.metadata import distribution
from packaging.requirements import Requirement

assert sys.argv[1] == "install", sys.argv
for argument in sys.argv[2:]:
    if argument in ("-U", "--upgrade"):
        continue
    wanted = Requirement(argument)
    found = distribution(wanted.name)
    assert wanted.specifier.contains(found.version, prereleases=True), argument
    missing = wanted.extras - set(found.metadata.get_all("Provides-Extra") or [])
    assert not missing, f"{{argument}}: there is no such extra"
    for extra in wanted.extras:
        for line in found.requires or []:
            needed = Requirement(line)
            if needed.marker and needed.marker.evaluate({{"extra": extra}}):
                distribution(needed.name)
'''


# Exported variables and the working directory carry over from the previous block.
_SCRIPT = """\
[ ! -e '{state}' ] || . '{state}'
trap '{{ export -p; echo cd "$(printf %q "$PWD")"; }} > {state}' EXIT
set -e -o pipefail
{commands}"""


class Terminal:
    """A shell that runs one block at a time; the last one may still be running."""

    def __init__(self, reader: Reader, name: str) -> None:
        self.reader, self.name = reader, name
        self.process: subprocess.Popen[bytes] | None = None
        self.block: Block | Mark | None = None
        self.expected_code = 0
        stem = re.sub(r"\W+", "-", name)
        self._state = reader.home / f"{stem}.state"
        self._out = reader.home / f"{stem}.out"
        self._out.touch()
        self._seen = 0  # length of the output that the page has shown so far

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def unseen(self) -> str:
        return self.out[self._seen :]

    def type(self, block: Block | Mark, expected_code: int = 0) -> None:
        """Start a block's commands."""
        self.finish()
        self.block, self.expected_code = block, expected_code
        script = _SCRIPT.format(state=self._state, commands=self.reader.adapt(block.code))
        self._seen = len(self.out)
        with self._out.open("ab") as out:
            self.process = subprocess.Popen(
                ["bash", "--norc", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.reader.folder,
                env=self.reader.environment,
                start_new_session=True,
                preexec_fn=_take_interrupts,
            )

    def finish(self) -> None:
        """Wait for its commands to exit with the expected code."""
        if self.process is None:
            return
        code = self.process.wait(DEADLINE)
        assert code == self.expected_code, f"{self.reader.place(self.block)}: exit code {code}\n{self.out}"
        self.process = None

    def interrupt(self) -> None:
        """Send Ctrl-C to the running command."""
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            code = self.process.wait(DEADLINE)
            assert code in (0, 130, -signal.SIGINT), f"{self.name}: Ctrl-C ended it with {code}\n{self.out}"
            self.process = None
        self.finish()

    def kill(self) -> None:
        """Kill what a failed test left running."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def shows(self, block: Block) -> None:
        """Wait for the commands to exit; their whole output must match the page."""
        self.finish()
        text = self.reader.restore(self.unseen)
        pattern = _pattern(self.reader.fill(block.code))
        assert re.fullmatch(pattern, _trimmed(text)), f"{block.place}: actual output:\n{text}"
        self._seen = len(self.out)

    def will_show(self, block: Block) -> None:
        """Wait for the output shown on the page; other lines may precede and follow it."""
        pattern = re.compile(r"(?:^|(?<=\n))" + _pattern(self.reader.fill(block.code)))
        deadline = time.monotonic() + DEADLINE
        while True:
            over = self.process is None or self.process.poll() is not None
            if pattern.search(_trimmed(self.reader.restore(self.unseen))):
                break
            assert not over, f"{block.place}: ended after printing\n{self.unseen}"
            assert time.monotonic() < deadline, f"{block.place}: actual output:\n{self.unseen}"
            time.sleep(0.05)
        self._seen = len(self.out)

    def wait_for(self, mark: Mark) -> None:
        deadline = time.monotonic() + DEADLINE
        while mark.rest not in self.reader.restore(self.unseen):
            assert self.process is not None and self.process.poll() is None, f"it ended:\n{self.out}"
            assert time.monotonic() < deadline, f"{self.reader.place(mark)}: not in\n{self.out}"
            time.sleep(0.05)


class Reader:
    """Follows a page in an empty folder."""

    def __init__(self, page: MarkdownPage, folder: Path, environment: Mapping[str, str]) -> None:
        self.page = page
        self.folder, self.home = folder / "work", folder / "home"
        self.folder.mkdir()
        (self.home / "bin").mkdir(parents=True)
        pip = self.home / "bin" / "pip"
        pip.write_text(_PIP.format(python=sys.executable))
        pip.chmod(0o755)
        self._ports = {port: _free_port() for port in PORTS}
        self.environment = {
            **{name: value for name, value in os.environ.items() if name in KEPT or name[:6] != "POLOS_"},
            "PATH": os.pathsep.join(
                [str(self.home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
            "POLOS_PORT": self._ports["8000"],
            "POLOS_PATIENCE_SECONDS": "30",
            "COLUMNS": "120",
            **environment,
        }
        if page.has("own") and "redis" in page.rests("own"):
            self.environment["POLOS_REDIS_URL"] = f"redis://127.0.0.1:{self._ports['6379']}/0"
            self.environment.pop("POLOS_NAMESPACE", None)
        self._words: dict[str, str] = {}
        self._terminals: dict[str, Terminal] = {}

    def place(self, part: Block | Mark | None) -> str:
        return f"{self.page.name}:{part.line if part else '?'}"

    def fill(self, text: str) -> str:
        """Replace words that the page defined with `let`."""
        for word, value in self._words.items():
            text = re.sub(rf"\b{re.escape(word)}\b", value.replace("\\", r"\\"), text)
        return text

    def adapt(self, text: str) -> str:
        """The page's text with defined words and free ports."""
        text = self.fill(text)
        for port, ours in self._ports.items():
            text = re.sub(rf"\b{port}\b", ours, text)
        return text

    def restore(self, text: str) -> str:
        """Output with the page's ports."""
        for port, ours in self._ports.items():
            text = re.sub(rf"\b{ours}\b", port, text)
        return text

    def follow(self) -> None:
        """Follow the page from top to bottom; raises `AssertionError` where it is wrong."""
        try:
            last: Terminal | None = None  # the previous block's terminal, whose output may follow
            for part in self.page.parts:
                if isinstance(part, Mark):
                    self._obey(part, last)
                elif part.skip is not None:
                    last = None
                elif part.is_file:
                    self._write(part.title, part.code)
                elif part.language == "bash":
                    last = self._terminal(part.title)
                    codes = [int(mark.rest) for mark in part.marks if mark.kind == "exits"]
                    last.type(part, *codes)
                    if not part.is_terminal and not self._is_output(part):
                        last.finish()
                elif part.language == "text":
                    terminal = self._terminals[part.title] if part.is_terminal else last
                    assert terminal is not None, f"{part.place}: no command precedes this output"
                    if terminal.name == "Terminal":
                        terminal.shows(part)
                    else:
                        terminal.will_show(part)
            for terminal in reversed(self._terminals.values()):
                terminal.interrupt()
        finally:
            for terminal in self._terminals.values():
                terminal.kill()

    def _is_output(self, block: Block) -> bool:
        """Whether the next block shows this one's output."""
        blocks = self.page.blocks
        after = blocks[blocks.index(block) + 1 :][:1]
        return bool(after) and after[0].language == "text" and not after[0].title and after[0].skip is None

    def _obey(self, mark: Mark, last: Terminal | None) -> None:
        match mark.kind:
            case "bash":
                terminal = self._terminal("Terminal")
                terminal.type(mark)
                terminal.finish()
            case "file":
                self._write(mark.rest, mark.code)
            case "let":
                word, _, pattern = mark.rest.partition(" = ")
                self._words[word] = self._find(mark, pattern)
            case "wait":
                assert last is not None, f"{self.place(mark)}: no terminal precedes it"
                mark = Mark(mark.line, mark.kind, mark.rest.removeprefix("for "))
                last.wait_for(mark)
            case "press":
                asyncio.run(self._press(mark))
            case "ctrl-c":
                self._terminals[mark.rest].interrupt()

    async def _press(self, mark: Mark) -> None:
        """Open a page and press one of its buttons."""
        button, _, rest = mark.rest.partition(" at ")
        address, *fields = self.adapt(rest).split(" ")
        async with visiting(address) as visitor:
            page = await visitor.get(address)
            assert page.status == 200, f"{self.place(mark)}: {page.text}"
            given = dict(one.split("=", 1) for one in fields)
            done = await visitor.send(page, page.form("/approve"), button, **given)
            assert done.status == 200, f"{self.place(mark)}: {done.text}"

    def _find(self, mark: Mark, pattern: str) -> str:
        deadline = time.monotonic() + DEADLINE
        while True:
            printed = "\n".join(terminal.out for terminal in self._terminals.values())
            if found := re.findall(pattern, self.restore(printed)):
                return str(found[-1])
            assert time.monotonic() < deadline, f"{self.place(mark)}: not found in\n{printed}"
            time.sleep(0.05)

    def _terminal(self, title: str) -> Terminal:
        name = title or "Terminal"
        if name not in self._terminals:
            self._terminals[name] = Terminal(self, name)
        return self._terminals[name]

    def _write(self, name: str, code: str) -> None:
        path = self.folder / name
        assert path.resolve().is_relative_to(self.folder.resolve()), name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.adapt(code))


def _free_port() -> str:
    """A free port outside the ephemeral range, so that no outgoing connection takes it before it is used."""
    while True:
        port = secrets.choice(range(20000, 32000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)


def _take_interrupts() -> None:
    """Undo an inherited SIG_IGN: background jobs of a script ignore Ctrl-C, and so would their children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _trimmed(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


# Values that differ between runs match any value of the same shape.
_SHAPES = (
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?: UTC|\+00:00|Z)?",  # a time
    r"\b[0-9a-f]{16,}\b",  # an id, a digest
    r"\b[\d.]+ (?:ms|s)\b",  # a duration
)
_VARYING = re.compile(r"(\.\.\.|" + "|".join(_SHAPES) + ")")


def _pattern(shown: str) -> str:
    """A regular expression for the shown output: `...` matches any text, on its own line any lines."""
    return "".join(
        r"(?:[^\n]*\n)*?"
        if line.strip() == "..."
        else "".join(map(_one, _VARYING.split(line.rstrip()))) + "\n"
        for line in shown.splitlines()
    )


def _one(text: str) -> str:
    if text == "...":
        return r"[^\n]*?"
    return next((shape for shape in _SHAPES if re.fullmatch(shape, text)), re.escape(text))
