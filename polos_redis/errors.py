"""Every error of polos-redis: one tree, each message one sentence that says what to do.

Catch `PolosError` for all of them. `ResumeError` groups the refusals of a resume;
`StepExecutionError` is what a workflow sees when a step has finally failed.
"""

from __future__ import annotations

from datetime import datetime

MOST_NAMED = 10  # things that one message lists


class PolosError(Exception):
    """Base of all errors raised by polos-redis."""


class ConfigurationError(PolosError):
    """An option, environment variable or server setting that can't work; says which and why."""


# --- the way to Redis -------------------------------------------------------------------


class RedisUnavailableError(PolosError):
    """Redis could not be reached, or was not able to serve, for as long as the caller waits."""


class RedisRefusedError(PolosError):
    """Redis answered a call with an error that repeating it won't cure (rights, memory, type)."""


class ConnectionLostError(PolosError):
    """The connection ended while a call was under way: whether it took effect is not known."""


# --- values -----------------------------------------------------------------------------


class StoredValueError(PolosError, ValueError):
    """Base of what can be wrong with a value that is stored or read back."""


class NotStorableError(StoredValueError, TypeError):
    """A value that can't be stored; the message names the path inside it, e.g. `$.items[3].file`."""


class ValueTooLargeError(StoredValueError):
    """A value over the size limit (1 MiB by default)."""


class UnreadableValueError(StoredValueError):
    """A stored value that can't be read here: damaged, or of a type this process has not imported."""


class InvalidInputError(StoredValueError):
    """The input, or the initial state, does not fit the declared type; the message names the fields."""


# --- inside a workflow ------------------------------------------------------------------


class StepExecutionError(PolosError):
    """A step has finally failed: raised on this run and again on every replay.

    `step_key`, `error_type` (the original exception's class name), `error_message` (its text) and
    `attempts` (how often it was tried) are kept from the original failure.
    """

    def __init__(self, step_key: str, error_type: str, error_message: str, attempts: int = 1) -> None:
        self.step_key = step_key
        self.error_type = error_type
        self.error_message = error_message
        self.attempts = attempts
        super().__init__(step_key, error_type, error_message, attempts)

    def __str__(self) -> str:
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        return f"step {self.step_key!r} failed (tried {times}): {self.error_type}: {self.error_message}"


class NoRetryError(PolosError):
    """Raised by a step's function: it has failed for good, to try again would not help."""


class SuspendTimeoutError(StepExecutionError):
    """Nobody answered a suspension before its deadline."""

    def __init__(self, step_key: str, timeout_seconds: float, attempts: int = 1) -> None:
        self.timeout_seconds = timeout_seconds
        super().__init__(
            step_key, "SuspendTimeoutError", f"nobody answered within {timeout_seconds:g} s", attempts
        )

    def __str__(self) -> str:
        return f"suspension {self.step_key!r} timed out: {self.error_message}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.step_key, self.timeout_seconds, self.attempts))


class WaitTimeoutError(StepExecutionError):
    """No event came before the timeout of a `wait_for_event`."""

    def __init__(self, step_key: str, topic: str, timeout_seconds: float, attempts: int = 1) -> None:
        self.topic = topic
        self.timeout_seconds = timeout_seconds
        text = f"no event on topic {topic!r} within {timeout_seconds:g} s"
        super().__init__(step_key, "WaitTimeoutError", text, attempts)

    def __str__(self) -> str:
        return f"wait {self.step_key!r} timed out: {self.error_message}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.step_key, self.topic, self.timeout_seconds, self.attempts))


class StateConflictError(StoredValueError):
    """A step has changed fields of `ctx.state` that another task of its workflow has changed meanwhile."""

    def __init__(self, fields: list[str]) -> None:
        self.fields = fields
        super().__init__(fields)

    def __str__(self) -> str:
        return (
            f"ctx.state.{', ctx.state.'.join(self.fields)} changed meanwhile, by what runs side by side with "
            "this step: let such steps return values, and change the state in the workflow's own code"
        )


class HookFailedError(PolosError):
    """A hook has refused to let its execution go on, or returned what a hook can't return."""


class StepKeyError(PolosError):
    """A step key used twice in one execution, or replayed as another kind of step.

    The execution stops with this error whatever the workflow catches: it never goes on with the
    value of another step.
    """


# --- executions -------------------------------------------------------------------------


