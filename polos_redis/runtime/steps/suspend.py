"""`ctx.step.suspend`: stop until a person answers; `ctx.step.resume`: answer another execution."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload

from polos_redis import failures, tasks
from polos_redis.decisions import answers
from polos_redis.decisions.answer_form import AnswerForm, check_form
from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.decisions.answer_types import UNTYPED, AnswerTypes, Rejection
from polos_redis.decisions.changed_types import read_answer
from polos_redis.errors import (
    ConfigurationError,
    InvalidAnswerError,
    StepExecutionError,
    SuspendTimeoutError,
    UnreadableValueError,
)
from polos_redis.runtime.branches import one_wait, race_membership
from polos_redis.runtime.call_sites import CallSite, caller
from polos_redis.runtime.steps.run import Runs
from polos_redis.state.journal import SuspensionRecord
from polos_redis.state.suspensions import SuspensionRequest
from polos_redis.values import codec, digests, records
from polos_redis.values.complete_form import hidden_part
from polos_redis.values.text import raw
from polos_redis.values.times import milliseconds, to_datetime

T = TypeVar("T")
R = TypeVar("R")

FAIL = "fail"


class Approvable(Protocol):
    """An answer that says whether it approves."""

    @property
    def approved(self) -> object: ...


A = TypeVar("A", bound=Approvable)


class Suspending(Runs):
    """Steps that wait for a person, or answer in place of one."""

    __slots__ = ()

    @overload
    def suspend(
        self,
        key: str,
        data: Any = None,
        timeout: float | timedelta | None = None,
        *,
        schema: None = None,
        reject_schema: None = None,
        form: AnswerForm | None = None,
        approvers: Iterable[str] | None = None,
        required: int = 1,
        rejections: int = 1,
        allow_self: bool = True,
        on_timeout: Any = "fail",
    ) -> Coroutine[Any, Any, dict[str, Any]]: ...
    @overload
    def suspend(
        self,
        key: str,
        data: Any = None,
        timeout: float | timedelta | None = None,
        *,
        schema: type[A],
        reject_schema: None = None,
        form: AnswerForm | None = None,
        approvers: Iterable[str] | None = None,
        required: int = 1,
        rejections: int = 1,
        allow_self: bool = True,
        on_timeout: Any = "fail",
    ) -> Coroutine[Any, Any, A | Rejection]: ...
    @overload
    def suspend(
        self,
        key: str,
        data: Any = None,
        timeout: float | timedelta | None = None,
        *,
        schema: type[T],
        reject_schema: type[R],
        form: AnswerForm | None = None,
        approvers: Iterable[str] | None = None,
        required: int = 1,
        rejections: int = 1,
        allow_self: bool = True,
        on_timeout: Any = "fail",
    ) -> Coroutine[Any, Any, T | R]: ...
    @overload
    def suspend(
        self,
        key: str,
        data: Any = None,
        timeout: float | timedelta | None = None,
        *,
        schema: type[T],
        reject_schema: None = None,
        form: AnswerForm | None = None,
        approvers: Iterable[str] | None = None,
        required: int = 1,
        rejections: int = 1,
        allow_self: bool = True,
        on_timeout: Any = "fail",
    ) -> Coroutine[Any, Any, T]: ...
    @overload  # unions and `Annotated`, which are no classes
    def suspend(
        self,
        key: str,
        data: Any = None,
        timeout: float | timedelta | None = None,
        *,
        schema: object,
        reject_schema: object = None,
        form: AnswerForm | None = None,
        approvers: Iterable[str] | None = None,
        required: int = 1,
        rejections: int = 1,
        allow_self: bool = True,
        on_timeout: Any = "fail",
    ) -> Coroutine[Any, Any, Any]: ...
    def suspend(
        self,
        key: str,
        data: Any = None,
        timeout: float | timedelta | None = None,
        *,
        schema: Any = None,
        reject_schema: Any = None,
        form: AnswerForm | None = None,
        approvers: Iterable[str] | None = None,
        required: int = 1,
        rejections: int = 1,
        allow_self: bool = True,
        on_timeout: Any = FAIL,
    ) -> Coroutine[Any, Any, Any]:
        """Stop until a person answers. While it waits, the execution holds nothing but a few small keys.

        `data` (a dict, or a model, which is shown as a dict) is shown to the person; `timeout` is in seconds
        (or a timedelta), counted by the server from when the wait first opened.

        `schema` is the type of the answer (a model, a dataclass, any type pydantic knows): every way in
        refuses an answer that does not fit, before the workflow wakes. If it has a field `approved: bool` and
        other required fields, only an approval needs those: an answer with `approved: false` has just that
        and a `reason`, and is returned as a `Rejection`. `reject_schema` is another type for such answers.

        `form` is the page's form: its title, and the fields of an answer without `schema`. Pass it, or `{}`,
        if any part of `data` comes from outside: without `form` and `schema`, a `_form` in `data` is the
        form.

        `approvers` are the names, or `group:NAME`, of those who may answer. `required` approvals
        (`approved: true`) by distinct people decide, or `rejections` rejections; `allow_self=False` excludes
        those who started the execution (its `user_id` and `started_by`). `on_timeout` is "fail", or the
        answer to use if nobody decides in time.

        Returns the answer as its type. Without a `schema`, returns {"data": the answer, "resumed_by": name or
        None, "resumed_at": aware datetime, "channel": how it came}, and "decisions" if several people decide.
        Raises `SuspendTimeoutError` if nobody decided in time, now and at every replay. Raises
        `StepExecutionError` if the type's own validators refuse an answer that was checked without them.
        """
        self._refuse_inside_step(key, "suspend")
        types = AnswerTypes(schema, reject_schema)
        ask = Ask(data, timeout, types, approvers, required, rejections, allow_self, on_timeout, form)
        return self._suspend(key, ask, caller())

    @one_wait
    async def _suspend(self, key: str, ask: Ask, call_site: CallSite) -> Any:
        activation = self._activation
        stored = await self._start_call(key, call_site)
        task = asyncio.current_task()
        if task is not None and task is not activation.code.main:
            task.add_done_callback(
                functools.partial(activation.parking.caller_done, key), context=tasks.OUTSIDE
            )
        if stored is None:
            request = await self._request(key, ask)
            events, races = activation.events.first(), race_membership()
            store, name = activation.host.store, raw(key)
            stored = await self._commit_wait(
                key, lambda known: store.fenced.suspend(activation.fence, known, name, request, races, events)
            )
        record = await self._decision(key, stored, SuspensionRecord, call_site)
        if record.status == "expired" and not record.answer:
            raise SuspendTimeoutError(key, (record.deadline_ms - record.opened_ms) / 1000)
        if ask.types.approval is not None:
            return await self._typed(key, ask.types, record)
        answer = {
            "data": await self._decode_foreign(key, record.answer),
            "resumed_by": record.by or None,
            "resumed_at": to_datetime(record.decided_ms),
            "channel": record.channel or "timeout",
        }
        if record.decisions:
            answer["decisions"] = [
                {
                    "data": await self._decode_foreign(key, one.answer),
                    "by": one.by,
                    "at": to_datetime(one.at_ms),
                    "channel": one.channel,
                }
                for one in record.decisions
            ]
        return answer

    async def _typed(self, key: str, types: AnswerTypes, record: SuspensionRecord) -> Any:
        """Returns the answer as its type."""
        try:
            reading = read_answer(record.answer, types, record.policy)
            return await self._activation.check(record.answer, reading)
        except UnreadableValueError as unreadable:
            await self._hold_back(key, unreadable)
        except Exception as error:  # a mismatch, or an error of the type's own validators
            raise StepExecutionError(key, "InvalidAnswerError", failures.text_of(error)) from error

    async def _request(self, key: str, ask: Ask) -> SuspensionRequest:
        """Returns the request to store. Raises `ConfigurationError` or `InvalidInputError`."""
        activation = self._activation
        host, what = activation.host, f"suspension {key!r}"
        given = dict(ask.data) if isinstance(ask.data, Mapping) else ask.data
        decided = codec.encode(given, limit=host.value_limit)
        seen = _shown(given)
        if (hidden := hidden_part(given, seen)) is not None:
            raise ConfigurationError(
                f"{what}: data= has {hidden}, so nobody would see it: pass a dict of what to show"
            )
        shown = codec.encode(seen, limit=host.value_limit)
        declared_form = b""
        if ask.form is not None:
            checked = check_form(what, ask.form, typed=ask.types.approval is not None)
            declared_form = codec.encode(checked, limit=host.value_limit)
        policy = b""
        if ask.has_policy:
            starters = activation.origin.starters
            declared = AnswerPolicy.of(
                what, ask.types, ask.approvers, ask.required, ask.rejections, ask.allow_self, starters
            )
            policy = declared.pack()
        timeout_ms = milliseconds(what, ask.timeout) or 0
        default = b""
        if not _is_fail(ask.on_timeout):
            if not timeout_ms:
                raise ConfigurationError(f"{what}: on_timeout= needs timeout=")
            default = codec.encode(ask.on_timeout, limit=host.value_limit)
            if ask.has_policy:
                form, is_instance = declared.form_of(ask.on_timeout)
                check = declared.check_instance if is_instance else declared.check_answer
                try:
                    await check(activation.id, key, form)
                except InvalidAnswerError as error:
                    raise ConfigurationError(f"{what}: on_timeout={ask.on_timeout!r}: {error}") from None
        return SuspensionRequest(
            shown,
            digests.shown_digest(decided, declared_form),
            timeout_ms,
            host.audit_ms,
            policy,
            default,
            await self._with_url(key, ask.data),
            host.channel_names,
            activation.run,
            declared_form,
        )

    async def _with_url(self, key: str, data: Any) -> bytes:
        """Returns the suspend event's data with the approval page's URL; empty without such a page."""
        activation = self._activation
        links = activation.host.links
        if links is None or links.public_url is None:
            return b""
        shown = _shown(data)
        if not isinstance(shown, dict):
            return b""
        activation.in_flight += 1  # no park until the suspension is open
        try:
            created_at = await self._created_at()
            now = await activation.host.store.clock.now()
        finally:
            activation.landed()
        url = links.url(activation.id, key, activation.run, created_at, at=now)
        return codec.encode({**shown, "_approval_url": url}, limit=codec.UNLIMITED)

    def resume(
        self,
        key: str,
        suspend_step_key: str,
        suspend_execution_id: str,
        suspend_workflow_id: str | None = None,
        data: Any = None,
        *,
        resumed_by: str | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Answer a suspension of another execution, once. Raises `StepExecutionError` if it is refused."""
        activation = self._activation
        connection, by = activation.host.connection, resumed_by or f"execution {activation.id}"

        def decide() -> Coroutine[Any, Any, answers.Resumed]:
            return answers.decide(
                connection, suspend_execution_id, suspend_step_key, data, by=by, channel="workflow"
            )

        async def answer() -> None:
            await activation.journal.ask(decide)

        return self._run(key, True, answer, 0, 0.0, 0.0, caller())


