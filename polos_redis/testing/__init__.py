"""Tests of workflows: a world with a server, a worker and a client, scripted models, and replays."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polos_redis.testing.every_step import replay_at_every_step
    from polos_redis.testing.histories import replay
    from polos_redis.testing.model import Call, Fail, Hang, ModelRequest, Say, ScriptedModel, When
    from polos_redis.testing.suspension import OpenSuspension
    from polos_redis.testing.worlds import World, world

__all__ = [
    "Call",
    "Fail",
    "Hang",
    "ModelRequest",
    "OpenSuspension",
    "Say",
    "ScriptedModel",
    "When",
    "World",
    "replay",
    "replay_at_every_step",
    "world",
]

_MODULES = {  # of all others: model
    "OpenSuspension": "suspension",
    "World": "worlds",
    "replay": "histories",
    "replay_at_every_step": "every_step",
    "world": "worlds",
}


def __getattr__(name: str) -> object:
    """Import on first use: pytest loads the plugin of this package in every run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'model')}")
    globals()[name] = found = getattr(module, name)
    return found
