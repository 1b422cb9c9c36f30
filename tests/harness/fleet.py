"""Worker processes that a test starts, stops, freezes and kills, and the effects of their steps.

`python -m tests.harness.fleet` is such a worker. It serves the workflows of fleet_workflows.py or of another
module.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.running import until

EFFECTS = "POLOS_TEST_EFFECTS"  # the file that steps append to
_READY = "worker ready"


class WorkerProcess:
    """One worker process; its log is a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @property
    def log(self) -> str:
        """Its log so far."""
        return self._log.read_text()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def resident(self) -> int:
        """Its resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def is_ready(self) -> bool:
        return _READY in self.log

    async def ready(self) -> None:
        await until(lambda: self.is_ready or not self.running, "a worker to be ready")
        assert self.running, f"the worker ended:\n{self.log}"

    async def said(self, text: str) -> None:
        """Wait until its log contains a text."""
        await until(lambda: text in self.log, f"{text!r} in the log of worker {self.pid}")

    async def holds(self) -> tuple[int, int, int]:
        """Slots taken, entries held, activations in memory."""
        before = self.log.count(" holds ")
        self._process.send_signal(signal.SIGUSR1)
        await until(lambda: self.log.count(" holds ") > before, "the worker to log what it holds")
        active, entries, alive = self.log.rpartition(" holds ")[2].split()[:3]
        return int(active), int(entries), int(alive)

    def kill(self) -> None:
        """SIGKILL it, and return once it is gone."""
        self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        """SIGSTOP it: it keeps its connections and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._process.terminate()

    async def ended(self) -> int:
        """Wait until it has exited; returns its exit status."""
        await until(lambda: not self.running, f"worker {self.pid} to end")
        status = self._process.returncode
        assert status is not None
        return status


class Fleet:
    """The worker processes of one test: `with Fleet(url, namespace, tmp_path) as fleet`. None outlives it."""

    def __init__(self, url: str, namespace: str, folder: Path) -> None:
        self.url = url
        self.namespace = namespace
        self.folder = folder
        self.workers: list[WorkerProcess] = []
        self.effects_file = folder / "effects"
        self.effects_file.touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            if worker.running:
                worker.kill()
        if error is not None:
            self.show_logs()

    def show_logs(self) -> None:
        """Print the end of each worker's log, and the effects, to stderr."""
        for worker in self.workers:
            print(f"--- the log of worker {worker.pid}\n{worker.log[-3000:]}", file=sys.stderr)
        print(f"--- the effects\n{self.effects_file.read_text()[-3000:]}", file=sys.stderr)

    def launch(
        self,
        *,
        url: str | None = None,
        knows: str = "",
        defined_in: str = "tests.harness.fleet_workflows",
        **options: Any,
    ) -> WorkerProcess:
        """Start a worker without waiting for it. `knows` names its workflows; all by default."""
        options = {"lease_seconds": 1.0, **options}
        log = self.folder / f"worker-{len(self.workers)}.log"
        command = [sys.executable, "-m", "tests.harness.fleet", defined_in, knows, json.dumps(options)]
        environment = {
            **os.environ,
            "POLOS_REDIS_URL": url or self.url,
            "POLOS_NAMESPACE": self.namespace,
            EFFECTS: str(self.effects_file),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment
            )
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        return worker

    async def start(self, **options: Any) -> WorkerProcess:
        """Start a worker and wait until it is ready."""
        worker = self.launch(**options)
        await worker.ready()
        return worker

    def effects(self, execution_id: str) -> list[tuple[str, int]]:
        """The effects of an execution's steps, in order: name, process id."""
        lines = [line.split() for line in self.effects_file.read_text().splitlines()]
        return [(line[1], int(line[2])) for line in lines if line[0] == execution_id]

    def counts(self) -> dict[str, Counter[str]]:
        """How often each effect of each execution happened."""
        counts: dict[str, Counter[str]] = {}
        for line in self.effects_file.read_text().splitlines():
            execution_id, name, _ = line.split()
            counts.setdefault(execution_id, Counter())[name] += 1
        return counts

    async def seen(self, execution_id: str, name: str, times: int = 1) -> list[int]:
        """Wait until an effect has happened `times` times; returns the process of each."""

        def there() -> list[int]:
            pids = [pid for effect, pid in self.effects(execution_id) if effect == name]
            return pids if len(pids) >= times else []

        found: list[int] = await until(there, f"effect {name} of {execution_id}, {times} times")
        return found

    def open(self, gate: str) -> None:
        """Open the gate that steps wait for."""
        (self.folder / gate).touch()

    def of(self, pid: int) -> WorkerProcess:
        return next(worker for worker in self.workers if worker.pid == pid)


async def _work(defined_in: str, knows: str, options: dict[str, Any]) -> None:
    from polos_redis import PolosClient, Worker
    from polos_redis.definitions.registry import registered
    from polos_redis.runtime.activation import Activation

    module = import_module(defined_in)
    known = registered().values()
    chosen = [workflow for workflow in known if not knows or workflow.id in knows.split(",")]
    async with PolosClient() as client:
        worker = Worker(client, chosen, channels=getattr(module, "CHANNELS", None), **options)

        def tell() -> None:
            gc.collect()
            alive = sum(isinstance(thing, Activation) for thing in gc.get_objects())
            held = 0 if worker.host is None else len(worker.host.deliveries)
            logging.getLogger("tests.harness.fleet").warning(
                "holds %d %d %d", len(worker.active), held, alive
            )

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    asyncio.run(_work(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
