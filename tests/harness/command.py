"""The real `polos` command: in its own process, against the test's server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

POLOS = str(Path(sys.executable).with_name("polos"))
DEADLINE = 60.0


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """Its stderr, which must be exactly one line of ours."""
        (only,) = self.err.splitlines()
        assert only.startswith("polos: ")
        assert "Traceback" not in self.err
        assert self.out == ""
        return only


@dataclass
class Running:
    """A process whose output goes to files."""

    process: subprocess.Popen[bytes]
    out_path: Path
    err_path: Path

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text; fails the test if the process exits first."""

        def printed() -> bool:
            over = self.process.poll() is not None
            if text in self.out + self.err:
                return True
            assert not over, f"ended with {self.process.returncode}:\n{self.out}\n{self.err}"
            return False

        wait_until(printed, f"{text!r} was never printed")

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    async def ended(self) -> int:
        """Like `wait`, but lets the test's event loop run."""
        async with asyncio.timeout(DEADLINE):
            while self.process.poll() is None:  # noqa: ASYNC110 - a process has no event
                await asyncio.sleep(0.02)
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def wait_until(condition: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


class Command:
    """`polos` with a server, a namespace and a working directory; `polos` is another installation's."""

    def __init__(self, url: str, namespace: str, folder: Path, *, polos: str = POLOS) -> None:
        self.folder = folder
        self.polos = polos
        self.environment = {
            **os.environ,
            "POLOS_REDIS_URL": url,
            "POLOS_NAMESPACE": namespace,
            "POLOS_PATIENCE_SECONDS": "20",  # the machine may be busy
            "PYTHONUNBUFFERED": "1",
        }
        self._count = 0

    def run(self, *args: str, input: bytes = b"") -> Done:
        done = subprocess.run(
            [self.polos, *args],
            input=input,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
            cwd=self.folder,
            env=self.environment,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def here(self, *args: str, input: bytes = b"") -> Done:
        """Like `run`, through the entry point but in this process: quicker, for errors reported before Redis
        is called."""
        (entry,) = entry_points(group="console_scripts", name="polos")
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr("sys.argv", ["polos", *args])
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(input)))
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as left:
                entry.load()()
        code = left.value.code
        return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())

    async def __call__(self, *args: str, input: bytes = b"") -> Done:
        process = await asyncio.create_subprocess_exec(
            self.polos,
            *args,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=self.environment,
        )
        out, err = await asyncio.wait_for(process.communicate(input), DEADLINE)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    @contextmanager
    def start(self, *command: str) -> Iterator[Running]:
        """Run a program until the block ends."""
        self._count += 1
        out, err = self.folder / f"{self._count}.out", self.folder / f"{self._count}.err"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                cwd=self.folder,
                env=self.environment,
            )
        try:
            yield Running(process, out, err)
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def worker(self, *args: str) -> Iterator[Running]:
        """A ready worker; the end of the block stops it as an operator would, and it must exit cleanly."""
        with self.start(self.polos, "worker", *args) as worker:
            worker.wait_for("worker ready")
            yield worker
            if worker.process.poll() is None:
                worker.signal(signal.SIGTERM)
                assert worker.wait() == 0, worker.err
