"""`polos worker`: import the user's workflows and work on them until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from enum import StrEnum
from typing import Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.errors import PolosError

from .options import PATIENCE_SECONDS, Namespace, Patience, Url, client_of

LEAVE_SECONDS = 2.0  # after a stop: for exit handlers, and for threads that are about to end


class LogFormat(StrEnum):
    text = "text"
    json = "json"


class NoWorkflowError(PolosError):
    """The modules define no workflow."""


def add_to(app: typer.Typer) -> None:
    app.command(short_help="Work on the workflows of modules or files.")(worker)


def worker(
    modules: Annotated[
        list[str], typer.Argument(metavar="MODULE_OR_FILE", help="What defines the workflows.")
    ],
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, envvar="POLOS_CONCURRENCY", show_default="100", help="Activations run at once."),
    ] = None,
    lease_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="POLOS_LEASE_SECONDS",
            show_default="15",
            help="A worker silent for so long is held for dead.",
        ),
    ] = None,
    grace_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="POLOS_GRACE_SECONDS",
            show_default="25",
            help="How long running steps may go on after SIGTERM.",
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
            show_default="those of the workflows, and default",
            help="Queues to read, and no others.",
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
            help="Show metrics for Prometheus at this port.",
        ),
    ] = None,
    metrics_host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="POLOS_METRICS_HOST",
            show_default="127.0.0.1",
            help="The address for that.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="POLOS_LOG_FORMAT", help="Shape of the log on standard error.")
    ] = LogFormat.text,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Annotated[bool, typer.Option("--json", help="The same as --log-format json.")] = False,
) -> None:
    """Work on the workflows of some modules or files until told to stop.

    A file is imported under its own name, as `python FILE` has it. On SIGTERM or Ctrl-C it takes on nothing
    new, lets running steps finish, gives the rest back and leaves with exit code 0; a second signal stops
    it at once.

    \b
    Examples:
      polos worker charge.py
      polos worker shop.workflows billing.workflows --concurrency 20
      polos worker shop.workflows --queues emails,reports
      polos worker shop.workflows --metrics-port 9464
      polos worker charge.py --url redis://10.0.0.5:6379/0 --log-format json
    """
    from polos_redis.definitions.definition import registered

    from . import modules as user_modules

    log_to_stderr(LogFormat.json if json else log_format)
    for module in modules:
        user_modules.load(module)
    if not registered():
        raise NoWorkflowError(
            f"{', '.join(modules)}: no workflow is defined there: decorate an async function with @workflow"
        )
    options = {
        "concurrency": concurrency,
        "lease_seconds": lease_seconds,
        "grace_seconds": grace_seconds,
        "max_deliveries": max_deliveries,
        "queues": queues,
        "metrics_port": metrics_port,
        "metrics_host": metrics_host,
    }
    asyncio.run(_work(client_of(url, namespace, patience), options))


async def _work(client: PolosClient, options: dict[str, Any]) -> None:
    from polos_redis.worker import Worker

    worker = Worker(client, **options)
    code = 1
    try:
        async with client:
            await worker.run()
        code = 0
    finally:
        _leave_soon(code)


def _leave_soon(code: int) -> None:
    """A step's thread can't be ended, and a task may refuse to: what still runs then does not keep us."""

    def leave() -> None:
        logging.getLogger("polos.worker").warning("left although something of the user's code still ran")
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(LEAVE_SECONDS, leave)
    timer.daemon = True
    timer.start()


def log_to_stderr(format: LogFormat) -> None:
    """Have this process's log on standard error, in this shape."""
    from polos_redis.logs import JsonFormatter, KeyValueFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format is LogFormat.json else KeyValueFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
