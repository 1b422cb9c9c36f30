"""The outcome of an execution: the stored form of how its code ended.

A value that can't be stored, a state that can't be saved, `SystemExit` and a cancellation of its own task are
errors of the execution like any exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from polos_redis import failures, tasks
from polos_redis.state.stored_errors import error_record
from polos_redis.values import codec

if TYPE_CHECKING:
    from polos_redis.runtime.durable_state import DurableState


@dataclass(slots=True)
class Outcome:
    """How an execution ends, as the finish script takes it.

    `value` is the output (codec) or the error's record; `event` the data of the finish event (codec) when it
    has failed;
    `state` the workflow's state (codec), empty for none; `unreached` the journaled steps that the code did
    not reach; `events` are emitted before the finish event. `error` is what the code raised, and `line` its
    kind and message; both are only logged.
    """

    status: str
    value: bytes
    event: bytes
    state: bytes
    unreached: Sequence[bytes] = ()
    events: Sequence[bytes] = ()
    error: BaseException | None = None
    line: str = ""

    def fields(self) -> list[bytes]:
        """Returns the other fields of the execution: name, value, ..."""
        fields = [b"unreached", msgpack.packb(self.unreached)] if self.unreached else []
        if self.state:
            fields += [b"state", self.state]
        return fields


def outcome_of(
    task: asyncio.Task[Any], durable_state: DurableState | None, run: int, value_limit: int, note: str = ""
) -> Outcome:
    """Returns the outcome of the code's main task, which is done; `note` as in `failed`."""
    if task.cancelled():
        exited = tasks.WorkflowExit("the workflow's code cancelled its own task")
        return failed(exited, durable_state, run, note)
    raised = task.exception()
    if raised is not None:
        return failed(raised, durable_state, run, note)
    try:
        output = codec.encode(task.result(), limit=value_limit)
        state = b"" if durable_state is None else durable_state.pack()
    except BaseException as error:
        return failed(error, durable_state, run, note)
    return Outcome("completed", output, b"", state)


def failed(error: BaseException, durable_state: DurableState | None, run: int, note: str = "") -> Outcome:
    """Returns the outcome of a failure, whose message ends with a note; a state that can't be saved is left
    out."""
    line = failures.line_of(error) + note
    fields: dict[str, Any] = {"status": "failed", "error": line}
    event = codec.encode(fields if run == 1 else {**fields, "run": run})
    try:
        state = b"" if durable_state is None else durable_state.pack()
    except BaseException:  # a property of the state may raise anything
        state = b""
    return Outcome("failed", error_record(error, note), event, state, error=error, line=line)
