"""Failures: reading the exceptions of users' code, whose attributes and methods may fail themselves.

An exception is an object of a user's class: its `__str__` may raise, a property may exit the process, its
message may have a hundred megabytes, its causes may form a circle. The functions here always return, so a
failure is journaled like any other. They take an exception's kind from `type`, because `isinstance` asks the
object for its `__class__`.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

from polos_redis import frames

TEXT_LIMIT = 16_384  # characters
NAME_LIMIT = 1_024
CAUSES = 3  # the first ones of an exception group are named
CAUSE_LIMIT = 500  # characters for each of them
LOOKED_AT = 1_000  # exceptions of a group, nested ones included


def is_a(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an exception is of one of these kinds."""
    return issubclass(type(error), kinds)


def name_of(error: BaseException) -> str:
    """Returns the name of an exception's class, past a metaclass that has one of its own."""
    return _cut(type.__dict__["__name__"].__get__(type(error)), NAME_LIMIT)


def text_of(error: BaseException) -> str:
    """Returns an exception's text, cut if it is very long. For a group, the first causes follow."""
    text = _cut(_text(error), TEXT_LIMIT)
    if not is_a(error, BaseExceptionGroup):
        return text
    inside = [one for one in members(error) if not is_a(one, BaseExceptionGroup)]
    causes = [f"{name_of(one)}: {_cut(_text(one), CAUSE_LIMIT)}" for one in inside[:CAUSES]]
    more = [f"and {len(inside) - CAUSES} more"] if len(inside) > CAUSES else []
    return f"{text}: {'; '.join(causes + more)}"


def line_of(error: BaseException) -> str:
    """Returns an exception's name and text, as the last line of a traceback has them."""
    return f"{name_of(error)}: {text_of(error)}"


def repr_of(error: BaseException) -> str:
    """Returns an exception's `repr`, or its name and text if that fails."""
    try:
        return _cut(repr(error), TEXT_LIMIT)
    except BaseException:
        return line_of(error)


class Tracebacks(NamedTuple):
    """An exception's traceback as text, without its middle if it is very long: the `whole` one, and that with
    the frames of the user's `own` code only, empty if there are none."""

    whole: str
    own: str


def traceback_of(error: BaseException, *, of_user: bool = False) -> str:
    """Returns an exception's traceback as text, without its middle if it is very long; `of_user`: only the
    frames of the user's own code."""
    try:
        captured = _captured(error)
        if of_user:
            _reduce(captured)
        return _formatted(captured)
    except BaseException:
        return _unformatted(error)


def tracebacks_of(error: BaseException) -> Tracebacks:
    """Returns an exception's traceback, whole and reduced to the user's own code."""
    try:
        captured = _captured(error)
        whole = _formatted(captured)
        return Tracebacks(whole, _formatted(captured) if _reduce(captured) else "")
    except BaseException:
        return Tracebacks(_unformatted(error), "")


def _captured(error: BaseException) -> traceback.TracebackException:
    return traceback.TracebackException(type(error), error, error.__traceback__, compact=True)


def _formatted(captured: traceback.TracebackException) -> str:
    trace = "".join(captured.format())
    if len(trace) > 2 * TEXT_LIMIT:
        trace = trace[:TEXT_LIMIT] + "\n ... \n" + trace[-TEXT_LIMIT:]
    return trace


def _unformatted(error: BaseException) -> str:
    return f"<the traceback of {name_of(error)} can't be formatted>"


def _reduce(whole: traceback.TracebackException) -> bool:
    """Removes the frames that are not the user's, of the exceptions before it and inside it as well. Returns
    whether any are left."""
    left, seen, any_left = [whole], set[int](), False
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            one.stack[:] = frames.of_user(one.stack, lambda frame: frame.filename)
            any_left = any_left or bool(one.stack)
            left += [more for more in (one.__cause__, one.__context__) if more is not None]
            left += one.exceptions or ()
    return any_left


def members(error: BaseException) -> list[BaseException]:
    """Returns an exception and, for a group, those in it, nested ones included; `LOOKED_AT` at most."""
    found = [error]
    for one in found:  # it grows meanwhile
        if is_a(one, BaseExceptionGroup):
            inside = BaseExceptionGroup.exceptions.__get__(one)  # past a property
            found += inside[: LOOKED_AT - len(found)]
    return found


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception, those in it, and what these came from; `LOOKED_AT` at most."""
    left, seen = [error], set[int]()
    while left and len(seen) < LOOKED_AT:
        one = left.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += members(one)[1:]
        origins = (_attribute(one, "__cause__"), _attribute(one, "__context__"))
        left += [origin for origin in origins if origin is not None][:1]


def retry_after(error: BaseException) -> float:
    """Returns the delay in seconds that an exception, or the most patient one in a group, asks for in its
    attribute `retry_after`; 0 for none, or one that can't be read."""
    return max(map(_retry_after, members(error)))


def _retry_after(error: BaseException) -> float:
    try:
        seconds: Any = getattr(error, "retry_after", None)
        if type(seconds) not in (int, float):
            seconds = float(seconds) if isinstance(seconds, int | float) else 0.0
        return float(seconds) if 0 < seconds < math.inf else 0.0
    except BaseException:
        return 0.0


def frames_of(error: BaseException) -> TracebackType | None:
    """Returns an exception's traceback, past a property of this name."""
    found: TracebackType | None = _attribute(error, "__traceback__")
    return found


def _attribute(error: BaseException, name: str) -> Any:
    return BaseException.__dict__[name].__get__(error)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"<its text can't be read: {name_of(broken)}>"


def _cut(text: str, limit: int) -> str:
    """Returns a text as a plain string, even if its class is a user's, cut to a length."""
    start = str.__getitem__(text, slice(limit + 1))
    return start if len(start) <= limit else start[:limit] + " ..."
