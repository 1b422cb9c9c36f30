"""The start of a workflow's code: its input is decoded and validated here, once per activation."""

from __future__ import annotations

from collections.abc import Callable

from polos_redis.errors import InternalWorkflowError, InvalidInputError, UnreadableValueError
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.context import WorkflowContext
from polos_redis.runtime.durable_state import DurableState
from polos_redis.runtime.gate import State
from polos_redis.runtime.hooks import coroutine_of
from polos_redis.state.origin import Origin
from polos_redis.values import bounds, codec


def start_code(
    activation: Activation,
    packed: bytes,
    origin: bytes | None,
    context: Callable[[Activation], WorkflowContext] = WorkflowContext,
) -> bounds.Work[None]:
    """Decode and validate the input and run the code with it, and with the `ctx` that `context` makes.

    An invalid input fails an execution that has not started yet, and so does an internal workflow's start by
    anything but a workflow: whoever started it may not have known the workflow yet. A stored value that can't
    be read, or an input that was valid before, holds it back.
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
            activation.durable_state = DurableState(state, activation.host.value_limit)
    except UnreadableValueError as error:
        activation.gate.hold_back("input", error)
        return
    except GeneratorExit:  # this work is given up
        raise
    except BaseException as error:  # a validator may raise anything, SystemExit too
        if activation.state is State.ENDED:
            return
        if isinstance(error, InvalidInputError) and (activation.journal.records or activation.run > 1):
            activation.gate.hold_back("input", error)
        else:
            activation.fail_before_start(error)
        return
    if activation.state is not State.ENDED:
        ctx = context(activation)
        activation.start(lambda: coroutine_of(workflow, ctx, validated))
