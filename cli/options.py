"""Options that several commands share, and the client built from them."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from polos_redis.client import PolosClient
from polos_redis.executions.queries import LIST_LIMIT

from . import completion

T = TypeVar("T")

SERVER_NEEDS = ("fastapi", "jinja2", "python_multipart", "uvicorn")  # installed by the extra `server`
PATIENCE_SECONDS = 3.0  # short: a person is waiting for the command

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        show_default="your user name on this machine",
        help="Your name, for the record.",
    ),
]
_ID = {"metavar": "EXECUTION_ID", "help": "The execution's id, or its beginning if unique."}
ExecutionId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.execution_ids)]
AnswerableId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.answerable_ids)]
UnfinishedId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.unfinished_ids)]
RetryableId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.retryable_ids)]
DeletableId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.deletable_ids)]
StepKey = Annotated[
    str | None,
    typer.Argument(
        metavar="STEP_KEY",
        help="The suspension's step key. Needed only if several are open.",
        autocompletion=completion.open_step_keys,
    ),
]
OfWorkflow = Annotated[
    str | None,
    typer.Option(
        "--workflow",
        metavar="WORKFLOW_ID",
        help="Only those of this workflow.",
        autocompletion=completion.workflow_ids,
    ),
]
Full = Annotated[bool, typer.Option("--full", help="Show long values whole on a terminal, too.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=LIST_LIMIT, help="Maximum number of rows.")]
Cursor = Annotated[
    str | None,
    typer.Option(
        "--cursor", metavar="CURSOR", help="Continue a listing: the cursor that its last page printed."
    ),
]


class Durability(StrEnum):
    server = "server"
    fsync = "fsync"
    replicated = "replicated"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The options --url, --namespace and --patience as one parameter. `commands.add` expands it."""

    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="POLOS_REDIS_URL",
            metavar="URL",
            show_default="redis://127.0.0.1:6379/0",
            help="The URL of Redis; of several servers, with commas between them.",
        ),
    ] = None
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            envvar="POLOS_NAMESPACE",
            metavar="NAME",
            show_default="default",
            help="The namespace to work in.",
        ),
    ] = None
    patience: Annotated[
        float,
        typer.Option(
            "--patience",
            envvar="POLOS_PATIENCE_SECONDS",
            metavar="SECONDS",
            help="How long to retry while Redis is unreachable.",
        ),
    ] = PATIENCE_SECONDS

    def client(self) -> PolosClient:
        return PolosClient(self.url, self.namespace, patience_seconds=self.patience)

    def run(self, call: Callable[[PolosClient], Awaitable[T]]) -> T:
        """Runs `call` with a client and closes the client's connections."""

        async def run() -> T:
            async with self.client() as client:
                return await call(client)

        return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class DurableOptions(ConnectionOptions):
    """The options of `ConnectionOptions`, --durability and --replicas."""

    durability: Annotated[
        Durability | None,
        typer.Option(
            "--durability",
            envvar="POLOS_DURABILITY",
            show_default="server",
            help="Return once the change is fsynced, or replicated; not just executed by the server.",
        ),
    ] = None
    replicas: Annotated[
        int | None,
        typer.Option(
            "--replicas",
            envvar="POLOS_REPLICAS",
            min=1,
            metavar="N",
            show_default="1",
            help="With --durability replicated: by how many replicas.",
        ),
    ] = None

    def client(self) -> PolosClient:
        return PolosClient(
            self.url,
            self.namespace,
            patience_seconds=self.patience,
            durability=None if self.durability is None else self.durability.value,
            replicas=self.replicas,
        )


def person(by: str | None) -> str | None:
    """Returns the name given with --by, else the user name on this machine; None if there is none."""
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None
