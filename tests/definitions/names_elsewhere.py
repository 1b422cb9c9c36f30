"""Definitions whose annotations are evaluated, not text."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from polos_redis import WorkflowContext
    from tests.definitions.nowhere import Nothing  # type: ignore[import-not-found]


def evaluated(ctx: "WorkflowContext", cents: Annotated[int, Field(gt=0)] = 5) -> "Nothing": ...