class ExecutionNotFoundError(PolosError):
    """No execution with this id (it never was, or its retention has passed)."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(execution_id)

    def __str__(self) -> str:
        return (
            f"there is no execution {self.execution_id!r} in this namespace: check the id, the namespace "
            "and the Redis URL; a finished execution is kept for its retention only"
        )


class ScheduleNotFoundError(PolosError):
    """No schedule with this id (it never was, it was deleted, or its workflow no longer declares it)."""

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(schedule_id)

    def __str__(self) -> str:
        return (
            f"there is no schedule {self.schedule_id!r} in this namespace: check the id and the namespace; "
            "`polos schedules list` shows those that are there"
        )


class ExecutionFailedError(PolosError):
    """The execution failed. `error_type`, `error_message` and `traceback` are the workflow's own."""

    def __init__(self, execution_id: str, error_type: str, error_message: str, traceback: str = "") -> None:
        self.execution_id = execution_id
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback
        super().__init__(execution_id, error_type, error_message, traceback)

    def __str__(self) -> str:
        text = f"execution {self.execution_id} failed: {self.error_type}: {self.error_message}"
        return f"{text}\n\n{self.traceback}" if self.traceback else text


class ExecutionCancelledError(PolosError):
    """The execution was cancelled; `by` says by whom, where that is known."""

    def __init__(self, execution_id: str, by: str | None = None) -> None:
        self.execution_id = execution_id
        self.by = by
        super().__init__(execution_id, by)

    def __str__(self) -> str:
        return f"execution {self.execution_id} was cancelled" + (f" by {self.by}" if self.by else "")


class WorkflowTimeoutError(PolosError):
    """The execution did not finish within its `run_timeout_seconds`, so it was failed."""


class InsideWorkflowError(PolosError):
    """A call that belongs outside of workflows was made in one, where it would not be journaled."""


class IdempotencyConflictError(PolosError):
    """The idempotency key was used before for this workflow, with another input; nothing was started."""

    def __init__(self, workflow_id: str, key: str, execution_id: str) -> None:
        self.workflow_id = workflow_id
        self.key = key
        self.execution_id = execution_id
        super().__init__(workflow_id, key, execution_id)

    def __str__(self) -> str:
        return (
            f"idempotency key {self.key!r} was used before for workflow {self.workflow_id!r} with another "
            f"input (execution {self.execution_id}): use another key, or give the same input"
        )


class NotFinishedError(PolosError):
    """Only what has finished can be deleted; `status` says how this one stands."""

    def __init__(self, execution_id: str, status: str) -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(execution_id, status)

    def __str__(self) -> str:
        return (
            f"execution {self.execution_id} can't be deleted: it is {self.status}; cancel it first, or wait "
            "for its end"
        )


class NotFailedError(PolosError):
    """Only a failed execution can be retried; `status` says how this one stands."""

    def __init__(self, execution_id: str, status: str) -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(execution_id, status)

    def __str__(self) -> str:
        return f"execution {self.execution_id} can't be retried: it is {self.status}, not failed"


class WorkerLostError(PolosError):
    """The execution ended with its worker `max_deliveries` times in a row, so it was failed."""


# --- agents -----------------------------------------------------------------------------


class AgentError(PolosError):
    """Base of what fails an agent's run."""


class InvalidOutputError(AgentError):
    """The model's answer does not fit the agent's output_schema, however often it was sent back."""


class ModelRefusalError(AgentError):
    """The model, or its provider's content filter, refuses to answer."""


class AgentStoppedError(AgentError):
    """A stop condition ended the run before there was an answer of the agent's output_schema."""


# --- the refusals of a resume -----------------------------------------------------------


class ResumeError(PolosError):
    """Base of the refusals of a resume: nothing was changed."""


class AlreadyResumedError(ResumeError):
    """Another answer was accepted before; `resumed_by` and `resumed_at` say whose and when."""

    def __init__(
        self, execution_id: str, step_key: str, resumed_by: str | None, resumed_at: datetime
    ) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.resumed_by = resumed_by
        self.resumed_at = resumed_at
        super().__init__(execution_id, step_key, resumed_by, resumed_at)

    def __str__(self) -> str:
        who = f"by {self.resumed_by} " if self.resumed_by else ""
        when = self.resumed_at.isoformat(sep=" ", timespec="seconds")
        return (
            f"suspension {self.step_key!r} of {self.execution_id} was already answered {who}"
            f"at {when} with another answer; that one stands"
        )


class SuspensionExpiredError(ResumeError):
    """The suspension's deadline has passed; `expired_at` says when."""

    def __init__(self, execution_id: str, step_key: str, expired_at: datetime) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.expired_at = expired_at
        super().__init__(execution_id, step_key, expired_at)

    def __str__(self) -> str:
        when = self.expired_at.isoformat(sep=" ", timespec="seconds")
        return (
            f"suspension {self.step_key!r} of {self.execution_id} timed out at {when}: "
            "it takes no answer any more"
        )


