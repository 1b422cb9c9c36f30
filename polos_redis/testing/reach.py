"""The modules whose workflows a test module reaches: its own, those it imports from, and so on."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from polos_redis.definitions import registry
from polos_redis.definitions.definition import WorkflowDefinition


def reached_from(module: ModuleType) -> set[str]:
    """Returns the names of the modules with workflows that a module reaches, itself included."""
    defining = {registry.module_of(one) for one in registry.registered().values()}
    reached: set[str] = set()
    left = [module]
    while left:
        one = left.pop()
        if one.__name__ in reached:
            continue
        reached.add(one.__name__)
        for value in list(vars(one).values()):
            if isinstance(value, WorkflowDefinition):
                source = sys.modules.get(_defined_in(value))
                left += [] if source is None else [source]
            elif isinstance(value, ModuleType) and any(
                name == value.__name__ or name.startswith(value.__name__ + ".") for name in defining
            ):
                left.append(value)
    return reached


def is_reached(definition: WorkflowDefinition[Any, Any], module: ModuleType) -> bool:
    """Whether a module reaches the module that defines a registered workflow."""
    return registry.module_of(definition) in reached_from(module)


def _defined_in(definition: WorkflowDefinition[Any, Any]) -> str:
    known = registry.registered().get(definition.id)
    return registry.module_of(definition) if known is definition else definition.__module__
