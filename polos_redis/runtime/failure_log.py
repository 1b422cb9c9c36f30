"""Log records of failures: the error, the step and attempt it came from, and where in the user's code."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from polos_redis import failures
from polos_redis.errors import StepExecutionError
from polos_redis.state.failed_execution import FailedExecution

logger = logging.getLogger("polos.execution")


def log_failure(level: int, message: str, error: BaseException, facts: dict[str, Any]) -> None:
    """Log a failure with its facts, `step` and `attempt` if a step is the cause, and the traceback: in a log
    of text the frames of the user's own code, while handlers that report errors get the exception itself."""
    if not logger.isEnabledFor(level):
        return
    facts = {**facts, **_failed_step(error)}
    raised = (type(error), error, failures.frames_of(error))
    record = logger.makeRecord(logger.name, level, __file__, 0, message, (), raised, extra=facts)
    record.exc_text = failures.traceback_of(error, of_user=True).rstrip()
    logger.handle(record)


def log_failed_executions(failed: Iterable[FailedExecution]) -> None:
    """Log executions that a script has failed."""
    for one in failed:
        logger.error("failed", extra=one._asdict())


def log_paused_executions(paused: Iterable[FailedExecution]) -> None:
    """Log executions that a script has paused, as they failed."""
    for one in paused:
        logger.warning("paused", extra=one._asdict())


def _failed_step(error: BaseException) -> dict[str, Any]:
    """Returns the step that has failed, and its last attempt, if that is where an error came from."""
    for one in failures.chain(error):
        if failures.is_a(one, StepExecutionError):
            known: Any = one
            try:
                return {"step": known.step_key, "attempt": known.attempts}
            except BaseException:  # a user's subclass
                break
    return {}
