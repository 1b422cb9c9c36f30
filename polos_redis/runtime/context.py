"""`ctx`, the first argument of a workflow function."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from polos_redis.runtime.call_sites import caller
from polos_redis.runtime.step import Step
from polos_redis.runtime.steps.continuing import Continuing
from polos_redis.runtime.steps.patches import Patches
from polos_redis.runtime.workflow_logger import WorkflowLogger

if TYPE_CHECKING:
    from polos_redis.runtime.activation import Activation


class WorkflowContext:
    """The execution that a workflow function runs in; its journaled calls are `ctx.step`.

    `root_*` name the execution at the top of its tree (itself, if it has no parent); `session_id` and
    `user_id` are those given to `invoke`, else the parent's. `run` counts from 1; a retry of the failed
    execution is the next one, and so is what `continue_as_new` begins.
    """

    __slots__ = (
        "_activation",
        "_patches",
        "execution_id",
        "parent_execution_id",
        "root_execution_id",
        "root_workflow_id",
        "run",
        "session_id",
        "step",
        "user_id",
        "workflow_id",
    )

    def __init__(self, activation: Activation) -> None:
        origin = activation.origin
        self._activation: Activation = activation
        self._patches: Patches | None = None  # once it is asked for one
        self.execution_id: str = activation.id
        self.workflow_id: str = activation.workflow.id
        self.root_execution_id: str = activation.root
        self.root_workflow_id: str = origin.root_workflow_id
        self.parent_execution_id: str | None = origin.parent_execution_id
        self.session_id: str | None = origin.session_id
        self.user_id: str | None = origin.user_id
        self.run: int = activation.run
        self.step: Step = Step(activation)

    @property
    def logger(self) -> WorkflowLogger:
        """A logger for the workflow's code and its steps: its records carry `execution` and `workflow`, and
        inside a step `step` and `attempt`. It is silent while the code is replayed. Its name is
        `polos.workflow`."""
        return WorkflowLogger(self._activation.code)

    @property
    def state(self) -> Any:
        """The execution's state, an instance of its workflow's `state_schema`; None without one.

        Change it in place, in the workflow's code or inside a step. It is saved whenever the execution parks
        and when it ends; a replay rebuilds it.
        """
        durable_state = self._activation.durable_state
        return None if durable_state is None else durable_state.visible()

    def continue_as_new(self, input: Any = None) -> Coroutine[Any, Any, NoReturn]:
        """End this run, and begin the next one of this execution with another input and an empty journal:
        `await ctx.continue_as_new({"page": input["page"] + 1})`.

        The execution keeps its id, its state, its deadline, and whoever awaits its result. No code after the
        call runs: like at a park, it is cancelled (`except Exception` does not see that, `finally` does). The
        workflow starts over with `input`, which is validated, and with `ctx.run` one higher; its own retries
        are counted from zero, and a step key may be used again.

        Raises `InvalidInputError`, `NotStorableError` or `ValueTooLargeError` for an unusable input, and
        `NotContinuableError` while a wait is open or a step runs, in a branch of `first_of`, and inside a
        step. Nothing has changed then. Children that nobody waits for go on; answers that came before their
        suspensions are kept.
        """
        return Continuing(self._activation).continue_as_new(input, caller())

    def patched(self, id: str) -> Coroutine[Any, Any, bool]:
        """Whether this execution takes the part of the code that a change, named by `id`, has added:
        `if await ctx.patched("fraud-check"):`.

        False exactly when the journal has a record that the code has not reached at the first call: the
        execution came this far before the change, so it must go on as it did. The answer is journaled (under
        the step key `patched:` and the id), and is the same at every replay and at every call with this id.
        Raises `StepKeyError` for an id that is no text, or is longer than 256 bytes, and inside a step.
        """
        if self._patches is None:
            self._patches = Patches(self._activation)
        return self._patches.patched(id, caller())
