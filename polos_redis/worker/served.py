"""The workflows that a worker serves, by id, also those that are defined while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from polos_redis.definitions import registry
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import ConfigurationError

logger = logging.getLogger("polos.worker")

Chosen: TypeAlias = (
    Iterable[WorkflowDefinition[Any, Any]] | Callable[[WorkflowDefinition[Any, Any]], bool] | None
)


class Served:
    """The workflows of one worker. `chosen` is None for all that this process defines, now and later, or a
    function that chooses among these.

    Raises `ConfigurationError` if there are none, unless a function may choose some later, or for one that
    can't be resolved.
    """

    def __init__(self, chosen: Chosen) -> None:
        self._later = chosen is None or callable(chosen)
        self._accepts = chosen if callable(chosen) else _accept_all
        if chosen is None or callable(chosen):
            chosen = filter(self._accepts, registry.registered().values())
        self.by_id = resolved(chosen, may_be_none=self._accepts is not _accept_all)

    def watch(self, added: Callable[[list[WorkflowDefinition[Any, Any]]], None]) -> Callable[[], None]:
        """Serve also what is defined from now on, or defined again, as in a notebook's next cell; `added` is
        called with it, in the running loop. Returns a function that ends this."""
        if not self._later:
            return lambda: None
        loop = asyncio.get_running_loop()

        def take_in(definition: WorkflowDefinition[Any, Any]) -> None:
            if not self._accepts(definition):
                return
            new = [one for name, one in _with_needed([definition]).items() if one is not self.by_id.get(name)]
            new = [one for one in new if one is definition or _name(one) not in self.by_id]
            for one in new:
                self.by_id[_name(one)] = one
                try:
                    one.resolve()
                except ConfigurationError as error:  # its executions fail with it
                    facts = {"workflow": one.id, "error": str(error)}
                    logger.error("a workflow defined later can't be resolved", extra=facts)
            if new:
                added(new)

        def notice(definition: WorkflowDefinition[Any, Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the worker's loop was closed
                loop.call_soon_threadsafe(take_in, definition)

        ends = registry.watch(notice)
        for definition in registry.registered().values():  # defined while the worker started
            take_in(definition)
        return ends


def _accept_all(definition: WorkflowDefinition[Any, Any]) -> bool:
    return True


def resolved(
    chosen: Iterable[WorkflowDefinition[Any, Any]], *, may_be_none: bool = False
) -> dict[bytes, WorkflowDefinition[Any, Any]]:
    """Returns workflows and those they need, resolved, by id. Raises `ConfigurationError` for none, unless
    there `may_be_none`.

    A chosen workflow comes before one that is needed: a tool may have been redefined after its agent.
    """
    workflows = _with_needed(chosen)
    if not workflows and not may_be_none:
        raise ConfigurationError("no workflows to run: import the modules that define them first")
    for workflow in workflows.values():
        workflow.resolve()
    return workflows


def _with_needed(chosen: Iterable[WorkflowDefinition[Any, Any]]) -> dict[bytes, WorkflowDefinition[Any, Any]]:
    workflows: dict[bytes, WorkflowDefinition[Any, Any]] = {}
    left = list(chosen)
    while left:
        one = left.pop(0)
        if _name(one) not in workflows:
            workflows[_name(one)] = one
            left += one.needed
    return workflows


def _name(workflow: WorkflowDefinition[Any, Any]) -> bytes:
    return workflow.id.encode("utf-8", "surrogatepass")
