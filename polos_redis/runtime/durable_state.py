"""`ctx.state`: a workflow's state, saved at every park and at the end, visible to others.

Every activation starts from the initial state and rebuilds it, as the workflow's code between steps runs
again. A step's function does not, so the fields it has changed are journaled with its result, and a replay
restores them. A step that runs beside other tasks of the workflow works on a copy, whose changes are merged
when the step has succeeded; two steps that change the same field conflict.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self

from polos_redis.errors import StateConflictError, StoredValueError
from polos_redis.values import codec

_EXTRA, _PRIVATE = "*", "_"  # names that no field of a model has

_set = object.__setattr__  # past frozen models and pydantic's own __setattr__

_draft: ContextVar[StateDraft | None] = ContextVar("polos_draft", default=None)


class DurableState:
    """The state of an execution in one activation: a pydantic model, only ever changed in place."""

    __slots__ = ("claimed", "limit", "value")

    def __init__(self, value: Any, limit: int) -> None:
        self.value = value
        self.limit = limit
        self.claimed: set[str] = set()  # fields changed by steps whose results are on the way

    def visible(self) -> Any:
        """Returns the state that the caller may change: inside a step's function, that step's draft."""
        draft = _draft.get()
        return self.value if draft is None or draft.durable_state is not self else draft.value

    def pack(self) -> bytes:
        """Returns the encoded state. Raises `NotStorableError` naming the path inside it, or
        `ValueTooLargeError`."""
        return _encode(self.value, self.limit)

    def put(self, changes: bytes) -> None:
        """Restore the changes of a step on replay."""
        _put(self.value, codec.decode(changes))

    def draft(self, *, alone: bool) -> StateDraft:
        """Returns a draft for one attempt of a step; `alone`: nothing else of the workflow runs meanwhile."""
        return StateDraft(self, alone)


class StateDraft:
    """The state as one attempt of a step changes it, a context manager: `take_over` merges the changes once
    they are journaled, and leaving the context undoes what was not merged.

    A step that runs alone works on the state itself, so a reference taken outside the step stays valid. Any
    other step works on a copy made at its first access.
    """

    __slots__ = ("_before", "_changed", "_original", "_token", "_value", "durable_state")

    def __init__(self, durable_state: DurableState, alone: bool) -> None:
        self.durable_state = durable_state
        self._value = durable_state.value if alone else None
        self._before = _packed(durable_state.value) if alone else {}
        self._original: dict[str, bytes] = {}  # the state when it was copied
        self._changed: dict[str, Any] | None = None
        self._token: Token[StateDraft | None] | None = None

    @property
    def value(self) -> Any:
        """The state inside the step's function."""
        if self._value is None:
            self._value = codec.decode(self.durable_state.pack())
            self._before, self._original = _packed(self._value), _packed(self.durable_state.value)
        return self._value

    def changes(self) -> bytes:
        """Returns the changed fields, encoded; empty for none.

        Raises `StateConflictError` when one of them was changed outside the step meanwhile, and what `pack`
        raises.
        """
        if self._value is None:
            return b""
        changed = _differing(self._before, _packed(self._value))
        if not changed:
            return b""
        if self._original:
            lost = changed & (
                _differing(self._original, _packed(self.durable_state.value)) | self.durable_state.claimed
            )
            if lost:
                raise StateConflictError(sorted(lost))
            self.durable_state.claimed |= changed
        self._changed = {name: part for name, part in _parts(self._value).items() if name in changed}
        return _encode(self._changed, self.durable_state.limit)

    def take_over(self) -> None:
        """Merge the changes, which are journaled now, into the state."""
        if self._changed and self._original:
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
        if self._original:
            self.durable_state.claimed -= (self._changed or {}).keys()
        elif self._before:
            self._undo()

    def _undo(self) -> None:
        try:
            if not _differing(self._before, _packed(self._value)):
                return
        except StoredValueError:
            pass  # it can't be encoded, so it has changed
        for packed in self._before.values():
            _put(self._value, codec.decode(packed))


def _encode(value: Any, limit: int) -> bytes:
    try:
        return codec.encode(value, limit=limit)
    except StoredValueError as error:
        raise type(error)(f"ctx.state can't be saved: {error}") from error.__cause__


def _parts(state: Any) -> dict[str, Any]:
    """Returns a model's fields, its extra fields and its private attributes."""
    parts = {name: state.__dict__[name] for name in type(state).model_fields if name in state.__dict__}
    if state.__pydantic_extra__ is not None:
        parts[_EXTRA] = state.__pydantic_extra__
    if state.__pydantic_private__ is not None:
        parts[_PRIVATE] = state.__pydantic_private__
    return parts


def _packed(state: Any) -> dict[str, bytes]:
    return {name: _encode({name: part}, codec.UNLIMITED) for name, part in _parts(state).items()}


def _differing(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _put(state: Any, parts: dict[str, Any]) -> None:
    """Set parts without running validators: they were valid before."""
    fields = type(state).model_fields
    for name, part in parts.items():
        if name in fields:
            state.__dict__[name] = part
            state.__pydantic_fields_set__.add(name)
        elif name == _EXTRA and state.__pydantic_extra__ is not None:
            _set(state, "__pydantic_extra__", part)
        elif name == _PRIVATE and state.__pydantic_private__ is not None:
            _set(state, "__pydantic_private__", part)
