"""`ctx.state`: a workflow's state, saved at every park and at the end, visible to others.

Every activation starts from the initial state and rebuilds it, as the workflow's code between steps runs
again. A step's function does not, so the fields it has changed are journaled with its result, and a replay
restores them. A step works on a copy, whose changes are merged when the step has succeeded; two steps that
change the same field at a time conflict.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import partial
from typing import Any

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
    """The state as one attempt of a step changes it, from `open` to `close`: `take_over` merges the changes
    once they are journaled, as a replay will.

    The step works on a copy, made at its first access. So what it leaves behind, such as a thread that goes
    on after its call was cancelled, can't change the state. A step that runs alone may also change the state
    itself, through a reference its function closes over; `close` undoes what was not merged.
    """

    __slots__ = (
        "_alone",
        "_before",
        "_changes",
        "_claimed",
        "_merged",
        "_original",
        "_token",
        "_value",
        "durable_state",
    )

    def __init__(self, durable_state: DurableState, alone: bool) -> None:
        self.durable_state = durable_state
        self._alone = alone
        self._original = _packed(durable_state.value) if alone else {}  # the state; else, when it was copied
        self._value: Any = None
        self._before: dict[str, bytes] = {}  # the copy when it was made
        self._changes = b""  # of the copy
        self._claimed: set[str] = set()
        self._merged = False
        self._token: Token[StateDraft | None] | None = None

    @property
    def value(self) -> Any:
        """The state inside the step's function."""
        if self._value is None:
            state = self.durable_state.value
            copy = codec.decode(_encode(state, codec.UNLIMITED))
            self._before = _packed(copy)
            if not self._alone:
                self._original = _packed(state)
            self._value = copy
        return self._value

    def bound(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Returns a step's call with the copy in place of the state, if that is one of its arguments."""
        state = self.durable_state.value
        if not isinstance(call, partial) or not any(
            one is state for one in (*call.args, *call.keywords.values())
        ):
            return call
        args = (self.value if one is state else one for one in call.args)
        named = {name: self.value if one is state else one for name, one in call.keywords.items()}
        return partial(call.func, *args, **named)

    def changes(self) -> bytes:
        """Returns the changed fields, encoded; empty for none.

        Raises `StateConflictError` when one of them was changed outside the copy meanwhile, and what `pack`
        raises.
        """
        state, limit, changed = self.durable_state.value, self.durable_state.limit, set[str]()
        if self._value is not None:
            changed = _differing(self._before, _packed(self._value))
        outside = _differing(self._original, _packed(state)) if self._alone or changed else set[str]()
        if lost := changed & (outside | self.durable_state.claimed):
            raise StateConflictError(sorted(lost))
        if changed:
            if not self._alone:
                self._claimed = changed
                self.durable_state.claimed |= changed
            self._changes = _encode(_some_parts(self._value, changed), limit)
        if not self._alone or not outside:
            return self._changes
        both = _some_parts(state, outside) | (_some_parts(self._value, changed) if changed else {})
        return _encode(both, limit)

    def take_over(self) -> None:
        """Merge the changes, which are journaled now, into the state."""
        if self._changes:
            self.durable_state.put(self._changes)
        self._merged = True

    def open(self) -> None:
        """Show the copy to the code that runs in this context from now on."""
        self._token = _draft.set(self)

    def close(self) -> None:
        """End the attempt, in the same context."""
        assert self._token is not None
        _draft.reset(self._token)
        self.durable_state.claimed -= self._claimed
        if self._alone and not self._merged:
            self._undo()

    def _undo(self) -> None:
        state = self.durable_state.value
        try:
            if not _differing(self._original, _packed(state)):
                return
        except StoredValueError:
            pass  # it can't be encoded, so it has changed
        for packed in self._original.values():
            _put(state, codec.decode(packed))


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


def _some_parts(state: Any, names: set[str]) -> dict[str, Any]:
    return {name: part for name, part in _parts(state).items() if name in names}


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
