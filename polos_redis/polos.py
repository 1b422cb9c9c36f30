"""A client and a worker in one process, for scripts, notebooks and tests."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from polos_redis.client import PolosClient
from polos_redis.worker.worker_task import WorkerTask
from polos_redis.workflow import Workflow


class Polos(PolosClient):
    """A client that runs a worker in the background: `async with Polos() as polos: ...`.

    X
      - `embedded=True`: start a private server (extra `embedded`) and stop it at the end. Its data is in
        `data_dir`, or in a temporary folder.
      - `log_file`: a file for the worker's log.
      - `worker_options`: options of `Worker`. All other options are those of `PolosClient`.
    """

    def __init__(
        self,
        log_file: str | Path | None = None,
        embedded: bool = False,
        *,
        workflows: Iterable[Workflow[Any, Any]] | None = None,
        data_dir: str | Path | None = None,
        worker_options: dict[str, Any] | None = None,
        **client_options: Any,
    ) -> None:
        super().__init__(**client_options)
        self._log_file = log_file
        self._embedded = embedded
        self._data_dir = data_dir
        self._workflows = workflows
        self._worker_options = worker_options or {}
        self._stack: contextlib.AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            if self._log_file is not None:
                stack.callback(_log_to(self._log_file))
            if self._embedded:
                from polos_redis.embedded.server import EmbeddedServer

                server = await stack.enter_async_context(EmbeddedServer(self._data_dir))
                self.url = server.url
            stack.push_async_callback(self.aclose)
            worker = WorkerTask(self, self._workflows, **self._worker_options)
            stack.push_async_callback(worker.stop)
            await worker.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            await self._stack.aclose()
            self._stack = None


def _log_to(path: str | Path) -> Any:
    """Write the `polos` log to a file as well; return a function that undoes it."""
    from polos_redis.logs import KeyValueFormatter

    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(KeyValueFormatter())
    logger = logging.getLogger("polos")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))

    def stop() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()

    return stop
