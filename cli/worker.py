"""`polos worker`: import workflows and run them until a signal stops the worker."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.errors import PolosError

from . import commands
from .exit_codes import BLOCKED, exit_code
from .log_format import JsonLogs, LogFormat, LogFormatOption, LogLevel, LogLevelOption, log_to_stderr
from .options import ConnectionOptions

if TYPE_CHECKING:
    from polos_redis.worker import Worker

EXIT_SECONDS = 2.0  # after a stop: time for exit handlers and for threads about to end
FLUSH_SECONDS = 1.0  # for the last line of the log, whose reader may be what blocks


class NoWorkflowError(PolosError):
    """The modules define no workflow."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = modules
        super().__init__(modules)

    def __str__(self) -> str:
        return f"no workflow defined in {', '.join(self.modules)}: decorate an async function with @workflow"


def add_to(app: typer.Typer) -> None:
    commands.add(app, worker, "Run the workflows of modules or files.")


def worker(
    modules: Annotated[
        list[str], typer.Argument(metavar="MODULE_OR_FILE", help="Modules or files that define workflows.")
    ],
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="POLOS_CONCURRENCY",
            show_default="100",
            help="Maximum number of concurrent activations.",
        ),
    ] = None,
    lease_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="POLOS_LEASE_SECONDS",
            show_default="15",
            help="A worker silent this long is presumed dead.",
        ),
    ] = None,
    max_blocked_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="POLOS_MAX_BLOCKED_SECONDS",
            show_default="300",
            help="Exit once code has blocked the event loop this long.",
        ),
    ] = None,
    grace_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="POLOS_GRACE_SECONDS",
            show_default="25",
            help="How long running steps may continue after SIGTERM.",
        ),
    ] = None,
    max_deliveries: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="POLOS_MAX_DELIVERIES",
            show_default="5",
            help="Workers an execution may lose in a row before it fails.",
        ),
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME...",
            envvar="POLOS_QUEUES",
            show_default="the workflows' queues and default",
            help="Read only these queues.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            envvar="POLOS_METRICS_PORT",
            show_default="none",
            help="Serve Prometheus metrics on this port.",
        ),
    ] = None,
    metrics_host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="POLOS_METRICS_HOST",
            show_default="127.0.0.1",
            help="The address to serve metrics on.",
        ),
    ] = None,
    log_format: LogFormatOption = LogFormat.text,
    log_level: LogLevelOption = LogLevel.info,
    *,
    connection: ConnectionOptions,
    json: JsonLogs = False,
) -> None:
    """Run the workflows of modules or files until SIGTERM or Ctrl-C.

    A file is imported as the module of its name, with its folder on the import path; a file of a package as
    that package's module. On SIGTERM or Ctrl-C the worker takes no new work, lets running steps finish,
    returns the rest to the queue and exits with code 0; a second signal stops it at once. Without Redis it
    waits, also at its start. When code blocks the event loop for too long, it logs where and exits with code
    70; other workers continue its executions. When the namespace is upgraded so that this release can't read
    it, the worker stops as on SIGTERM and exits with code 78.

    \b
    Examples:
      polos worker charge.py
      polos worker shop.workflows billing.workflows --concurrency 20
      polos worker shop.workflows --queues emails,reports
      polos worker shop.workflows --metrics-port 9464
      polos worker charge.py --url redis://10.0.0.5:6379/0 --log-format json
    """
    from polos_redis.definitions.registry import registered

    from . import event_loop
    from . import modules as user_modules

    log_to_stderr(LogFormat.json if json else log_format, log_level)
    for module in modules:
        user_modules.load(module)
    if not registered():
        raise NoWorkflowError(modules)
    options = {
        "concurrency": concurrency,
        "lease_seconds": lease_seconds,
        "max_blocked_seconds": max_blocked_seconds,
        "grace_seconds": grace_seconds,
        "max_deliveries": max_deliveries,
        "queues": queues,
        "metrics_port": metrics_port,
        "metrics_host": metrics_host,
    }
    event_loop.run(_work(connection.client(), options))


async def _work(client: PolosClient, options: dict[str, Any]) -> None:
    from polos_redis.worker import Worker

    worker = Worker(
        client, on_blocked=lambda: exit_soon(BLOCKED, "exiting: the event loop is blocked"), **options
    )
    code = 1
    settled = asyncio.create_task(_settle(worker))
    try:
        async with client:
            await worker.run()
        code = 0
    except PolosError as error:
        code = exit_code(error)
        raise
    finally:
        settled.cancel()
        exit_soon(code)


async def _settle(worker: Worker) -> None:
    from polos_redis.worker import collector

    await worker.ready.wait()
    collector.settle()


def exit_soon(
    code: int, why: str = "exiting while user code is still running", seconds: float = EXIT_SECONDS
) -> None:
    """Exits soon even if user code still runs: threads can't be stopped, tasks may ignore cancellation."""

    def say() -> None:
        logging.getLogger("polos.worker").warning(why)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()

    def exit_now() -> None:
        last_words = threading.Thread(target=say, daemon=True)
        last_words.start()
        last_words.join(FLUSH_SECONDS)
        os._exit(code)

    timer = threading.Timer(seconds, exit_now)
    timer.daemon = True
    timer.start()
