"""`ctx.step.suspend`: stop until a person answers; `ctx.step.resume`: answer another execution."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, overload

from polos_redis.decisions import answers
from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.errors import (
    ConfigurationError,
    InvalidAnswerError,
    StepExecutionError,
    SuspendTimeoutError,
)
from polos_redis.runtime.branches import one_wait, race_membership
from polos_redis.runtime.call_sites import CallSite, caller
from polos_redis.runtime.steps.calls import decoded
from polos_redis.runtime.steps.run import Runs
from polos_redis.state import stored_errors
from polos_redis.state.journal import SuspensionRecord
from polos_redis.state.suspensions import SuspensionRequest
from polos_redis.values import codec, digests, schemas
from polos_redis.values.text import raw
from polos_redis.values.times import milliseconds, to_datetime

T = TypeVar("T")

FAIL = "fail"


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
        schema: type[T],
        approvers: Iterable[str] | None = None,
        required: int = 1,
        rejections: int = 1,
        allow_self: bool = True,
        on_timeout: Any = "fail",
    ) -> Coroutine[Any, Any, T]: ...
    def suspend(
        self,
        key: str,
        data: Any = None,
        timeout: float | timedelta | None = None,
        *,
        schema: Any = None,
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
        refuses an answer that does not fit, before the workflow wakes. `approvers` are the names, or
        `group:NAME`, of those who may answer. `required` approvals (`approved: true`) by distinct people
        decide, or `rejections` rejections; `allow_self=False` excludes those who started the execution (its
        `user_id` and `started_by`). `on_timeout` is "fail", or the answer to use if nobody decides in time.

        Returns an instance of `schema`; without one {"data": the answer, "resumed_by": name or None,
        "resumed_at": aware datetime, "channel": how it came}, and "decisions" if several people decide.
        Raises `SuspendTimeoutError` if nobody decided in time, now and at every replay. Raises
        `StepExecutionError` if the answer does not fit a type that has changed since.
        """
        self._refuse_inside_step(key, "suspend")
        ask = _Ask(data, timeout, schema, approvers, required, rejections, allow_self, on_timeout)
        return self._suspend(key, ask, caller())

    @one_wait
    async def _suspend(self, key: str, ask: _Ask, call_site: CallSite) -> Any:
        activation = self._activation
        stored = await self._start_call(key, call_site)
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
        if ask.schema is not None:
            return await self._typed(key, ask.schema, record)
        answer = {
            "data": decoded(record.answer),
            "resumed_by": record.by or None,
            "resumed_at": to_datetime(record.decided_ms),
            "channel": record.channel or "timeout",
        }
        if record.decisions:
            answer["decisions"] = [
                {
                    "data": decoded(one.answer),
                    "by": one.by,
                    "at": to_datetime(one.at_ms),
                    "channel": one.channel,
                }
                for one in record.decisions
            ]
        return answer

    async def _request(self, key: str, ask: _Ask) -> SuspensionRequest:
        """Returns the request to store. Raises `ConfigurationError` or `InvalidInputError`."""
        activation = self._activation
        host, what = activation.host, f"suspension {key!r}"
        shown = codec.encode(_shown(ask.data), limit=host.value_limit)
        policy = b""
        if ask.has_policy:
            starters = activation.origin.starters
            declared = AnswerPolicy.of(
                what, ask.schema, ask.approvers, ask.required, ask.rejections, ask.allow_self, starters
            )
            policy = declared.pack()
        timeout_ms = milliseconds(what, ask.timeout) or 0
        default = b""
        if not _is_fail(ask.on_timeout):
            if not timeout_ms:
                raise ConfigurationError(f"{what}: on_timeout= needs timeout=")
            plain = codec.to_plain(codec.encode(ask.on_timeout, limit=host.value_limit))
            if ask.has_policy:
                try:
                    await declared.check_answer(activation.id, key, plain)
                except InvalidAnswerError as error:
                    raise ConfigurationError(f"{what}: on_timeout={ask.on_timeout!r}: {error}") from None
            default = codec.encode(plain if ask.schema is not None else ask.on_timeout)
        return SuspensionRequest(
            shown,
            digests.shown_digest(shown),
            timeout_ms,
            host.audit_ms,
            policy,
            default,
            self._with_url(key, ask.data),
            host.channel_names,
            activation.run,
        )

    async def _typed(self, key: str, schema: Any, record: SuspensionRecord) -> Any:
        """Returns the answer as an instance of the suspension's schema."""
        try:
            plain = codec.to_plain(record.answer)
            return await self._activation.check(plain, schemas.parse(schema, plain))
        except Exception as error:  # a mismatch, or an error of the type's own validators
            raise StepExecutionError(key, "InvalidAnswerError", stored_errors.text_of(error)) from error

    def _with_url(self, key: str, data: Any) -> bytes:
        """Returns the suspend event's data with the approval page's URL; empty without such a page."""
        activation = self._activation
        links = activation.host.links
        shown = _shown(data)
        if links is None or links.public_url is None or not isinstance(shown, dict):
            return b""
        url = links.url(activation.id, key, activation.run)
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
        client, by = self._activation.host.client, resumed_by or f"execution {self._activation.id}"

        async def answer() -> None:
            await answers.decide(
                client, suspend_execution_id, suspend_step_key, data, by=by, channel="workflow"
            )

        return self._run(key, True, answer, 0, 0.0, 0.0, caller())


def _is_fail(on_timeout: Any) -> bool:
    return isinstance(on_timeout, str) and on_timeout == FAIL


@dataclass(frozen=True, slots=True)
class _Ask:
    """The arguments of a suspension."""

    data: Any
    timeout: float | timedelta | None
    schema: Any
    approvers: Iterable[str] | None
    required: int
    rejections: int
    allow_self: bool
    on_timeout: Any

    @property
    def has_policy(self) -> bool:
        """Whether it restricts answers at all: a suspension without a policy accepts anything from anyone."""
        return (
            self.schema is not None
            or self.approvers is not None
            or self.required != 1
            or self.rejections != 1
            or self.allow_self is not True
        )


def _shown(data: Any) -> Any:
    """Returns `data` as a person is shown it: a model or dataclass as a plain dict."""
    if data is None:
        return {}
    if isinstance(data, Mapping):
        return dict(data)
    return codec.plain(data)
