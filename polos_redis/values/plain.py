"""Stored values as plain JSON for people: `--json`, REST, `get_execution`.

Types need not be imported: extensions are read by their code, not by their class. A pydantic model whose
class is imported is dumped in JSON mode with its own serializers; everything else imitates that mode.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from datetime import datetime, time, timedelta
from json import dumps
from math import isfinite, isnan
from typing import Any

from msgpack import ExtType, Timestamp, unpackb

from polos_redis import failures
from polos_redis.errors import StoredValueError, UnreadableValueError
from polos_redis.redaction import may_have_secrets, redact
from polos_redis.values import packing, records, type_names

_JSON_LEAVES = frozenset((type(None), bool, int, str))
_BIG = 14_000  # bits: Python refuses to print ints of more than 4300 digits
_DEEPEST = 200  # levels that json.dumps and other encoders can handle
_PLAIN = frozenset((*_JSON_LEAVES, float, dict, list))
_DEEPER = f"... (nested deeper than {_DEEPEST} levels)"


def to_plain(data: bytes) -> Any:
    """Converts stored bytes to dict, list, str, int, float, bool and None, whatever types are imported.

    The result is for display and loses information: nan and inf become "NaN", "Infinity" and "-Infinity",
    bytes become strings (UTF-8, else base64), keys become strings, lone surrogates become "?", and a note
    replaces whatever lies deeper than 200 levels. Raises UnreadableValueError for damaged bytes.
    """
    try:
        value = _stored_json(data)
        return _plain(neutral(data), 0) if value is _OTHER else value
    except UnreadableValueError as error:
        raise UnreadableValueError(f"a stored value can't be read: {error}") from None
    except BaseException as error:  # a user's class may raise anything, SystemExit too
        why = failures.repr_of(error)
        raise UnreadableValueError(f"a stored value can't be read: it is damaged ({why})") from error


def is_json(value: object) -> bool:
    """Returns whether a value is plain JSON: it comes back from JSON equal and of the same types."""
    stack = [value]
    while stack:
        item = stack.pop()
        cls = type(item)
        if cls is dict:
            stack += [*item.keys(), *item.values()]  # type: ignore[attr-defined]
            if not all(type(key) is str for key in item):  # type: ignore[attr-defined]
                return False
        elif cls is list:
            stack += item  # type: ignore[arg-type]
        elif cls is float:
            if not isfinite(item):  # type: ignore[arg-type]
                return False
        elif cls not in _JSON_LEAVES:
            return False
    return True


def is_text(form: Any) -> bool:
    """Returns whether plain JSON can be written as UTF-8: no string in it has a lone surrogate."""
    try:
        dumps(form, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(stored: bytes | None) -> Any:
    """As `to_plain`, for people to read: without tokens and secrets (see redaction.py).

    Never raises: `{"_unreadable": reason}` if unreadable, None if there is no value.
    """
    if not stored:
        return None
    try:
        return redact(to_plain(stored)) if may_have_secrets(stored) else to_plain(stored)
    except StoredValueError as error:
        return {"_unreadable": str(error)}


def neutral(data: bytes) -> Any:
    """Unpacks an encoded value; whatever is not plain JSON stays an extension, so that no type is needed."""
    # Without a hook, extensions stay ExtTypes, which are hashable, so any dict key can be unpacked.
    return unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")


_OTHER = object()


def _stored_json(data: bytes) -> Any:
    """Unpacks a value that is plain JSON as stored, so that nothing of it has to be converted; returns
    `_OTHER` for any other."""
    try:
        value = _unpacked_json(data)
    except Exception:
        return _OTHER
    if type(value) is not dict and type(value) is not list:
        return _OTHER if type(value) not in _PLAIN or not _are_finite((value,), {type(value)}) else value
    level = [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for one in level:
            if type(one) is dict and not set(map(type, one)) <= {str}:
                return _OTHER
            items = one.values() if type(one) is dict else one
            types = set(map(type, items))
            if not types <= _PLAIN or not _are_finite(items, types):
                return _OTHER
            if dict in types or list in types:
                below += [item for item in items if item and (type(item) is dict or type(item) is list)]
        if not below:
            return value
        level = below
    return _OTHER


def _are_finite(items: Iterable[Any], types: set[type]) -> bool:
    return float not in types or all(isfinite(item) for item in items if type(item) is float)


def _unpacked_json(data: bytes) -> Any:
    return unpackb(data, ext_hook=_json_extension)  # UTF-8 only, and no keys but str and bytes


def _json_extension(code: int, data: bytes) -> Any:
    if code != packing.JSON:
        raise UnreadableValueError("not plain JSON")
    return _unpacked_json(data)


def _plain(value: Any, depth: int) -> Any:
    cls = type(value)
    if cls is str:
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if value is None or cls is bool:
        return value
    if cls is int:
        return value if value.bit_length() < _BIG else hex(value)
    if cls is float:
        return value if isfinite(value) else not_finite(value)
    if cls is bytes:
        return _text(value)
    if depth >= _DEEPEST:
        return _DEEPER
    if cls is list:
        return [_plain(item, depth + 1) for item in value]
    if cls is dict:
        return {_key(key, depth): _plain(item, depth + 1) for key, item in value.items()}
    if cls is Timestamp:
        return str(value)
    if cls is not ExtType:
        raise UnreadableValueError(f"unexpected {cls.__name__} in a stored value")
    return _extension(value.code, value.data, depth)


def _extension(code: int, data: bytes, depth: int) -> Any:
    if code in (packing.TUPLE, packing.SET, packing.FROZENSET):
        return _plain(_list(data), depth)
    if code == packing.JSON:
        return _plain(neutral(data), depth)
    if code in packing.RECORD_KINDS:
        return _record(code, data, depth)
    value = packing.unpack(_ext_bytes(code, data))  # a type of the standard library, or an unknown code
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, datetime | time):
        iso = value.isoformat()
        return iso[:-6] + "Z" if iso.endswith("+00:00") else iso
    return _plain(value if type(value) is int else str(value), depth)


def _ext_bytes(code: int, data: bytes) -> bytes:
    packed: bytes = packing.pack(ExtType(code, data))
    return packed


def _record(code: int, data: bytes, depth: int) -> Any:
    return _plain(record_of(code, data), depth)


def record_of(code: int, data: bytes) -> Any:
    """Returns what an extension for a model, dataclass or enum holds: its fields, or its value."""
    body = _list(data)
    if code == packing.ENUM:
        return body[-1]
    name = records.name_in(body[0]) if type(body[0]) is str else ""
    if code == packing.MODEL and type_names.find_type(name) is not None:
        try:
            model = records.restore(records.MODEL, packing.unpack(data, 1))
            return model.model_dump(mode="json", warnings=False)
        except BaseException:
            pass  # a field's type is not imported, or the user's serializer fails: show the raw state
    extra = body[3] if code == packing.MODEL and len(body) > 3 and type(body[3]) is dict else {}
    return {**body[1], **extra}


def leaf(value: Any) -> Any:
    """Returns an unpacked value that is no list, dict, tuple, set or record as plain JSON."""
    return _plain(value, 0)


def key_of(key: Any) -> str:
    """Returns an unpacked key of a dict as text, in the format of pydantic's JSON mode."""
    return _key(key, 0)


def _list(data: bytes) -> list[Any]:
    body = neutral(data)
    if type(body) is not list:
        raise UnreadableValueError("it is damaged (expected an array in an extension)")
    return body


def _key(key: Any, depth: int) -> str:
    """A dict key in the format of pydantic's JSON mode."""
    value = _plain(key, depth + 1)
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is list:
        return ",".join(_key(item, depth + 1) for item in value)
    return dumps(value) if type(value) is dict else str(value)


def not_finite(value: float) -> str:
    """The name under which pydantic reads it back as the same float."""
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return b64encode(value).decode("ascii")


def _duration(value: timedelta) -> str:
    """ISO 8601 in pydantic's format: with years of 365 days, without weeks or months."""
    sign, value = ("-", -value) if value < timedelta(0) else ("", value)
    years, days = divmod(value.days, 365)
    hours, rest = divmod(value.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    dates = (f"{years}Y" if years else "") + (f"{days}D" if days else "")
    clock = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    clock += f"{seconds}{fraction}S" if seconds or fraction else ""
    return f"{sign}P{dates}" + (f"T{clock}" if clock else "") if dates or clock else "PT0S"