def _is_fail(on_timeout: Any) -> bool:
    return isinstance(on_timeout, str) and on_timeout == FAIL


@dataclass(frozen=True, slots=True)
class Ask:
    """The arguments of a suspension."""

    data: Any
    timeout: float | timedelta | None
    types: AnswerTypes
    approvers: Iterable[str] | None = None
    required: int = 1
    rejections: int = 1
    allow_self: bool = True
    on_timeout: Any = FAIL
    form: AnswerForm | None = None

    @property
    def has_policy(self) -> bool:
        """Whether it restricts answers at all: a suspension without a policy accepts anything from anyone."""
        return (
            self.types != UNTYPED
            or self.approvers is not None
            or self.required != 1
            or self.rejections != 1
            or self.allow_self is not True
        )


def _shown(data: Any) -> Any:
    """Returns `data` as a person is shown it, by whichever process: models and dataclasses as plain dicts."""
    if data is None:
        return {}
    if isinstance(data, Mapping):
        return {key: _part(value) for key, value in data.items()}
    return codec.plain(data)


def _part(value: Any) -> Any:
    cls = type(value)
    if cls is dict:
        return {key: _part(one) for key, one in value.items()}
    if cls in (list, tuple):
        return cls(map(_part, value))
    return codec.plain(value) if records.kind_of(cls) in (records.MODEL, records.DATACLASS) else value
