"""Forking: a new execution that goes on from the journal of another one, up to a step of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import floor
from typing import Any

import msgpack

from polos_redis.connection.connection import Connection
from polos_redis.decisions.people import check_name
from polos_redis.definitions.published import definition_of
from polos_redis.errors import (
    ExecutionNotFoundError,
    InternalWorkflowError,
    InvalidInputError,
    NotConfirmedError,
    StepNotForkableError,
)
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.journal_cut import cut
from polos_redis.state import journal, keys
from polos_redis.state.journal import ChildRecord, StepRecord, SuspensionRecord
from polos_redis.state.origin import Origin
from polos_redis.state.start import Start
from polos_redis.state.store import Store
from polos_redis.tasks import Slices
from polos_redis.values import codec, replacement
from polos_redis.values.json_value import JsonValue
from polos_redis.values.text import raw, text
from polos_redis.values.times import to_iso
from polos_redis.wire.durable import Durability

MOST_BYTES = 1 << 25  # of the input and the records of a fork, which are written by one script
MOST_SET = 100  # results that one fork replaces
_pack: Callable[[float], bytes] = msgpack.Packer().pack
_ANONYMOUS = "an anonymous user"


async def fork(
    connection: Connection,
    execution_id: str,
    *,
    from_step: str,
    results: Mapping[str, Any] | None = None,
    keep_decisions: bool = False,
    by: str | None = None,
    durability: Durability | None = None,
) -> ExecutionHandle[Any]:
    """See `PolosClient.fork`."""
    results = dict(results or {})
    if by:
        check_name("by", by, InvalidInputError)
    for key in (from_step, *results):
        keys.check_text("a step key", key, keys.LONGEST_STEP_KEY)
    if len(results) > MOST_SET:
        raise InvalidInputError(f"{len(results)} results are to be set, and {MOST_SET} are allowed")
    store = await connection.acknowledging_store(durability)
    fields, stored = await _read(store, execution_id)
    workflow_id = text(fields["workflow"])
    if (await definition_of(store, workflow_id)).internal:
        raise InternalWorkflowError(workflow_id, "fork")
    if raw(from_step) not in stored or not journal.is_step_key(raw(from_step)):
        raise StepNotForkableError(
            execution_id,
            from_step,
            f"its journal has no such step; 'polos show {execution_id}' lists those it has",
        )
    kept = cut(execution_id, stored, from_step, keep_decisions=keep_decisions)
    for key, value in results.items():
        kept[raw(key)] = _with_result(connection, execution_id, key, value, stored, kept, from_step)
        _check_decisions(execution_id, key, floor(journal.finished_at(stored[raw(key)])), kept)
    size = len(fields["input"]) + sum(len(name) + len(one) for name, one in kept.items())
    if size > MOST_BYTES:
        raise StepNotForkableError(
            execution_id,
            from_step,
            f"{size / (1 << 20):.1f} MiB of journal come before it, and a fork copies at most "
            f"{MOST_BYTES >> 20} MiB: fork from an earlier step",
        )
    fork_id = os.urandom(16).hex()
    event: dict[str, Any] = {
        "workflow_id": workflow_id,
        "execution_id": fork_id,
        "forked_from": execution_id,
        "from_step": from_step,
    }
    if results:
        event["results_set"] = list(results)
    try:
        await store.executions.fork(
            fork_id,
            workflow_id,
            fields["input"],
            connection.retention_ms,
            _start(fields, execution_id, by, tuple(results)),
            codec.encode(event),
            kept,
            _copied(execution_id, kept, by or ""),
        )
    except NotConfirmedError as error:
        error.execution_id = fork_id
        raise
    return ExecutionHandle(connection, fork_id, workflow_id)


async def _read(store: Store, execution_id: str) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """Returns the fields of an execution and its journal, both of one run of it."""
    while True:
        fields = await store.executions.read(execution_id)
        if "workflow" not in fields:
            raise ExecutionNotFoundError(execution_id)
        stored: dict[bytes, bytes] = {}
        slices = Slices()
        async for page in store.executions.journal_pages(execution_id):
            stored.update(page)
            await slices.pause()
        after = await store.executions.read_fields(execution_id, "created", "run")
        if after == [fields["created"], fields["run"]]:
            return fields, stored


def _start(
    fields: Mapping[str, bytes], execution_id: str, by: str | None, results_set: tuple[str, ...]
) -> Start:
    """The start options of a fork: those of the execution, as a root of its own."""
    workflow_id = text(fields["workflow"])
    origin = Origin.unpack(workflow_id, fields.get("origin"))
    people = dict.fromkeys((*origin.forked_by, *((by,) if by else ())))
    origin = replace(
        origin,
        root_workflow_id=workflow_id,
        parent_execution_id=None,
        forked_from=execution_id,
        forked_by=tuple(people),
        results_set=tuple(dict.fromkeys((*origin.results_set, *results_set))),
    )
    packed = fields.get("relations")
    relations = {} if packed is None else msgpack.unpackb(packed, raw=True)
    semaphore, timeout, limit = (relations.get(name) for name in (b"semaphore", b"timeout", b"limit"))
    return Start(
        queue=keys.parse_stream(text(fields.get("queue")))[0] or keys.DEFAULT_QUEUE,
        semaphore=None if semaphore is None else text(semaphore),
        limit=None if limit is None else int(limit),
        timeout=None if timeout is None else int(timeout),
        origin=origin.pack(),
    )


def _with_result(
    connection: Connection,
    execution_id: str,
    key: str,
    value: Any,
    stored: Mapping[bytes, bytes],
    kept: Mapping[bytes, bytes],
    from_step: str,
) -> bytes:
    """Returns a step's record with another result. It keeps its time, and JSON gets the types of the result
    that it replaces."""

    def refusal(why: str) -> StepNotForkableError:
        return StepNotForkableError(execution_id, key, why)

    name = raw(key)
    if name not in stored or not journal.is_step_key(name):
        raise refusal("its result can't be set: the journal has no such step")
    record = journal.parse(stored[name])
    if isinstance(record, SuspensionRecord):
        raise refusal("its answer can't be set: a decision is made by a person, in the fork as well")
    if not isinstance(record, StepRecord) or journal.is_patch(name):
        what = "patch" if isinstance(record, StepRecord) else journal.word_for(type(record))
        raise refusal(f"its result can't be set: it is a {what}, and only results of steps can be")
    if name not in kept and key != from_step:
        raise refusal(f"its result can't be set: it had not ended when {from_step!r} began, so it runs again")
    limit = connection.max_value_bytes
    try:
        if not isinstance(value, JsonValue):
            encoded = codec.encode(value, limit=limit)
        elif record.status == "ok":
            encoded = replacement.encode_like(record.value, value.value, limit=limit)
        else:
            encoded = codec.encode(value.value, limit=limit)
    except InvalidInputError as error:
        raise InvalidInputError(f"the result of step {key!r}: {error}") from None
    branches = [part for pair in record.branches for part in pair]
    untimed = journal.step_record("ok", record.attempt, record.took_ms, encoded, record.state, branches)
    return untimed + _pack(journal.finished_at(stored[name]))


def _check_decisions(execution_id: str, key: str, ended_ms: int, kept: Mapping[bytes, bytes]) -> None:
    """Refuses another result for a step where people may have decided on the one it had: a suspension, or a
    child that was started, after the step had ended."""
    for name, stored in kept.items():
        record = None if journal.is_result(name) else journal.parse(stored)
        if not isinstance(record, (SuspensionRecord, ChildRecord)) or record.opened_ms < ended_ms:
            continue
        if isinstance(record, SuspensionRecord):
            what = f"the decision {text(name)!r} may be about it"
            way_out = "let people decide again (without keep_decisions)"
        else:
            what = f"people may have decided about it in the child {text(name)!r}"
            way_out = "fork from that step or an earlier one"
        raise StepNotForkableError(
            execution_id, key, f"its result can't be set: {what}, and would be copied; {way_out}"
        )


def _copied(execution_id: str, kept: Mapping[bytes, bytes], by: str) -> list[tuple[str, str, str]]:
    """Returns the suspensions that are copied, as the audit of the fork notes them."""
    found = []
    for name, stored in kept.items():
        record = None if journal.is_result(name) else journal.parse(stored)
        if isinstance(record, SuspensionRecord):
            what = record.status
            if what == "answered":
                people = [one.by for one in record.decisions] or [record.by]
                what = f"decided by {', '.join(dict.fromkeys(one or _ANONYMOUS for one in people))}"
            at = to_iso(record.decided_ms)
            found.append((text(name), by, f"{what} at {at}, copied from execution {execution_id}"))
    return found
