"""What queries return: frozen dataclasses of plain JSON values, which read like dicts too.

Times are ISO 8601 in UTC. Later versions may add fields, and words to statuses and kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from polos_redis.values.view import View

__all__ = [
    "AuditEntry",
    "Decision",
    "EarlyAnswer",
    "ErrandFailure",
    "Execution",
    "ExecutionChild",
    "ExecutionStep",
    "ExecutionSummary",
    "ExecutionWait",
    "Failure",
    "HeldBack",
    "LoopBlock",
    "OpenWait",
    "PassedOver",
    "RunningStep",
    "Stuck",
    "Suspension",
    "SuspensionDetails",
    "SuspensionMark",
    "TokenUsage",
    "WorkflowVersion",
]


class _Format:
    """Adds a `format` to a field's JSON schema, without an import of pydantic."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "format": self.name}


Timestamp = Annotated[str, _Format("date-time")]
ExecutionStatus = Literal[
    "queued", "running", "waiting", "stuck", "paused", "completed", "failed", "cancelled"
]
SuspensionStatus = Literal["open", "answered", "expired", "closed"]


# --- parts ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failure(View):
    """An error of a step or an execution."""

    type: str
    message: str
    traceback: str
    own_traceback: str
    """The traceback with the frames of the user's own code only; empty if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenUsage(View):
    """Tokens and requests of model calls."""

    input_tokens: int
    output_tokens: int
    requests: int
    total_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExecutionStep(View):
    """A journaled step."""

    step_key: str
    status: str
    """ok, failed, retry or backoff (an attempt has failed, another follows), abandoned (the code cancelled
    the call) or unreadable."""
    attempts: int
    started_at: Timestamp | None
    finished_at: Timestamp | None
    took_ms: float | None
    """How long the last attempt took, in milliseconds."""
    value: Any
    error: Failure | str | None
    """The failure of the last attempt; of an unreadable step, why it can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunningStep(View):
    """A step whose function has run for a while."""

    step_key: str
    attempt: int
    started_at: Timestamp
    timed_out_at: Timestamp | None
    """When this attempt timed out, if the step now waits for its abandoned thread to end, after which the
    next attempt starts."""
    progress: Any
    """What this attempt has reported last with `ctx.step.heartbeat`; None for nothing."""
    progress_at: Timestamp | None
    """When that was stored."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoopBlock(View):
    """Code that blocks the event loop of an execution's worker, as of the worker's last renewal of its
    lease."""

    by_itself: bool
    """Whether the code is this execution's; of others, only the seconds are told."""
    step_key: str | None
    """The step whose function it is; None for code between steps."""
    at: str | None
    """File, line and function."""
    seconds: float
    """For how long it had blocked the loop by then."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenWait(View):
    """What an execution waits for."""

    kind: Literal["person", "time", "event", "child", "retry"]
    step_key: str
    since: Timestamp | None
    """None for a retry."""
    until: Timestamp | None
    """Its deadline, or when its time or the step's next attempt comes."""
    topic: str | None
    """That of an event."""
    children: int | None
    """How many of a step's children have not ended."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExecutionWait(View):
    """A wait for a time or an event."""

    step_key: str
    status: str
    """open, over (its time has come), event, expired or closed."""
    topic: str | None
    """Where the event is expected; None for a delay."""
    opened_at: Timestamp
    until: Timestamp | None
    decided_at: Timestamp | None
    event: Any
    """The data of the event."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExecutionChild(View):
    """A child that a step has started."""

    step_key: str
    id: str
    workflow_id: str | None
    """None once the child is deleted or forgotten."""
    status: ExecutionStatus | None
    """None if the child is gone and nobody waited for it."""
    waited_for: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldBack(View):
    """Why a queued execution goes back to its queue again and again."""

    times: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassedOver(View):
    """A step key that code passes over, with the decision on it; a step that is not a suspension has none."""

    step_key: str
    data: Any
    by: str | None
    at: Timestamp | None
    channel: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stuck(View):
    """Why an execution is stuck or paused, until it is retried or cancelled."""

    kind: str
    """unreached: its code passes over accepted answers; exhausted: it has failed."""
    message: str
    where: str | None
    """file:line where its code left the recorded path."""
    passed_over: list[PassedOver]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrandFailure(View):
    """Work beside running code that has failed since it last succeeded."""

    errand: str
    """Its name, for `polos errands retry`."""
    kind: str
    execution_id: str | None
    """The execution that an early answer is for; None for other kinds."""
    step_key: str | None
    status: Literal["set aside", "running", "failing"]
    attempts: int
    error: str | None
    """None while it is running."""
    tried_at: Timestamp | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EarlyAnswer(View):
    """An answer that came before its suspension and has not been used yet."""

    step_key: str
    resumed_by: str | None
    channel: str | None
    """None if the stored answer is damaged."""
    errand: ErrandFailure | None
    """The work of checking it, if that has failed."""


