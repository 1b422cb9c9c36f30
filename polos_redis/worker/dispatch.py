"""Dispatch: from a delivered entry to a running activation.

The entry of a new execution carries the input, so its first activation reads nothing from Redis; the entry of
a woken execution carries its journal when that is small. Anything else is loaded, and so is a new execution
of a workflow with a version, which is stored by that. One that is to be pinned to its version, or whose
workflow is unknown here, is moved to a reserved stream (`reserved.py`). The input is decoded and validated
here, once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgpack

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import InternalWorkflowError, InvalidInputError, PolosError, UnreadableValueError
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.context import WorkflowContext
from polos_redis.runtime.durable_state import DurableState
from polos_redis.runtime.gate import State
from polos_redis.runtime.hooks import coroutine_of
from polos_redis.state import keys
from polos_redis.state.fencing import Fence
from polos_redis.state.origin import Origin
from polos_redis.values import bounds, codec
from polos_redis.values.text import raw, text
from polos_redis.worker.deliveries import Delivery
from polos_redis.worker.host import WorkerHost
from polos_redis.worker.unknown_workflows import UnknownWorkflows

logger = logging.getLogger("polos.worker")


class Dispatch:
    """Creates and starts the activations of one worker."""

    def __init__(self, host: WorkerHost, workflows: Mapping[bytes, WorkflowDefinition[Any, Any]]) -> None:
        self._host = host
        self._lease = host.lease
        self._deliveries = host.deliveries
        self._workflows = workflows
        self.unknown = UnknownWorkflows()

    def deliver(self, delivery: Delivery, flat: list[bytes] | None, lapses: int) -> None:
        """Start an activation for an entry: [id, .., workflow, .., run, .. (, input, .. (, origin, ..) (,
        journal, ..))]. Entries that can't run here are returned, also those read before the lease lapsed
        (`lapses` is the partition's number before the read)."""
        prefix, queue, entry = delivery
        if not self._deliveries.hold(delivery):
            logger.warning("delivered again", extra={"queue": queue, "entry": text(entry)})
            return
        if not flat or self._host.draining or not self._lease.is_held(prefix, lapses):
            self._deliveries.let_go(delivery)
            return
        try:
            execution_id, name, run = flat[1].decode(), flat[3], int(flat[5])
            more = dict(zip(flat[8::2], flat[9::2], strict=True)) if len(flat) > 8 else {}
            records = msgpack.unpackb(more[b"journal"], raw=True) if b"journal" in more else None
        except (IndexError, ValueError):
            logger.error("an entry that can't be read was removed", extra={"entry": text(entry)})
            self._deliveries.let_go(delivery)
            return
        workflow = self._workflows.get(name)
        if workflow is None:
            self.unknown.note(text(name), execution_id)
            to = keys.reserved_stream(keys.parse_stream(queue)[0], text(name))
            self._deliveries.reserve(Fence(prefix, flat[1], entry, b""), queue, to)
            return
        version = keys.parse_stream(queue)[1] if "\0" in queue else ""
        if version and version != workflow.version:  # it was defined again meanwhile
            self._deliveries.let_go(delivery)
            return
        if workflow.pinned_version is not None and not version and records is None:
            self._host.spawn(self._pin(delivery, workflow, workflow.pinned_version, execution_id, run))
            return
        activation = Activation(self._host, workflow, execution_id, entry, run, queue, lapses)
        self._host.add(activation)
        if records is not None:
            activation.take_inlined(dict(zip(records[::2], records[1::2], strict=True)))
        if len(flat) > 6 and (workflow.version is None or records is not None or version):
            bounds.at_once(self._start(activation, flat[7], more.get(b"origin")))  # at most 4 KB
        else:
            self._host.spawn(self._load(activation))

    async def _pin(
        self,
        delivery: Delivery,
        workflow: WorkflowDefinition[Any, Any],
        version: str,
        execution_id: str,
        run: int,
    ) -> None:
        """Move the entry of an execution that has not started to the stream of the version; one that started
        without being pinned goes on here."""
        prefix, queue, entry = delivery
        to = keys.reserved_stream(keys.parse_stream(queue)[0], workflow.id, version)
        fence, lapses = Fence(prefix, raw(execution_id), entry, b""), self._lease.lapses[prefix]
        if await self._deliveries.pin(fence, queue, to, version):
            return
        if self._host.draining or not self._lease.is_held(prefix, lapses):
            self._deliveries.let_go(delivery)
            return
        activation = Activation(self._host, workflow, execution_id, entry, run, queue, lapses)
        self._host.add(activation)
        await self._load(activation)

    async def _load(self, activation: Activation) -> None:
        store, prefix = self._host.store, activation.fence.prefix
        try:
            while True:
                await self._lease.wait_until_fresh(prefix)
                epoch, lapses = store.wire.epoch, self._lease.lapses[prefix]
                loaded = await store.executions.load(activation.fence, activation.workflow.version)
                if epoch == store.wire.epoch and self._lease.is_held(prefix, lapses):
                    break
        except PolosError as error:
            activation.dropped(f"it can't be loaded: {error}", pause=True)
            return
        if activation.state is State.ENDED:
            return
        if loaded is None:
            activation.dropped("lost")
            return
        activation.take(loaded, epoch, lapses)
        await bounds.in_turns(self._start(activation, loaded.input, loaded.origin))

    def _start(self, activation: Activation, packed: bytes, origin: bytes | None) -> bounds.Work[None]:
        """Decode and validate the input and run the code with it.

        An invalid input fails an execution that has not started yet, and so does an internal workflow's start
        by anything but a workflow: whoever started it may not have known the workflow yet. A stored value
        that can't be read, or an input that was valid before, holds it back.
        """
        workflow = activation.workflow
        try:
            if origin is not None:
                activation.origin = Origin.unpack(workflow.id, origin)
            if workflow.internal and activation.origin.parent_execution_id is None:
                raise InternalWorkflowError(workflow.id)
            validated = yield from workflow.input_check(codec.decode(packed))
            if activation.origin.initial_state is not None:
                state = yield from workflow.state_check(codec.decode(activation.origin.initial_state))
                activation.durable_state = DurableState(state, self._host.value_limit)
        except UnreadableValueError as error:
            activation.gate.hold_back("input", error)
            return
        except GeneratorExit:  # this work is given up
            raise
        except BaseException as error:  # a validator may raise anything, SystemExit too
            if activation.state is State.ENDED:
                return
            if isinstance(error, InvalidInputError) and activation.journal.records:
                activation.gate.hold_back("input", error)
            else:
                activation.fail_before_start(error)
            return
        if activation.state is not State.ENDED:
            ctx = WorkflowContext(activation)
            activation.start(lambda: coroutine_of(workflow, ctx, validated))
