"""`ctx.continue_as_new`: the end of a run, and the next one with another input and an empty journal."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from functools import partial
from typing import Any, NoReturn

from polos_redis import tasks
from polos_redis.errors import NotContinuableError, PolosError
from polos_redis.runtime.branches import BRANCH
from polos_redis.runtime.call_sites import CallSite, described
from polos_redis.runtime.fenced_journal import refusal
from polos_redis.runtime.gate import State
from polos_redis.runtime.spans import noted
from polos_redis.runtime.steps.calls import Calls
from polos_redis.state.origin import Origin
from polos_redis.values import codec
from polos_redis.values.text import text

logger = logging.getLogger("polos.execution")


class Continuing(Calls):
    """The end of one activation's run, if its code asks for it."""

    __slots__ = ()

    async def continue_as_new(self, input: Any, call_site: CallSite) -> NoReturn:
        """See `WorkflowContext.continue_as_new`. Like a park, it ends with the cancellation of the code."""
        activation, at = self._activation, described(call_site)
        if tasks.in_step():
            raise NotContinuableError(
                at, "it was called inside a step's function: call it in the workflow's own code"
            )
        workflow = activation.workflow
        checked = await activation.check(input, workflow.input_check(input))
        packed = codec.encode(checked, limit=activation.host.value_limit)
        while True:
            if not activation.gate.is_open():
                await activation.gate.passed()
            activation.touch()
            if activation.unreached or activation.parking.given_up:
                await activation.reach_decisions(call_site)
                await activation.give_up()
                continue
            if why := self._why_not():
                raise NotContinuableError(at, why)
            open_waits = await self._end_run(packed)
            if open_waits:
                raise NotContinuableError(at, _still_open(open_waits))

    def _why_not(self) -> str:
        """Returns why the run can't end now, as far as the activation knows; empty if it can."""
        activation, branch = self._activation, BRANCH.get()
        if branch is not None:
            return f"it was called in a branch of the race {text(branch.race)!r}: call it after the race"
        if activation.parking.waits:
            return _still_open([*activation.parking.waits])
        for key in activation.events.running:
            return f"the step {key!r} still runs: await it, or cancel it, before"
        if activation.in_flight:
            return "another call of ctx has not returned: await it, or cancel it, before"
        return ""

    async def _end_run(self, packed: bytes) -> list[str]:
        """Continue as new. Returns only if that was refused: the step keys of open waits, or none, when the
        journal has been read again."""
        activation = self._activation
        state = activation.saved_state()
        if state is None:
            return []  # the execution has failed, as its state can't be saved
        activation.state = State.PARKING
        refused: asyncio.Future[list[str]] = activation.loop.create_future()
        activation.host.spawn(self._send(packed, state, refused))
        return await refused

    async def _send(self, packed: bytes, state: bytes, refused: asyncio.Future[list[str]]) -> None:
        activation = self._activation
        try:
            open_waits = await self._sent(packed, state)
            if open_waits is not None:
                activation.continued()
                if not refused.done():
                    refused.set_result(open_waits)
        except Exception as error:
            logger.exception("could not continue as new", extra=activation.code.facts)
            activation.dropped(f"could not continue as new: {type(error).__name__}", pause=True)
        finally:
            refused.cancel()  # the code may await it where its own cancellation does not reach

    async def _sent(self, packed: bytes, state: bytes) -> list[str] | None:
        """Returns None once the activation is over, and otherwise the step keys of open waits, if any."""
        activation = self._activation
        origin, events = self._origin(state).pack(), activation.events
        was_emitted, first = events.start_emitted, events.first()
        write, fence = activation.host.store.fenced.continue_as_new, activation.fence
        facts = {**activation.code.facts, "run": activation.run + 1}
        activation.expect_next_run(partial(logger.info, "continued as new", extra=facts))
        try:
            reply = await activation.journal.leave(
                lambda known, answers: write(fence, known, answers, packed, origin, state, first)
            )
        except PolosError as error:
            activation.dropped(f"continuing as new was refused: {error}", pause=True)
            return None
        if activation.state is State.ENDED:
            return None
        if reply == 0:
            activation.next_run_begins()
            activation.end("continued")
            return None
        activation.expect_next_run(None)
        if type(reply) is list or reply > 0:
            events.start_emitted = was_emitted
            return list(map(text, reply)) if type(reply) is list else []
        activation.dropped(refusal(reply))
        return None

    def _origin(self, state: bytes) -> Origin:
        """The origin of the next run: it starts with the state that this one leaves."""
        activation = self._activation
        origin = (
            activation.origin if activation.code.span is None else noted(activation, activation.code.span)
        )
        return dataclasses.replace(
            origin, initial_state=state or origin.initial_state, continued_in=activation.run + 1
        )


def _still_open(step_keys: list[str]) -> str:
    more = f" (and {len(step_keys) - 1} more)" if len(step_keys) > 1 else ""
    return f"the wait {step_keys[0]!r}{more} is still open: await it, or cancel it, before"
