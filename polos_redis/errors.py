"""All exceptions of polos-redis, in one hierarchy. Each message says what is wrong, where, and what to do.

Catch `PolosError` to catch them all, and `ResumeError` to catch every refused answer. Inside a workflow, a
step that failed for the last time raises `StepExecutionError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

MAX_LISTED = 10  # items that one message lists


class PolosError(Exception):
    """Base class of all errors raised by polos-redis."""


class ConfigurationError(PolosError):
    """An argument, option, environment variable or server setting is invalid; the message names it."""


class ReleaseTooOldError(ConfigurationError):
    """The namespace needs a release that reads a newer format than this one does."""


# --- Redis ------------------------------------------------------------------------------


class RedisUnavailableError(PolosError):
    """Redis was unreachable, or unable to serve the call, for as long as the caller was willing to wait."""


class NotConfirmedError(RedisUnavailableError):
    """Redis executed the call, but did not confirm it as durable in time (`durability=`).

    Repeat an answer, a cancel, or an `invoke` with an `idempotency_key`: it finds what this call did and
    confirms it. An `invoke` without a key would start another execution; `execution_id` names the one it
    started. A repeated retry or delete is refused, because it has happened.
    """

    def __init__(self, address: str, promise: str, reason: object) -> None:
        self.address = address
        self.promise = promise
        self.reason = str(reason)
        self.execution_id: str | None = None
        super().__init__(address, promise, self.reason)

    def __str__(self) -> str:
        return (
            f"Redis at {self.address} executed the call, but did not confirm that it {self.promise} "
            f"({self.reason}): repeat an answer, a cancel or an invoke with an idempotency_key to have it "
            "confirmed"
        )


class RedisRefusedError(PolosError):
    """Redis rejected a call, and repeating it won't help (permissions, memory, wrong type of key)."""


class ConnectionLostError(PolosError):
    """The connection broke during a call, so it is unknown whether the call took effect."""


# --- values -----------------------------------------------------------------------------


class StoredValueError(PolosError, ValueError):
    """Base class of the errors about storing and reading values."""


class NotStorableError(StoredValueError, TypeError):
    """The value can't be stored; the message has the path to the part at fault, as `$.items[3].file`."""


class ValueTooLargeError(StoredValueError):
    """The value exceeds the size limit (1 MiB by default)."""


class UnreadableValueError(StoredValueError):
    """The stored value can't be read: it is damaged, or its class has changed and refuses it.

    Inside a workflow this fails nothing: the execution goes back to its queue and runs again later.
    """


class UnknownTypeError(UnreadableValueError):
    """The stored value can't be read, because this process has not imported its type."""


class InvalidInputError(StoredValueError):
    """The input or initial state does not match its declared type; the message lists the invalid fields."""


# --- inside a workflow ------------------------------------------------------------------


class StepExecutionError(PolosError):
    """A step failed and has no attempts left. The failure is journaled: every replay raises it again.

    `error_type` is the class name of the original exception, `error_message` its text, and `attempts` the
    number of attempts made.
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
    """Raise this in a step's function to fail the step without further attempts."""


class SuspendTimeoutError(StepExecutionError):
    """A suspension reached its deadline without an answer."""

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
    """A `wait_for_event` reached its timeout before an event arrived."""

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
    """A step changed fields of `ctx.state` that concurrent code of the same workflow changed meanwhile."""

    def __init__(self, fields: list[str]) -> None:
        self.fields = fields
        super().__init__(fields)

    def __str__(self) -> str:
        return (
            f"ctx.state.{', ctx.state.'.join(self.fields)} changed while this step ran: let concurrent steps "
            "return values, and change the state in the workflow's own code"
        )


class HookFailedError(PolosError):
    """A hook failed its execution with `HookResult.fail`, or returned something invalid."""


class StepKeyError(PolosError):
    """A step key was used twice in one execution, or for another kind of step on replay.

    The execution fails even if the workflow catches the error, so that no step ever gets the value of
    another.
    """


class NotAwaitedError(PolosError):
    """A call of ctx, as `ctx.step.run(...)`, was not awaited, so it did not run.

    The execution fails even if the workflow catches the error, since its next result could rest on a call
    that was never made.
    """


