"""JSON text from outside. Every entry reads through here: REST, command line, pages, a model's output."""

from __future__ import annotations

import json
from collections import Counter
from math import isinf
from typing import Any, NoReturn

from polos_redis.errors import ValueTooLargeError
from polos_redis.values import bounds


class InvalidJsonError(ValueError):
    """The text can't be read as JSON; the message says why and where."""


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text; bytes are UTF-8, with or without a byte order mark.

    Refused, besides what is not JSON: a name that an object has twice, since readers disagree about which of
    the two counts; and a number too large for a float, which would become infinity. Raises InvalidJsonError,
    or ValueTooLargeError beyond the bounds of values/bounds.py (one level more, around a caller's value).
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        bounds.check_text(text)
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_float, parse_constant=_refuse_constant
        )
        bounds.parts_of(value, levels=bounds.MAX_LEVELS + 1)
        return value
    except (InvalidJsonError, ValueTooLargeError):
        raise
    except json.JSONDecodeError as error:
        raise InvalidJsonError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise InvalidJsonError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueTooLargeError(bounds.TOO_DEEP) from None
    except ValueError:  # Python's limit
        raise InvalidJsonError("an integer in it has more than 4,300 digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        twice = next(name for name, count in names.items() if count > 1)
        raise InvalidJsonError(f"an object has the name {_short(json.dumps(twice))} twice")
    return found


def _float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise InvalidJsonError(f"the number {_short(text)} is too large for a float")
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise InvalidJsonError(f"JSON has no {word}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
