"""`ctx.state`: what a workflow keeps for others to see, saved at every park and at the end.

Every activation begins with the initial state, and the workflow's code makes of it what it made before. A
step's function does not run again, so the fields it has changed are journaled with its result, and a replay
puts them back. Side by side with other tasks of the workflow, a step works on a copy: its changes are its
own, whatever the others do meanwhile, and are taken over when it has succeeded.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from polos_redis.errors import StateConflictError, StoredValueError
from polos_redis.values import codec

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext
    from polos_redis.workflow import Workflow

_EXTRA, _PRIVATE = "*", "_"  # names that no field of a model has
_NO_LIMIT = 1 << 40  # bytes; for what is only compared

_set = object.__setattr__  # past frozen models and pydantic's own __setattr__

_draft: ContextVar[Draft | None] = ContextVar("polos_draft", default=None)


class DurableState:
    """The state of one activation's execution: a pydantic model, changed in place only."""

    __slots__ = ("claimed", "limit", "value")

    def __init__(self, value: Any, limit: int) -> None:
        self.value = value
        self.limit = limit
        self.claimed: set[str] = set()  # fields that steps are about to change: their results are on the way

    def seen(self) -> Any:
        """The state as the code that asks sees it: inside a step's function, that step's draft of it."""
        draft = _draft.get()
        return self.value if draft is None or draft.durable_state is not self else draft.value

    def pack(self) -> bytes:
        """As it is saved. Raises `NotStorableError` naming the path inside it, or `ValueTooLargeError`."""
        return _encode(self.value, self.limit)

    def put(self, changes: bytes) -> None:
        """What a step has changed before, on replay."""
        _put(self.value, codec.decode(changes))

    def draft(self, *, alone: bool) -> Draft:
        """For one attempt of a step; `alone` says that nothing else of the workflow runs meanwhile."""
        return Draft(self, alone)


class Draft:
    """The state as one attempt of a step changes it: `with` it, and `take_over` its changes once they are
    journaled. What has not been taken over by then is undone.

    A step that runs alone has the state itself, so that a reference to it from outside does as well. Any
    other has a copy from when it first asked.
    """

    __slots__ = ("_before", "_changed", "_seen", "_token", "_value", "durable_state")

    def __init__(self, durable_state: DurableState, alone: bool) -> None:
        self.durable_state = durable_state
        self._value = durable_state.value if alone else None
        self._before = _packed(durable_state.value) if alone else {}
        self._seen: dict[str, bytes] = {}  # the state when it was copied
        self._changed: dict[str, Any] | None = None
        self._token: Token[Draft | None] | None = None

    @property
    def value(self) -> Any:
        """The state inside the step's function."""
        if self._value is None:
            self._value = codec.decode(self.durable_state.pack())
            self._before, self._seen = _packed(self._value), _packed(self.durable_state.value)
        return self._value

    def changes(self) -> bytes:
        """The fields that were changed, as journaled; empty for none.

        Raises `StateConflictError` when one of them has been changed from outside meanwhile, and what `pack`
        does.
        """
        if self._value is None:
            return b""
        changed = _differing(self._before, _packed(self._value))
        if not changed:
            return b""
        if self._seen:
            lost = changed & (
                _differing(self._seen, _packed(self.durable_state.value)) | self.durable_state.claimed
            )
            if lost:
                raise StateConflictError(sorted(lost))
            self.durable_state.claimed |= changed
        self._changed = {name: part for name, part in _parts(self._value).items() if name in changed}
        return _encode(self._changed, self.durable_state.limit)

    def take_over(self) -> None:
        """Its changes are journaled: they are the state's."""
        if self._changed and self._seen:
            _put(self.durable_state.value, self._changed)
            self.durable_state.claimed -= self._changed.keys()
        self._before, self._changed = {}, None

    def __enter__(self) -> Self:
        self._token = _draft.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        _draft.reset(self._token)
        if self._seen:
            self.durable_state.claimed -= (self._changed or {}).keys()
        elif self._before:
            self._undo()

    def _undo(self) -> None:
        try:
            if not _differing(self._before, _packed(self._value)):
                return
        except StoredValueError:
            pass  # so it has been changed
        for packed in self._before.values():
            _put(self._value, codec.decode(packed))


async def make_state(ctx: WorkflowContext, workflow: Workflow[Any, Any]) -> None:
    """The state of an execution that was begun without one, by an id alone: the schema's defaults, as a step,
    for they need not be the same twice."""
    activation = ctx._activation
    if activation.durable_state is None:

        async def defaults() -> Any:
            return workflow.check_state(None)

        made = await ctx.step.run("ctx.state", defaults, max_retries=0)
        activation.durable_state = DurableState(made, activation.host.value_limit)


def _encode(value: Any, limit: int) -> bytes:
    try:
        return codec.encode(value, limit=limit)
    except StoredValueError as error:
        raise type(error)(f"ctx.state can't be saved: {error}") from error.__cause__


def _parts(state: Any) -> dict[str, Any]:
    """The fields of a model, and what else it holds: extra fields and private attributes."""
    parts = {name: state.__dict__[name] for name in type(state).model_fields if name in state.__dict__}
    if state.__pydantic_extra__ is not None:
        parts[_EXTRA] = state.__pydantic_extra__
    if state.__pydantic_private__ is not None:
        parts[_PRIVATE] = state.__pydantic_private__
    return parts


def _packed(state: Any) -> dict[str, bytes]:
    return {name: _encode({name: part}, _NO_LIMIT) for name, part in _parts(state).items()}


def _differing(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _put(state: Any, parts: dict[str, Any]) -> None:
    """Put parts in their places, without validators: they have been there before."""
    fields = type(state).model_fields
    for name, part in parts.items():
        if name in fields:
            state.__dict__[name] = part
            state.__pydantic_fields_set__.add(name)
        elif name == _EXTRA and state.__pydantic_extra__ is not None:
            _set(state, "__pydantic_extra__", part)
        elif name == _PRIVATE and state.__pydantic_private__ is not None:
            _set(state, "__pydantic_private__", part)
