"""The client without asyncio: start executions, wait for them, answer their suspensions, and query them."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from polos_redis.client import PolosClient as AsyncClient
from polos_redis.connection.session import Session
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.executions.starting import InvokeOptions
from polos_redis.sync import event_loop
from polos_redis.sync.calls import AsyncCalls, blocking
from polos_redis.sync.handle import ExecutionHandle
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.durable import Durability

Out = TypeVar("Out")


class PolosClient(AsyncCalls):
    """A client of one namespace on one Redis, for programs without asyncio: Flask, Django, scripts.

    It has the options, the methods and the errors of `polos_redis.PolosClient`; its methods return their
    results instead of awaitables. One client serves a whole process: threads share it and its connection.

    It connects on first use and need not be closed. A forked child uses the same client over a connection of
    its own. Calls run on an event loop in a background thread, one per process. In a thread that runs an
    event loop itself they raise `InsideEventLoopError`. Ctrl-C ends a call that waits.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        namespace: str | None = None,
        *,
        partitions: int | None = None,
        retention_seconds: float | None = None,
        max_value_bytes: int | None = None,
        patience_seconds: float | None = None,
        durability: Durability | None = None,
        replicas: int | None = None,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        client = AsyncClient(
            url,
            namespace,
            partitions=partitions,
            retention_seconds=retention_seconds,
            max_value_bytes=max_value_bytes,
            patience_seconds=patience_seconds,
            durability=durability,
            replicas=replicas,
            credential_provider=credential_provider,
        )
        super().__init__(client)
        # Handles and streams may outlive this object, so its connections live as long as what they all use.
        weakref.finalize(client, _close_dropped, client._sessions).atexit = False

    @property
    def url(self) -> str:
        """The URL of Redis; of several servers, with commas between them."""
        return self._client.url

    @property
    def namespace(self) -> str:
        """The namespace."""
        return self._client.namespace

    # --- starting -----------------------------------------------------------------------

    @overload
    def invoke(
        self, workflow: WorkflowDefinition[Any, Out], input: Any = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Out]: ...
    @overload
    def invoke(
        self, workflow: str, input: Any = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Any]: ...
    def invoke(
        self,
        workflow: WorkflowDefinition[Any, Any] | str,
        input: Any = None,
        **options: Unpack[InvokeOptions],
    ) -> ExecutionHandle[Any]:
        """Start an execution of a workflow and return its handle, as soon as the execution is stored.

        Options and errors are those of `polos_redis.PolosClient.invoke`.
        """
        return ExecutionHandle(event_loop.run(lambda: self._client.invoke(workflow, input, **options)))

    def get_handle(self, execution_id: str) -> ExecutionHandle[Any]:
        """Return a handle to any execution, without a call to Redis. Its `load` checks that it exists."""
        return ExecutionHandle(self._client.get_handle(execution_id))

    def fork(
        self,
        execution_id: str,
        *,
        from_step: str,
        results: Mapping[str, Any] | None = None,
        keep_decisions: bool = False,
        by: str | None = None,
        durability: Durability | None = None,
    ) -> ExecutionHandle[Any]:
        """Start a new execution with the journal of another one up to a step; return its handle.

        Options and errors are those of `polos_redis.PolosClient.fork`.
        """
        return ExecutionHandle(
            event_loop.run(
                lambda: self._client.fork(
                    execution_id,
                    from_step=from_step,
                    results=results,
                    keep_decisions=keep_decisions,
                    by=by,
                    durability=durability,
                )
            )
        )

    # --- the other methods of the asynchronous client -----------------------------------

    resume = blocking(AsyncClient.resume)
    cancel = blocking(AsyncClient.cancel)
    retry = blocking(AsyncClient.retry)
    get_execution = blocking(AsyncClient.get_execution)
    list_executions = blocking(AsyncClient.list_executions)
    list_suspensions = blocking(AsyncClient.list_suspensions)
    get_suspension = blocking(AsyncClient.get_suspension)
    audit = blocking(AsyncClient.audit)
    get_history = blocking(AsyncClient.get_history)
    delete = blocking(AsyncClient.delete)
    served_workflows = blocking(AsyncClient.served_workflows)
    served_queues = blocking(AsyncClient.served_queues)
    versions = blocking(AsyncClient.versions)

    # --- closing ------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections; calls that still wait raise `RedisUnavailableError`. The client may be used
        again afterwards."""
        if event_loop.current() is not None:
            event_loop.run(self._client.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PolosClient of namespace {self.namespace}>"


def _close_dropped(sessions: dict[asyncio.AbstractEventLoop, Session]) -> None:
    """Closes the connections of an asynchronous client that is no more."""
    loop = event_loop.current()
    session = None if loop is None else sessions.get(loop)
    if loop is not None and session is not None:
        event_loop.in_background(loop, session.close)
