"""Types of values from outside: pydantic checks a value only if its check is known to be short.

Values are bounded in levels and parts (bounds.py), and in the checks that pydantic makes of them
(type_cost.py). So neither the time nor the memory of a refusal grows without limit. What a user's own
validators do is not bounded.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polos_redis import failures
from polos_redis.errors import InvalidInputError
from polos_redis.values import bounds
from polos_redis.values.type_cost import TypeCost

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

logger = logging.getLogger("polos")

MAX_ERRORS = 50  # errors listed for one value
MAX_MESSAGE = 300  # characters of a message, which may repeat the value
MAX_FIELD = 200  # characters of a path, which repeats the value's keys
_MAX_COUNTED = 1000  # errors from here on are not listed: pydantic can only list all
_SAMPLED = 5  # items left of each list, and _FIELDS of each dict, to find examples of the errors
_FIELDS = 100
_LONG_NUMBER = re.compile(rf"\d{{{sys.float_info.max_10_exp + 1}}}")

TOO_COSTLY = (
    "checking the value against its type would take too long: make it smaller or less nested, or give the "
    "type's unions a discriminator"
)


UNCHECKED = object()


class MismatchError(ValueError):
    """A value does not match its type. `errors` has at most MAX_ERRORS entries,
    `{"field": "limit.amount", "message": ...}`; the field is "" for the whole value."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{one['field']}: {one['message']}".removeprefix(": ") for one in errors))


class BoundedType:
    """A type, and what checking its values costs."""

    __slots__ = ("_adapter", "_cost", "_json", "_python")

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self._adapter = adapter
        self._python: Callable[[Any], Any] = adapter.validate_python
        self._json: Callable[[str], Any] = adapter.validate_json
        self._cost: TypeCost | None = None

    def python(self, value: Any) -> bounds.Work[Any]:
        """Converts a Python value to the type: a dict to the model, while instances pass unchanged.

        Raises `MismatchError`, `ValueTooLargeError` beyond the bounds of any value, `InvalidInputError` if
        the check would take too long, or whatever a user's validator raises.
        """
        return self._checked(value, self._python)

    def lax(self, value: Any) -> bounds.Work[Any]:
        """Converts a Python value, parts of which may be JSON, to the type, as `python`; even if the type is
        strict."""
        return self._checked(value, lambda value: self._adapter.validate_python(value, strict=False))

    def json(self, plain: Any) -> bounds.Work[Any]:
        """Converts a plain JSON value to the type, as `python`. An integer that would become infinity is
        refused by a type with floats."""
        return self._checked(plain, self._read)

    def quickly(self, value: Any) -> Any:
        """As `python`, at once, if the value is valid and its check is surely short; else UNCHECKED."""
        cost = self._cost
        if cost is None or not cost.is_linear or not bounds.is_small(value):
            return UNCHECKED
        try:
            return self._python(value)
        except BaseException:  # to be reported by `python`
            return UNCHECKED

    def analyse(self) -> None:
        """Find out now what values cost, instead of at the first value."""
        self._cost = self._cost or _cost_of(self._adapter)

    def _read(self, plain: Any) -> Any:
        text = json.dumps(plain)
        if len(text) > sys.float_info.max_10_exp and _LONG_NUMBER.search(text) and self._has_floats():
            level = [plain]
            while level:
                if any(map(bounds.is_beyond_floats, level)):
                    raise MismatchError([{"field": "", "message": "a number in it is too large for a float"}])
                level = [one for item in level for one in bounds.children(item) or ()]
        return self._json(text)

    def _has_floats(self) -> bool:
        return "'type': 'float'" in repr(self._adapter.core_schema)

    def _checked(self, value: Any, convert: Callable[[Any], Any]) -> bounds.Work[Any]:
        from pydantic import ValidationError

        parts = bounds.parts_of(value)
        if self._cost is None:
            self.analyse()
        assert self._cost is not None
        if (yield from self._cost.exceeds(value, parts)):
            raise InvalidInputError(TOO_COSTLY)
        try:
            return convert(value)
        except ValidationError as error:
            raise MismatchError(_listed(error, value, convert)) from None
        except Exception:
            raise
        except BaseException as error:  # a validator may raise anything, SystemExit too
            raise RuntimeError(failures.line_of(error)) from error


def _cost_of(adapter: TypeAdapter[Any]) -> TypeCost:
    try:
        return TypeCost(adapter.core_schema)
    except Exception:  # of a newer pydantic
        logger.warning("the checks of a type's values can't be bounded", extra={"type": repr(adapter)})
        return TypeCost({"type": "any"})


def _listed(error: ValidationError, value: Any, convert: Callable[[Any], Any]) -> list[dict[str, str]]:
    """The first errors. If there are many, those of a sample of the value: pydantic can only list all."""
    from pydantic import ValidationError

    count = error.error_count()
    if count <= _MAX_COUNTED:
        return [_entry(one) for one in _details(error)[:MAX_ERRORS]]
    found: list[dict[str, str]] = []
    try:
        convert(_sample(value))
    except ValidationError as sampled:
        if sampled.error_count() <= _MAX_COUNTED:
            found = [_entry(one) for one in _details(sampled) if one["type"] != "too_short"]
    except BaseException:  # of a user's validator
        pass
    return [*found[: MAX_ERRORS - 1], {"field": "", "message": f"{count:,} errors in all"}]


def _details(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def _entry(error: Any) -> dict[str, str]:
    field = ".".join(map(str, error["loc"]))
    return {"field": shortened(field, MAX_FIELD), "message": shortened(error["msg"], MAX_MESSAGE)}


def shortened(text: str, length: int) -> str:
    """The text, cut after `length` characters."""
    return text if len(text) <= length else f"{text[:length]} ..."


def _sample(value: Any) -> Any:
    """A copy of a value with the first items of each list and of each large dict."""
    if type(value) is dict:
        return {name: _sample(one) for name, one in itertools.islice(value.items(), _FIELDS)}
    return [_sample(one) for one in value[:_SAMPLED]] if type(value) is list else value
