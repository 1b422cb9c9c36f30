"""`WorkflowState`: a base class for state schemas. Apart, because it imports pydantic."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class WorkflowState(BaseModel):
    """What a workflow keeps as `ctx.state`: a pydantic model whose assignments are validated, too.

    `@workflow(state_schema=...)` takes any pydantic model; this is one with a good default.
    """

    model_config = ConfigDict(validate_assignment=True)
