"""Two installed releases that share a namespace: the workers, clients and commands of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.harness.command import Command, Done, Running

HERE = Path(__file__).parent
FLOWS, CLIENT = "mixed_flows.py", "mixed_client.py"
READY = "ready"


class Refused(Exception):
    """A client's call raised this error of polos-redis."""


class Client:
    """A process that runs mixed_client.py: `client("invoke", "ordering")`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Make a call and return what it returns, as JSON has it; raises `Refused`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([name, arguments, options]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the client has ended in {name}{arguments}"
        reply = json.loads(line)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["value"]

    def status(self, id: str) -> str:
        status: str = self("execution", id)["status"]
        return status


class Release:
    """An installation of polos-redis, in a folder with the files that its processes run."""

    def __init__(self, python: Path, url: str, namespace: str, folder: Path) -> None:
        self._python = python
        for name in (FLOWS, CLIENT):
            shutil.copy(HERE / name, folder)
        self._polos = Command(url, namespace, folder, polos=str(python.with_name("polos")))
        self._polos.environment["POLOS_LEASE_SECONDS"] = "3"
        self._polos.environment.pop("PYTHONPATH", None)

    def polos(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        done: Done = self._polos.run(*arguments, "--json")
        assert done.code == 0, done.err
        return done.json

    def worker(self, *options: str) -> AbstractContextManager[Running]:
        return self._polos.worker(FLOWS, *options)

    @contextmanager
    def client(self) -> Iterator[Client]:
        process = subprocess.Popen(
            [self._python, CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._polos.folder,
            env=self._polos.environment,
            text=True,
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == READY + "\n", "the client has not started"
            yield Client(process)


def this_python() -> Path:
    """The Python that has the release in this working tree."""
    return Path(sys.executable)


def previous_python() -> Path | None:
    """The Python that has the previous release."""
    named = os.environ.get("POLOS_PYTHON_PREVIOUS")
    return Path(named).absolute() if named and Path(named).exists() else None
