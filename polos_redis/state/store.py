"""The store: the state of one namespace, one attribute per noun.

Only the modules of this package change state in Redis, with one typed method per script. The methods of
`FencedWrites` return the wire's future and leave a lost connection to the activation. All other methods are
safe to repeat, and are repeated while Redis is away, until the patience ends.
"""

from __future__ import annotations

from polos_redis.state.api_keys import ApiKeys
from polos_redis.state.clock import Clock
from polos_redis.state.definitions import Definitions
from polos_redis.state.errands import Errands
from polos_redis.state.executions import Executions
from polos_redis.state.fencing import FencedWrites
from polos_redis.state.login_sessions import LoginSessions
from polos_redis.state.outbox import Outboxes
from polos_redis.state.partitions import Acknowledging, Partitions
from polos_redis.state.queues import Queues
from polos_redis.state.rates import Rates
from polos_redis.state.repairs import Repairs
from polos_redis.state.schedules import Schedules
from polos_redis.state.semaphores import Semaphores
from polos_redis.state.statuses import Statuses
from polos_redis.state.suspensions import Suspensions
from polos_redis.state.timers import Timers
from polos_redis.state.topics import Topics
from polos_redis.state.versions import Versions
from polos_redis.state.workers import Workers
from polos_redis.wire.routing import AnyWire


class Store:
    """The state of one namespace, reached over one wire.

    `acknowledging` sends the scripts whose outcome a caller acts on: those that start, answer, cancel, retry
    and delete executions, and publish events. By default that is the wire, too.
    """

    def __init__(
        self,
        wire: AnyWire,
        namespace: str,
        partitions: int,
        patience: float | None = 30.0,
        acknowledging: Acknowledging | None = None,
    ) -> None:
        self.wire = wire
        self.partitions = Partitions(wire, namespace, partitions, patience, acknowledging)
        self.prefixes = self.partitions.prefixes
        self.clock = Clock(self.partitions)
        self.api_keys = ApiKeys(self.partitions, self.clock)
        self.definitions = Definitions(self.partitions)
        self.errands = Errands(self.partitions, self.clock)
        self.executions = Executions(self.partitions)
        self.fenced = FencedWrites(self.partitions)
        self.login_sessions = LoginSessions(self.partitions)
        self.outbox = Outboxes(self.partitions)
        self.queues = Queues(self.partitions)
        self.rates = Rates(self.partitions)
        self.repairs = Repairs(self.partitions)
        self.schedules = Schedules(self.partitions)
        self.semaphores = Semaphores(self.partitions)
        self.statuses = Statuses(self.partitions)
        self.suspensions = Suspensions(self.partitions)
        self.timers = Timers(self.partitions)
        self.topics = Topics(self.partitions)
        self.versions = Versions(self.partitions)
        self.workers = Workers(self.partitions)
