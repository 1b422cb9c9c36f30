"""Shapes of the API's requests and responses. Requests are validated; responses are only documented, in
/openapi.json: what a query returns (results.py), and the shapes here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from polos_redis.executions.ending import LONGEST_REASON, MOST_SKIPPED
from polos_redis.executions.forking import MOST_SET
from polos_redis.results import AuditEntry, ExecutionSummary, Suspension, Timestamp
from polos_redis.state.keys import LONGEST_NAME, LONGEST_STEP_KEY
from polos_redis.values.names import LONGEST

BYTES = f"At most {LONGEST_NAME} bytes of UTF-8."
# `check_text` counts bytes of UTF-8, where JSON Schema counts characters.
_NAMED = {"format": "name", "maxLength": LONGEST_NAME}
_STEP_KEY = {"format": "step-key", "maxLength": LONGEST_STEP_KEY}
Name = Annotated[str, Field(min_length=1, json_schema_extra=_NAMED, description=BYTES)]
AnyName = Annotated[str, Field(json_schema_extra=_NAMED, description=BYTES)]
StepKey = Annotated[
    str, Field(json_schema_extra=_STEP_KEY, description=f"At most {LONGEST_STEP_KEY} bytes of UTF-8.")
]
PERSON_NAME = "A person's name has no invisible characters, and letters of one script."
Person = Annotated[str, Field(json_schema_extra={"format": "person-name", "maxLength": LONGEST})]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[
    str | None, Query(pattern=r"^[0-9]{1,18}$", description="The next_cursor of the page before.")
]
PlaceCursor = Annotated[
    str | None, Query(pattern=r"^[0-9]{1,18}-.{1,256}$", description="The next_cursor of the page before.")
]


class RequestBody(BaseModel):
    """A request body. Unknown fields are errors, because they are most likely misspelt."""

    model_config = ConfigDict(extra="forbid")


class StartRequest(RequestBody):
    """An execution to start. All fields but `workflow_id` and `input` are options of `client.invoke`."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "description": "start_delay and start_at are mutually exclusive",
                "required": ["start_delay", "start_at"],
                "properties": {"start_delay": {"type": "number"}, "start_at": {"type": "string"}},
            }
        }
    )

    workflow_id: Name
    input: Any = None
    idempotency_key: Name | None = Field(None, description="The same as the header Idempotency-Key.")
    queue: Annotated[Name, Field(pattern=r"^[^\x00]*$")] | None = None
    concurrency_key: AnyName | None = None
    run_timeout_seconds: Annotated[float, Field(gt=0, le=1e9, strict=True)] | None = None
    start_delay: Annotated[float, Field(ge=0, le=1e9, strict=True)] | None = Field(
        None, description="In seconds."
    )
    start_at: AwareDatetime | None = None
    session_id: AnyName | None = None
    user_id: Person | None = Field(None, description=f"Default: the caller's name. {PERSON_NAME}")
    initial_state: Any = None


class ResumeRequest(RequestBody):
    """An answer to a suspension."""

    step_key: StepKey
    data: Any
    shown_digest: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = Field(
        None,
        description="The digest of the suspension as shown. If it has changed, the answer is refused.",
    )
    early: bool = Field(
        False,
        strict=True,
        description="Store the answer if its suspension is not open yet. It is for this very execution, not "
        "for its descendants.",
    )
    resumed_by: Annotated[Person, Field(min_length=1)] | None = Field(
        None, description=f"The person answered for. Requires the scope admin. {PERSON_NAME}"
    )


class RetryRequest(RequestBody):
    """How to retry an execution; without a body, nothing is skipped."""

    model_config = ConfigDict(
        json_schema_extra={"dependentRequired": {"skip": ["reason"], "reason": ["skip"]}}
    )

    skip: StepKey | Annotated[list[StepKey], Field(min_length=1, max_length=MOST_SKIPPED)] = Field(
        default_factory=list,
        description="Step keys of accepted answers that the code need not reach. Requires the scope admin, "
        "and a reason.",
    )
    reason: Annotated[str, Field(max_length=LONGEST_REASON, pattern=r"\S")] = Field(
        default_factory=str, description="Why they are skipped, for the audit."
    )


class ForkRequest(RequestBody):
    """From where to fork an execution."""

    from_step: StepKey = Field(description="The step key of the first step to run again.")
    results: Annotated[dict[StepKey, Any], Field(max_length=MOST_SET)] = Field(
        default_factory=dict, description="Other results for steps, by step key."
    )
    keep_decisions: bool = Field(
        False,
        strict=True,
        description="Copy the answers of people instead of asking again. Requires the scope admin, and is "
        "noted in the audit.",
    )


class Shape(BaseModel):
    """A response; later releases may add members."""

    model_config = ConfigDict(extra="allow")


class Started(Shape):
    id: str
    workflow_id: str


class ExecutionPage(Shape):
    executions: list[ExecutionSummary]
    next_cursor: str | None


class SuspensionPage(Shape):
    suspensions: list[Suspension]
    next_cursor: str | None


class Decided(Shape):
    """`outcome`: accepted (the workflow continues), same (this answer was already given), recorded (one of
    several approvals), early (stored until the suspension opens)."""

    outcome: Literal["accepted", "same", "recorded", "early"]
    execution_id: str
    step_key: str
    resumed_by: str | None
    resumed_at: Timestamp
    approvals: int
    required: int


class Cancelled(Shape):
    id: str
    status: Literal["cancelled"]
    cancelled_by: str | None


class Forked(Shape):
    id: str
    workflow_id: str
    forked_from: str


class Retried(Shape):
    id: str
    run: int


class Deleted(Shape):
    deleted: int


class Audit(Shape):
    audit: list[AuditEntry]
    next_cursor: str | None


class Health(Shape):
    status: str


class ProblemShape(Shape):
    """Problem details (RFC 9457); some kinds have further members."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(
        None, description="The invalid fields: field, such as a.b.0, and message."
    )
