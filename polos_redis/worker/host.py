"""The host of a worker's activations: the active ones, and the methods of runtime's `Host`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from polos_redis import failures, settings, tasks, tracing
from polos_redis.connection.connection import Connection
from polos_redis.links import Links
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.gate import State
from polos_redis.runtime.resources import Resources
from polos_redis.state.store import Store
from polos_redis.threads import DaemonThreads
from polos_redis.values.text import text
from polos_redis.worker.background import Background
from polos_redis.worker.deliveries import Deliveries
from polos_redis.worker.lease import Lease

logger = logging.getLogger("polos.worker")

TICK_SECONDS = 0.02


class WorkerHost:
    """The active activations of a worker. `room` is set when a slot is free, `idle` when all are.
    `abandoned_steps` has what is known of the steps that have timed out and whose threads still run."""

    def __init__(
        self,
        connection: Connection,
        store: Store,
        worker_id: str,
        lease: Lease,
        deliveries: Deliveries,
        background: Background,
        *,
        stats: WorkerStats,
        concurrency: int,
        max_journal_records: int,
        audit_ms: int,
        channel_names: Sequence[str],
        links: Links | None,
    ) -> None:
        self.connection = connection
        self.store = store
        self.worker_id = worker_id
        self.stats = stats
        self.value_limit = connection.max_value_bytes
        self.max_journal_records = max_journal_records
        self.audit_ms = audit_ms
        self.channel_names = channel_names
        self.links = links
        self.resources = Resources()
        self.draining = False
        self.stuck_seconds = settings.STUCK_SECONDS
        self.abandoned_steps: dict[asyncio.Future[Any], Mapping[str, Any]] = {}
        self.recorded_values: dict[tuple[str, str], Any] | None = None
        self.tracer = tracing.configured_tracer()
        self.active: set[Activation] = set()
        self.room, self.idle = asyncio.Event(), asyncio.Event()
        self.lease = lease
        self.lease_is_held = lease.is_held  # asked at every step
        self.deliveries = deliveries
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._threads = DaemonThreads(concurrency, "polos-step")
        self._concurrency = concurrency
        self._ticking = False

    def add(self, activation: Activation) -> None:
        """Add an activation that has just been created."""
        self.stats.activations[activation.workflow.id] += 1
        if activation.run > 1:
            for other in self.active:
                if other.id == activation.id and other.run == activation.run - 1:
                    other.next_run_begins()
        self.active.add(activation)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_SECONDS, self.tick)

    def tick(self) -> None:
        """Let activations emit the starts of long-running steps; repeats while any are active."""
        now = self._loop.time()
        for activation in list(self.active):
            activation.tick(now)
        self._ticking = bool(self.active)
        if self._ticking:
            self._loop.call_later(TICK_SECONDS, self.tick)

    # --- runtime's Host -----------------------------------------------------------------

    def lapses(self, prefix: bytes) -> int:
        return self.lease.lapses[prefix]

    async def wait_for_lease(self, prefix: bytes) -> None:
        await self.lease.wait_until_fresh(prefix)

    def in_thread(self, step: tasks.Owner, function: Callable[[], Any]) -> asyncio.Future[Any]:
        run = tasks.step_context(step).run
        return self._loop.run_in_executor(self._threads, run, _call_in_thread, function)

    @property
    def abandoned(self) -> int:
        """The number of threads whose steps have timed out, and which still run."""
        return len(self.abandoned_steps)

    def abandon(self, thread: asyncio.Future[Any], facts: Mapping[str, Any]) -> None:
        self.abandoned_steps[thread] = facts
        self._threads.allow_more(1)
        thread.add_done_callback(self._abandoned_ended, context=tasks.OUTSIDE)
        if self.abandoned == self._concurrency:
            logger.error(
                "reading stops: as many threads are abandoned as executions may run; find what blocks them "
                "and restart this worker",
                extra={"worker": self.worker_id, "abandoned": self.abandoned},
            )

    def _abandoned_ended(self, thread: asyncio.Future[Any]) -> None:
        if self.abandoned == self._concurrency:
            logger.warning("reading goes on: an abandoned thread has ended", extra={"worker": self.worker_id})
        del self.abandoned_steps[thread]
        self._threads.allow_more(-1)
        self.room.set()

    @property
    def free_slots(self) -> int:
        """How many more executions may run here; none while too many threads are abandoned."""
        return 0 if self.abandoned >= self._concurrency else self._concurrency - len(self.active)

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._background.spawn(coro)

    def released(self, activation: Activation) -> None:
        """Free the slot of an activation that has ended."""
        self.active.discard(activation)
        self.deliveries.release(activation)
        self.room.set()
        if not self.active:
            self.idle.set()

    def hand_back(self, activation: Activation, *, pause: bool = False, reason: str = "") -> None:
        self.deliveries.hand_back(activation, pause=pause, reason=reason)

    # --- notices ------------------------------------------------------------------------

    def notify(self, notice: Sequence[Any]) -> None:
        """Pass a notice of a script on to the activation it concerns."""
        execution_id = notice[1].decode()
        # more than one if this worker has lost an execution and been given it again
        for activation in [one for one in self.active if one.id == execution_id]:
            if notice[0] == b"wake":
                activation.notify(text(notice[2]), *notice[3:])
            elif notice[0] == b"cancelled" and notice[2] == activation.fence.entry:
                logger.info("cancelled", extra=activation.code.facts)
                activation.end("cancelled")

    def verify_all(self) -> None:
        """Compare every running activation with Redis after the reply channel was lost: it may have missed
        the notice of an answer or a cancel."""
        for activation in self.active:
            if activation.started and activation.state is State.RUNNING:
                self.spawn(activation.journal.verify())

    def verify_doubtful(self) -> None:
        """Compare with Redis the activations that wait for something, as a notice may be lost, and those that
        began before the lease lapsed: the code of one that was taken over ends now, and not at its next call
        of ctx."""
        for activation in self.active:
            if activation.state is State.RUNNING and activation.started:
                journal = activation.journal
                if activation.is_waiting or journal.lapses != self.lapses(journal.fence.prefix):
                    self.spawn(journal.verify())

    async def verify_regularly(self) -> None:
        """Verify the doubtful activations three times per lease."""
        while True:
            await asyncio.sleep(self.lease.seconds / 3)
            self.verify_doubtful()

    # --- the end ------------------------------------------------------------------------

    def drain(self) -> None:
        """Start nothing more."""
        self.draining = True
        self.room.set()

    def return_waiting(self) -> None:
        """Hand back activations that only wait: any other worker can wait as well."""
        for activation in list(self.active):
            if activation.in_flight == 0 and activation.is_waiting and activation.state is State.RUNNING:
                self._return(activation)

    def return_all(self) -> None:
        """Hand back every activation that is still active."""
        for activation in list(self.active):
            logger.warning("handed back", extra=activation.code.facts)
            self._return(activation)

    def _return(self, activation: Activation) -> None:
        self.hand_back(activation)
        activation.end("handed back")

    async def close(self) -> None:
        """Close the shared resources and start nothing more in a thread."""
        with contextlib.suppress(
            Exception
        ):  # from closing a client of another service, which ends in any case
            await self.resources.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call_in_thread(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except StopIteration as error:  # a future can't carry it
        raise RuntimeError(f"the step's function raised {failures.repr_of(error)}") from error
    except GeneratorExit as error:  # it would look as if the caller's coroutine were being closed
        raise tasks.WorkflowExit(failures.line_of(error)) from error
