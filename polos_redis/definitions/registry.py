"""The registry: the workflows that this process has defined, by id.

An id belongs to one function. Running the same definition again replaces it: a module may be imported twice
(also as `__main__`) or reloaded after an edit, and a notebook cell or a REPL input may be run again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import ConfigurationError
from polos_redis.values.type_names import module_name

W = TypeVar("W", bound=WorkflowDefinition[Any, Any])


@dataclass(frozen=True, slots=True)
class DefinitionSite:
    """Where a workflow is defined. `qualname` names the function, or the code that creates an agent.

    `execution` identifies one run of the surrounding source: the code object of a module, a cell or a REPL
    input. A definition outside of these, in a function that is called later, has the module's spec, which a
    reload replaces.
    """

    module: str
    qualname: str
    file: str
    line: int
    execution: object

    @classmethod
    def of_function(cls, function: Callable[..., Any], frame: FrameType | None) -> DefinitionSite:
        """The site of a decorated function; `frame` is the decorator's."""
        function = inspect.unwrap(function)
        code, facts = function.__code__, function.__globals__
        return cls(
            module_name(function.__module__),
            function.__qualname__,
            code.co_filename,
            code.co_firstlineno,
            _execution(facts, frame),
        )

    @classmethod
    def of_call(cls, frame: FrameType) -> DefinitionSite:
        """The site of an object that the code of `frame` creates."""
        code, facts = frame.f_code, frame.f_globals
        inside = code.co_flags & inspect.CO_OPTIMIZED
        return cls(
            module_name(facts.get("__name__", "__main__")),
            code.co_qualname if inside else "",
            code.co_filename,
            frame.f_lineno,
            _execution(facts, frame),
        )

    def repeats(self, other: DefinitionSite) -> bool:
        """Whether this is the definition at `other` again, perhaps edited, and not a second one beside it."""
        if (self.file, self.line) == (other.file, other.line):
            return self.qualname.rpartition(".")[2] == other.qualname.rpartition(".")[2]
        same_name = (self.module, self.qualname) == (other.module, other.qualname)
        return same_name and self.execution is not other.execution


def _execution(facts: dict[str, Any], frame: FrameType | None) -> object:
    while frame is not None:
        if frame.f_globals is facts and not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            return frame.f_code
        frame = frame.f_back
    return facts.get("__spec__")


_registry: dict[str, WorkflowDefinition[Any, Any]] = {}
_sites: dict[str, DefinitionSite] = {}
_watchers: list[Callable[[WorkflowDefinition[Any, Any]], Any]] = []


def register(definition: W, site: DefinitionSite) -> W:
    """Register a workflow by its id and return it. Raises `ConfigurationError` if another one has the id."""
    known = _sites.get(definition.id) if definition.id in _registry else None
    if known is not None and not site.repeats(known):
        raise ConfigurationError(
            f"workflow id {definition.id!r} is already used at {known.file}:{known.line}: give the one at "
            f"{site.file}:{site.line} another id"
        )
    _registry[definition.id], _sites[definition.id] = definition, site
    for watcher in tuple(_watchers):
        watcher(definition)
    return definition


def watch(watcher: Callable[[WorkflowDefinition[Any, Any]], Any]) -> Callable[[], None]:
    """Call `watcher` with each definition that is registered from now on, in the thread that does it.
    Returns a function that ends this."""
    _watchers.append(watcher)
    return lambda: _watchers.remove(watcher)


def registered() -> dict[str, WorkflowDefinition[Any, Any]]:
    """Returns the workflows this process has defined, by id."""
    return dict(_registry)


def module_of(definition: WorkflowDefinition[Any, Any]) -> str:
    """Returns the name of the module that defines a registered workflow."""
    return _sites[definition.id].module