class OlderChildError(PolosError):
    """A step would start a child under an id that a child of an earlier execution still has.

    A child's id follows from its parent's, and an execution that is started with the idempotency key of one
    that is no longer kept has that one's id. The execution fails; once the older child has ended, it can be
    retried.
    """

    def __init__(self, step_key: str, child_id: str) -> None:
        self.step_key = step_key
        self.child_id = child_id
        super().__init__(step_key, child_id)

    def __str__(self) -> str:
        return (
            f"step {self.step_key!r} can't start child {self.child_id}: an earlier execution with the same "
            "idempotency key has started one of this id, which has not ended: wait for its end or cancel it, "
            "then retry this execution"
        )


class NotContinuableError(PolosError):
    """`ctx.continue_as_new` was refused, because something of the run has not ended; nothing has changed.

    It is an error like any other: code that catches it can see to that, and call it again.
    """

    def __init__(self, call_site: str, why: str) -> None:
        self.call_site = call_site
        self.why = why
        super().__init__(call_site, why)

    def __str__(self) -> str:
        return f"ctx.continue_as_new at {self.call_site} can't end this run: {self.why}"


class JournalFullError(PolosError):
    """A new call of ctx would give an execution's journal more records than it may have (50,000 by default).

    The execution fails even if the workflow catches the error, and is not retried by itself. Everything
    journaled stays: with a higher limit (`max_journal_records`), a retry goes on from there.
    """

    def __init__(self, step_key: str, call_site: str, records: int, limit: int) -> None:
        self.step_key = step_key
        self.call_site = call_site
        self.records = records
        self.limit = limit
        super().__init__(step_key, call_site, records, limit)

    def __str__(self) -> str:
        return (
            f"step {self.step_key!r} at {self.call_site} would bring the execution's journal to "
            f"{self.records:,} records, and it may have {self.limit:,}: go on with an empty one in time "
            "(ctx.continue_as_new), or let children do parts of the work; to finish this execution, raise "
            "max_journal_records (POLOS_MAX_JOURNAL_RECORDS) and retry it"
        )


# --- executions -------------------------------------------------------------------------


class ExecutionNotFoundError(PolosError):
    """No execution has this id: it never existed, or its retention has passed."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(execution_id)

    def __str__(self) -> str:
        return (
            f"there is no execution {self.execution_id!r} in this namespace: check the id, the namespace "
            "and the Redis URL, and note that finished executions are deleted after their retention"
        )


class ScheduleNotFoundError(PolosError):
    """No schedule has this id: it never existed, was deleted, or is no longer declared by its workflow."""

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(schedule_id)

    def __str__(self) -> str:
        return (
            f"there is no schedule {self.schedule_id!r} in this namespace: check the id and the namespace "
            "(`polos schedules list` shows all schedules)"
        )


class ErrandNotFoundError(PolosError):
    """No errand of this name has failed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no errand {self.name!r} has failed: polos errands list shows those that have"


class ExecutionFailedError(PolosError):
    """The execution failed. `error_type`, `error_message` and `traceback` describe the workflow's error.

    Its text is one line, without the traceback.
    """

    def __init__(self, execution_id: str, error_type: str, error_message: str, traceback: str = "") -> None:
        self.execution_id = execution_id
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback
        super().__init__(execution_id, error_type, error_message, traceback)

    def __str__(self) -> str:
        message = " ".join(self.error_message.split())
        return f"execution {self.execution_id} failed: {self.error_type}: {message}"


class ExecutionCancelledError(PolosError):
    """The execution was cancelled; `by` names who did it, if known."""

    def __init__(self, execution_id: str, by: str | None = None) -> None:
        self.execution_id = execution_id
        self.by = by
        super().__init__(execution_id, by)

    def __str__(self) -> str:
        return f"execution {self.execution_id} was cancelled" + (f" by {self.by}" if self.by else "")


class WorkflowTimeoutError(PolosError):
    """The execution failed because it did not finish within `run_timeout_seconds`."""


class InsideWorkflowError(PolosError):
    """A method for use outside workflows was called in a workflow, where its result is not journaled."""


class InsideEventLoopError(PolosError):
    """A method of `polos_redis.sync` was called in a thread that runs an event loop, which it would block."""


class InternalWorkflowError(PolosError):
    """The workflow is internal, so only another workflow may start or retry it, as a child."""

    def __init__(self, workflow_id: str, action: str = "start") -> None:
        self.workflow_id = workflow_id
        self.action = action
        super().__init__(workflow_id, action)

    def __str__(self) -> str:
        return (
            f"workflow {self.workflow_id!r} is internal, as tools that take ctx or need an approval are: "
            f"{self.action} the workflow or agent that calls it"
        )