# --- suspensions ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision(View):
    """One person's answer, where a suspension needs several."""

    data: Any
    by: str | None
    at: Timestamp
    channel: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SuspensionMark(View):
    """Why code need not reach an accepted answer."""

    kind: Literal["left", "optional", "skipped"]
    """left: the code cancelled the task that asked; optional: asked after something that a retry runs again;
    skipped: by somebody."""
    at: Timestamp
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suspension(View):
    """A wait for a person: what it shows, who may answer, and the answer."""

    execution_id: str
    workflow_id: str
    step_key: str
    topic: str
    status: SuspensionStatus
    run: int
    """The run of the execution that opened it."""
    data: Any
    """What it shows."""
    digest: str | None
    """The SHA-256 of the data shown; pass it with an answer as `shown_digest`."""
    opened_at: Timestamp
    expires_at: Timestamp | None
    answer: Any
    resumed_by: str | None
    channel: str | None
    """The way the answer came."""
    decided_at: Timestamp | None
    schema: dict[str, Any] | None
    """The JSON schema of answers."""
    reject_schema: dict[str, Any] | None
    """The schema of an answer with `approved: false`, if it is not that of the others."""
    form: dict[str, Any] | None
    """The form of its page, if the workflow declares one."""
    approvers: list[str]
    required: int
    rejections: int
    allow_self: bool
    on_timeout: dict[str, Any] | None
    """The answer after the deadline, as `{"data": ...}`."""
    decisions: list[Decision]
    unreached: bool
    """It is open, but its code, as deployed now, has not reached it in its last activation."""
    mark: SuspensionMark | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SuspensionDetails(Suspension):
    """A suspension with facts about its execution."""

    root_workflow_id: str
    root_execution_id: str
    user_id: str | None
    started_by: str | None
    forked_by: list[str]
    """Who forked it, and the executions that it goes back to."""
    execution_status: ExecutionStatus
    execution_created_at: Timestamp
    """To the microsecond."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuditEntry(View):
    """A decision on a suspension, as the audit keeps it."""

    execution_id: str
    workflow_id: str
    step_key: str
    status: str
    """answered, recorded (one of several approvals), expired, closed, skipped or copied to a fork (see
    `reason`), or of an answer that came early: unused or set aside."""
    by: str | None
    at: Timestamp
    channel: str | None
    digest: str | None
    """The SHA-256 of the data shown."""
    opened_at: Timestamp | None
    data: Any
    """The answer; None once its execution was deleted."""
    reason: str | None
    """Why somebody skipped it; of a copied one, its origin."""


# --- executions -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExecutionSummary(View):
    """An execution in a list."""

    id: str
    workflow_id: str
    status: ExecutionStatus
    created_at: Timestamp | None
    started_at: Timestamp | None
    finished_at: Timestamp | None
    queued_at: Timestamp | None
    """Since when it is on its queue, or waits for a slot."""
    starts_at: Timestamp | None
    """When a delayed execution will be put on its queue."""
    ahead: int | None
    """How many executions wait for a slot before it, if it waits for one."""
    worker: str | None
    """The id of the worker that runs it."""
    running_steps: list[RunningStep]
    """Steps whose functions have run for a while."""
    waits_for: list[OpenWait]
    """Some of its open waits, the soonest to end first."""
    open_waits: int
    """How many waits are open in all."""
    reason: str | None
    """Why it is stuck or paused, or has failed: the error's type and the beginning of its message, on one
    line."""
    cancelled_by: str | None
    version: str | None
    """The version of the code that started it; None before its start, and without one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Execution(ExecutionSummary):
    """Everything about an execution."""

    input: Any
    result: Any
    error: Failure | None
    last_error: Failure | None
    """Of the run before this one."""
    run: int | None
    continued_in: int | None
    """The last run that `ctx.continue_as_new` has begun: what is listed here is of the runs since then."""
    root_execution_id: str
    root_workflow_id: str
    parent_execution_id: str | None
    forked_from: str | None
    """The execution whose journal it goes on from. What it has from there ended before `created_at`."""
    forked_by: list[str]
    """Who forked it, and the executions that it goes back to."""
    results_set: list[str]
    """Steps whose results were set by a fork: its own, or one that it goes back to."""
    session_id: str | None
    user_id: str | None
    started_by: str | None
    queue: str
    state: Any
    """`ctx.state`, as of the last park."""
    usage: TokenUsage | None
    """Of its model calls and of the agents that it has waited for."""
    lost_deliveries: int
    """Workers in a row that were lost while they ran it."""
    held_back: HeldBack | None
    """Set while it meets a stored value that no worker can read."""
    stuck: Stuck | None
    records: int
    """Of its journal, the results of children included; see `max_journal_records`."""
    steps: list[ExecutionStep]
    pinned: bool
    """Only workers that serve its version continue it."""
    unserved: bool
    """It is queued, and no worker serves its workflow, or the version that it is pinned to."""
    blocked_loop: LoopBlock | None
    """Set while code blocks the event loop of the worker that runs it: nothing that runs there goes on."""
    unreached_steps: list[str]
    """Journaled steps that its code did not reach until its end."""
    suspensions: list[Suspension]
    open_suspensions: list[Suspension]
    open_suspensions_below: list[Suspension]
    """Those of a root's descendants."""
    early_answers: list[EarlyAnswer]
    waits: list[ExecutionWait]
    children: list[ExecutionChild]
    """Up to 1,000 per step."""
    left_out: dict[str, int]
    """How many older steps, suspensions, waits and children are not listed: the newest 10,000 of each are, up
    to 32 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkflowVersion(View):
    """A version of a workflow that still has open executions, or workers."""

    workflow_id: str
    version: str | None
    """None for executions that have not started, and those that a workflow without a version has started."""
    open: int
    """How many executions of it have not ended."""
    oldest: str | None
    """The id of the oldest of them; None without any, and in the row without a version."""
    oldest_created_at: Timestamp | None
    workers: int | None
    """How many workers announce it now; None in the row without a version."""
