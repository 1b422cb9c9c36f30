"""`ctx.step`: all the journaled calls of a workflow."""

from __future__ import annotations

from polos_redis.runtime.steps.agents import Agents
from polos_redis.runtime.steps.first_of import Races
from polos_redis.runtime.steps.heartbeats import Heartbeats
from polos_redis.runtime.steps.publish import Publishing
from polos_redis.runtime.steps.suspend import Suspending
from polos_redis.runtime.steps.waits import Waits


class Step(Races, Agents, Suspending, Waits, Publishing, Heartbeats):
    """The journaled calls of one activation. Each needs a key of its own within the execution."""

    __slots__ = ()
