"""`WorkflowState`: a base class for state schemas, in a file of its own because it imports pydantic."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class WorkflowState(BaseModel):
    """A base class for `ctx.state`: a pydantic model that validates assignments, too.

    `@workflow(state_schema=...)` takes any pydantic model; this one has a good default.
    """

    model_config = ConfigDict(validate_assignment=True)
