"""`ctx.step`: all the journaled calls of a workflow."""

from __future__ import annotations

from polos_redis.steps.agents import Agents
from polos_redis.steps.race import Races
from polos_redis.steps.suspend import Suspensions
from polos_redis.steps.waits import Waits


class Step(Races, Agents, Suspensions, Waits):
    """The journaled calls of one activation. Each needs a key of its own within the execution."""

    __slots__ = ()
