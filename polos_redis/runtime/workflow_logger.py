"""`ctx.logger`: a logger whose records carry the execution, and that is silent while its code is replayed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from polos_redis import tasks
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.lifecycle_events import StepAttempt

logger = logging.getLogger("polos.workflow")


class WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger `polos.workflow`, with the facts of one execution in each record: `execution` and
    `workflow`, and inside a step `step` and `attempt`; `extra=` adds more. Nothing is logged during a replay
    and after the activation's end: the code will log the same again, or has."""

    def __init__(self, code: CodeTasks) -> None:
        super().__init__(logger, None)
        self._code = code

    def isEnabledFor(self, level: int) -> bool:
        """Whether a record of this level would be logged now."""
        return self.logger.isEnabledFor(level) and self._facts() is not None

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the facts to a record's `extra`."""
        extra: Mapping[str, Any] = kwargs.get("extra") or {}
        kwargs["extra"] = {**(self._facts() or {}), **extra}
        return msg, kwargs

    def _facts(self) -> dict[str, Any] | None:
        owner = tasks.OWNER.get()
        if isinstance(owner, StepAttempt) and owner.code is self._code:
            return owner.log_facts()
        return self._code.log_facts()  # also in a thread that does not have the caller's context