class ExecutionFinishedError(ResumeError):
    """The execution has ended (or was cancelled), so nothing waits for this any more."""

    def __init__(self, execution_id: str, status: str, what: str = "") -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(execution_id, status, what)
        self.what = what

    def __str__(self) -> str:
        if not self.what:
            return f"execution {self.execution_id} has ended before: it is {self.status}"
        if self.status in ("queued", "waiting"):
            return f"{self.what} of {self.execution_id} was closed: the workflow went on without it"
        return f"{self.what} of {self.execution_id} was closed: the execution is {self.status}"


class SuspensionNotFoundError(ResumeError):
    """No such suspension; `open_steps` lists the step keys that do wait."""

    def __init__(self, execution_id: str, step_key: str, open_steps: list[str]) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.open_steps = open_steps
        super().__init__(execution_id, step_key, open_steps)

    def __str__(self) -> str:
        waiting = ", ".join(repr(key) for key in self.open_steps)
        return f"execution {self.execution_id} has no suspension {self.step_key!r}; " + (
            f"open: {waiting}" if waiting else "none is open"
        )


class InvalidAnswerError(ResumeError):
    """The answer is not of the type that the suspension asks for.

    `errors` lists what is wrong: {"field": "limit.amount" ("" for the whole answer), "message": ...}.
    """

    def __init__(self, execution_id: str, step_key: str, errors: list[dict[str, str]]) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.errors = errors
        super().__init__(execution_id, step_key, errors)

    def __str__(self) -> str:
        told = [
            f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in self.errors
        ]
        if len(told) > MOST_NAMED:
            told[MOST_NAMED:] = ["..."]
        return (
            f"the answer does not fit suspension {self.step_key!r} of {self.execution_id}: {'; '.join(told)}"
        )


class NotApproverError(ResumeError):
    """Who answers may not decide this suspension; `reason` says why."""

    def __init__(self, execution_id: str, step_key: str, who: str | None, reason: str) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.who = who
        self.reason = reason
        super().__init__(execution_id, step_key, who, reason)

    def __str__(self) -> str:
        who = f"{self.who} may" if self.who else "an answer without a name may"
        return f"{who} not decide suspension {self.step_key!r} of {self.execution_id}: {self.reason}"


class ShownChangedError(ResumeError):
    """What the suspension shows is not what this answer was given to: look again, then decide."""

    def __init__(self, execution_id: str, step_key: str) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        super().__init__(execution_id, step_key)

    def __str__(self) -> str:
        return (
            f"what suspension {self.step_key!r} of {self.execution_id} shows has changed since it was looked "
            "at: look at it again, then decide"
        )


class AmbiguousSuspensionError(ResumeError):
    """Several suspensions fit; `candidates` lists those that are open: name one."""

    def __init__(self, execution_id: str, candidates: list[str]) -> None:
        self.execution_id = execution_id
        self.candidates = candidates
        super().__init__(execution_id, candidates)

    def __str__(self) -> str:
        shown = [repr(candidate) for candidate in self.candidates[:MOST_NAMED]]
        if len(self.candidates) > MOST_NAMED:
            shown.append("...")
        if len(shown) == 1:
            return (
                f"below execution {self.execution_id} there is an open suspension ({shown[0]}), and there "
                "were others of its step key, which this answer may have been meant for: answer it by its "
                "own execution's id"
            )
        return (
            f"execution {self.execution_id} has {len(self.candidates)} open suspensions "
            f"({', '.join(shown)}): name the one that is answered"
        )


# --- who calls, who decides -------------------------------------------------------------


class LinkError(PolosError):
    """A signed link that can't be used: not one of this namespace, or expired (`expired_at` says when)."""

    def __init__(self, message: str, expired_at: datetime | None = None) -> None:
        self.expired_at = expired_at
        super().__init__(message, expired_at)

    def __str__(self) -> str:
        return str(self.args[0])


class ApiKeyNotFoundError(PolosError):
    """No API key with this id or name."""

    def __init__(self, id_or_name: str) -> None:
        self.id_or_name = id_or_name
        super().__init__(id_or_name)

    def __str__(self) -> str:
        return (
            f"there is no API key {self.id_or_name!r} in this namespace: check the id or name and the "
            "namespace; `polos keys list` shows those that are there"
        )


# --- events -----------------------------------------------------------------------------


class EventsTrimmedError(PolosError):
    """The event to continue from is no longer in its topic, so a gap can't be ruled out."""