class IdempotencyConflictError(PolosError):
    """The idempotency key belongs to an execution that was started by a different request. Nothing was
    started.

    `differing` names what differs: some of "input", "user_id", "session_id", "started_by", "initial_state"
    and "queue or concurrency_key".
    """

    def __init__(
        self, workflow_id: str, key: str, execution_id: str, differing: Sequence[str] = ("input",)
    ) -> None:
        self.workflow_id = workflow_id
        self.key = key
        self.execution_id = execution_id
        self.differing = tuple(differing)
        super().__init__(workflow_id, key, execution_id, self.differing)

    def __str__(self) -> str:
        what = " and ".join(self.differing) or "request"
        return (
            f"idempotency key {self.key!r} was already used for workflow {self.workflow_id!r} with a "
            f"different {what} (execution {self.execution_id}): use a new key, or repeat the first request "
            "unchanged"
        )


class NotFinishedError(PolosError):
    """The execution can't be deleted before it finishes; `status` is its current status."""

    def __init__(self, execution_id: str, status: str) -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(execution_id, status)

    def __str__(self) -> str:
        return (
            f"execution {self.execution_id} can't be deleted while it is {self.status}: cancel it, or wait "
            "until it has finished"
        )


class NotFailedError(PolosError):
    """Only a failed, stuck or paused execution can be retried; `status` is its current status."""

    def __init__(self, execution_id: str, status: str) -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(execution_id, status)

    def __str__(self) -> str:
        return (
            f"execution {self.execution_id} can't be retried: it is {self.status}, not failed, stuck or "
            "paused"
        )


class NotSkippableError(PolosError):
    """A retry can only skip an accepted answer that the execution's code must reach; `step_key` has none."""

    def __init__(self, execution_id: str, step_key: str) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        super().__init__(execution_id, step_key)

    def __str__(self) -> str:
        return (
            f"execution {self.execution_id} has nothing to skip under {self.step_key!r}: only an accepted "
            f"answer that its code must reach can be skipped, see 'polos show {self.execution_id}'"
        )


class StepNotForkableError(PolosError):
    """An execution can't be forked from `step_key`, or with another result for it; `why` says why."""

    def __init__(self, execution_id: str, step_key: str, why: str) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.why = why
        super().__init__(execution_id, step_key, why)

    def __str__(self) -> str:
        return f"execution {self.execution_id}, step {self.step_key!r}: {self.why}"


class WorkerLostError(PolosError):
    """The execution failed because its worker died `max_deliveries` times in a row while running it."""


# --- replays ----------------------------------------------------------------------------


class HistoryError(PolosError):
    """A recorded history can't be read; the message has its place and the reason."""


class DivergedError(PolosError):
    """Code does not take the path that a history has recorded. `divergences` are those of each history."""

    def __init__(self, divergences: Sequence[object]) -> None:
        self.divergences = divergences
        super().__init__(divergences)

    def __str__(self) -> str:
        shown = [str(one) for one in self.divergences[:MAX_LISTED]]
        more = len(self.divergences) - MAX_LISTED
        return "\n".join(shown + ([f"and {more} more"] if more > 0 else []))


# --- agents -----------------------------------------------------------------------------


class AgentError(PolosError):
    """Base class of the errors that fail an agent's run."""


class InvalidOutputError(AgentError):
    """The model's answer did not match the agent's `output_schema` after all attempts to correct it."""


class ModelRefusalError(AgentError):
    """The model or its provider's content filter refused to answer."""


class AgentStoppedError(AgentError):
    """A stop condition ended the run before the model gave an answer that matches `output_schema`."""


# --- refused answers --------------------------------------------------------------------


class ResumeError(PolosError):
    """Base class of the errors for a refused answer. Nothing was changed."""


class AlreadyResumedError(ResumeError):
    """A different answer was accepted earlier; `resumed_by` and `resumed_at` say whose and when."""

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
            f"at {when}: that answer stands, and yours was not recorded"
        )


class SuspensionExpiredError(ResumeError):
    """The suspension's deadline passed at `expired_at`."""

    def __init__(self, execution_id: str, step_key: str, expired_at: datetime) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.expired_at = expired_at
        super().__init__(execution_id, step_key, expired_at)

    def __str__(self) -> str:
        when = self.expired_at.isoformat(sep=" ", timespec="seconds")
        return (
            f"suspension {self.step_key!r} of {self.execution_id} timed out at {when}: "
            "it no longer accepts answers"
        )


class ExecutionFinishedError(ResumeError):
    """The execution has finished or no longer waits for this answer; `status` is its current status."""

    def __init__(self, execution_id: str, status: str, what: str = "") -> None:
        self.execution_id = execution_id
        self.status = status
        super().__init__(execution_id, status, what)
        self.what = what

    def __str__(self) -> str:
        if not self.what:
            return f"execution {self.execution_id} has already finished: it is {self.status}"
        if self.status in ("completed", "failed", "cancelled"):
            return f"{self.what} of {self.execution_id} was closed: the execution is {self.status}"
        return f"{self.what} of {self.execution_id} was closed: the workflow continued without an answer"


class SuspensionNotFoundError(ResumeError):
    """No suspension has this step key; `open_steps` lists the step keys that wait for an answer."""

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
    """The answer does not match the suspension's schema.

    `errors` has an entry for each problem, `{"field": "limit.amount", "message": ...}`; the field is "" if
    the problem concerns the whole answer.
    """

    def __init__(self, execution_id: str, step_key: str, errors: list[dict[str, str]]) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.errors = errors
        super().__init__(execution_id, step_key, errors)

    def __str__(self) -> str:
        problems = [
            f"{error['field']}: {error['message']}" if error["field"] else error["message"]
            for error in self.errors
        ]
        if len(problems) > MAX_LISTED:
            problems[MAX_LISTED:] = ["..."]
        return (
            f"the answer does not fit suspension {self.step_key!r} of {self.execution_id}: "
            f"{'; '.join(problems)}"
        )


class NotApproverError(ResumeError):
    """This person may not decide the suspension; `reason` says why."""

    def __init__(self, execution_id: str, step_key: str, who: str | None, reason: str) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        self.who = who
        self.reason = reason
        super().__init__(execution_id, step_key, who, reason)

    def __str__(self) -> str:
        who = self.who or "an anonymous user"
        return f"{who} may not decide suspension {self.step_key!r} of {self.execution_id}: {self.reason}"


class ShownChangedError(ResumeError):
    """The suspension's data changed after it was read, so the answer may be about something else."""

    def __init__(self, execution_id: str, step_key: str) -> None:
        self.execution_id = execution_id
        self.step_key = step_key
        super().__init__(execution_id, step_key)

    def __str__(self) -> str:
        return (
            f"the data of suspension {self.step_key!r} of {self.execution_id} has changed since you read it: "
            "read it again, then answer"
        )


class AmbiguousSuspensionError(ResumeError):
    """The answer could belong to several suspensions; `candidates` lists the open ones."""

    def __init__(self, execution_id: str, candidates: list[str]) -> None:
        self.execution_id = execution_id
        self.candidates = candidates
        super().__init__(execution_id, candidates)

    def __str__(self) -> str:
        listed = [repr(candidate) for candidate in self.candidates[:MAX_LISTED]]
        if len(self.candidates) > MAX_LISTED:
            listed.append("...")
        if len(listed) == 1:
            return (
                f"execution {self.execution_id} has one open suspension ({listed[0]}) and closed ones with "
                "the same step key, so this answer may be meant for one of those: use the id of the "
                "execution that asked"
            )
        return (
            f"execution {self.execution_id} has {len(self.candidates)} open suspensions "
            f"({', '.join(listed)}): name the one to answer"
        )


# --- signed links and API keys ----------------------------------------------------------


class LinkError(PolosError):
    """The signed link is invalid, of another namespace, or expired (then `expired_at` says when)."""

    def __init__(self, message: str, expired_at: datetime | None = None) -> None:
        self.expired_at = expired_at
        super().__init__(message, expired_at)

    def __str__(self) -> str:
        return str(self.args[0])


class ApiKeyNotFoundError(PolosError):
    """No API key has this id or name."""

    def __init__(self, id_or_name: str) -> None:
        self.id_or_name = id_or_name
        super().__init__(id_or_name)

    def __str__(self) -> str:
        return (
            f"there is no API key {self.id_or_name!r} in this namespace: check the id or name and the "
            "namespace (`polos keys list` shows all keys)"
        )


# --- events -----------------------------------------------------------------------------


class EventsTrimmedError(PolosError):
    """The event to continue from was trimmed from its topic, so later events may be missing too."""
