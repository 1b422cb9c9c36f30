"""Stored format of values: msgpack, with an extension type for each Python type that msgpack lacks.

Stored values live as long as their executions, and processes of different versions share a Redis. A code
therefore never changes its meaning; a changed format gets a new code.

    code  type         payload
    0     -            reserved: a later format can wrap a value in it, and this version refuses it
    1     int          beyond 64 bits: two's complement, big-endian
    2     tuple        array
    3     set          array
    4     frozenset    array
    5     datetime     ISO 8601; with a zone or a fold "<ISO>|<fold>|<zone key>", the ISO without offset
    6     date         ISO 8601
    7     time         like datetime
    8     timedelta    array: days, seconds, microseconds
    9     Decimal      string
    10    UUID         16 bytes
    11    enum member  array, see records.py
    12    dataclass    array, see records.py
    13    model        array, see records.py
    14    JSON value   the value, see json_value.py
    15+   -            unused; 64 to 127 are never stored (digests use some of them)

Strings are UTF-8 and may contain lone surrogates. Arrays and strings in payloads have this same format,
without a header. bytearray and memoryview are stored and read back as bytes. msgpack's own ExtType and
Timestamp are written unchanged: detecting them would cost a Python call per value.

Plain values are packed and unpacked entirely in C. Depth is limited in both directions because too deep a
recursion in C crashes the process instead of raising an error: msgpack stops at 1024 nested lists and
dicts, and extension types may nest MAX_TYPED levels deep, each level with its own packers and hooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from msgpack import ExtType, Packer, Unpacker, unpackb

from polos_redis.errors import NotStorableError, UnreadableValueError
from polos_redis.values import records
from polos_redis.values.json_value import JsonValue

INT, TUPLE, SET, FROZENSET, DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID_ = range(1, 11)
ENUM, DATACLASS, MODEL, JSON = 11, 12, 13, 14
RECORD_KINDS = {ENUM: records.ENUM, DATACLASS: records.DATACLASS, MODEL: records.MODEL}
_RECORD_CODES = {kind: code for code, kind in RECORD_KINDS.items()}

MAX_TYPED = 100  # nested levels of extension types (tuples, sets, records ...)
MAX_NESTING = 200  # nested levels of any type, once there are more than _UNCHECKED levels of extension types
_UNCHECKED = 4  # 4 x 1024 C frames of about 0.5 KB are safe on any stack
_IN_C_STACK = (
    8  # levels unpacked by unpackb, which takes 40 KB of C stack for each; an Unpacker uses the heap
)
_POOLED_SIZE = 65_536  # bytes: packers whose buffer grew beyond this are not reused
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*")

TOO_DEEP = f"nested deeper than {MAX_NESTING} levels (or it contains itself)"

# code, function from a value to its body, whether the body still has to be packed
Encoder = tuple[int, Callable[[Any], Any], bool]
Hooks = list[Callable[[int, bytes], Any]]  # one for each level of extension types


def pack(value: Any, depth: int = 0) -> bytes:
    """Packs a value. Raises NotStorableError, or whatever msgpack raises.

    A packer leaves its pool while in use, so no other thread and no deeper level can use it half-way. It is
    dropped if it raises.
    """
    pool = _POOLS[depth]
    try:
        packer = pool.pop()
    except IndexError:
        packer = _new_packer(depth)
    data: bytes = packer.pack(value)
    if len(data) <= _POOLED_SIZE:
        pool.append(packer)
    return data


def pack_record(cls: type, fields: Mapping[str, bytes]) -> bytes:
    """Packs an instance of a dataclass from packed fields, whose types need not be imported here."""
    packer = Packer()
    body = (
        packer.pack_array_header(2) + packer.pack(records.tag_of(cls)) + packer.pack_map_header(len(fields))
    )
    body += b"".join(packer.pack(name) + packed for name, packed in fields.items())
    data: bytes = packer.pack(ExtType(DATACLASS, body))
    return data


def pack_list(items: Sequence[bytes]) -> bytes:
    """Packs a list from packed items."""
    data: bytes = Packer().pack_array_header(len(items)) + b"".join(items)
    return data


def unpack(data: bytes, depth: int = 0, hooks: Hooks | None = None) -> Any:
    """Unpacks a value. Raises UnreadableValueError, or any other exception if the data is damaged."""
    hooks = hooks or _HOOKS
    if depth <= _IN_C_STACK:
        return unpackb(data, ext_hook=hooks[depth], strict_map_key=False, unicode_errors="surrogatepass")
    if depth > MAX_TYPED:
        raise UnreadableValueError(TOO_DEEP)
    unpacker = Unpacker(
        ext_hook=hooks[depth],
        strict_map_key=False,
        unicode_errors="surrogatepass",
        max_buffer_size=max(len(data), 1),
    )
    unpacker.feed(data)
    value = unpacker.unpack()
    if unpacker.tell() != len(data):
        raise UnreadableValueError("it is damaged (there are bytes after the end of a value)")
    return value


def encoder(cls: type) -> Encoder:
    """The encoder of a type that msgpack lacks. Raises NotStorableError if values of it can't be stored."""
    known = _ENCODERS.get(cls)
    if known is not None:
        return known
    kind = records.kind_of(cls)
    if kind is None:
        raise NotStorableError(_refusal(cls))
    body = records.body_of(cls)
    if kind == records.ENUM:
        known = (ENUM, _enum_packer(cls, body), False)
    else:
        known = (_RECORD_CODES[kind], body, True)
    _ENCODERS[cls] = known
    return known


def _new_packer(depth: int) -> Packer:
    if depth > MAX_TYPED:
        raise NotStorableError(TOO_DEEP)
    below = depth + 1

    def default(value: Any) -> ExtType:
        code, body, packs = _ENCODERS.get(type(value)) or encoder(type(value))
        payload = body(value)
        if packs:
            if depth == _UNCHECKED:
                _check_nesting(payload)
            payload = pack(payload, below)
        # ExtType's own __new__ is slow Python code that only checks its arguments.
        return tuple.__new__(ExtType, (code, payload))

    options: dict[str, Any] = {"buf_size": 1024} if _HAS_BUF_SIZE else {}  # the default is 256 KB
    return Packer(
        default=default, strict_types=True, use_bin_type=True, unicode_errors="surrogatepass", **options
    )


def _has_buf_size() -> bool:
    try:
        Packer(buf_size=1024)
    except TypeError:  # msgpack < 1.1
        return False
    return True


_HAS_BUF_SIZE = _has_buf_size()
_POOLS: list[list[Packer]] = [[] for _ in range(MAX_TYPED + 2)]


def _check_nesting(value: Any) -> None:
    """Raises NotStorableError if a value is nested too deeply. Walks level by level, without recursion."""
    level = [value]
    for _ in range(MAX_NESTING):
        below: dict[int, Any] = {}  # by identity, so that shared parts are visited once
        alive = []  # keeps the bodies created here alive while their ids are in use
        for item in level:
            children = parts(item)
            alive.append(children)
            below.update((id(child), child) for child in children)
        level = list(below.values())
        if not level:
            return
    raise NotStorableError(TOO_DEEP)


def parts(value: Any) -> list[Any]:
    """The direct children of a value as they will be packed. Raises NotStorableError."""
    cls = type(value)
    if cls is list:
        return list(value)
    if cls is dict:
        return [*value.keys(), *value.values()]
    if cls in LEAVES:
        return []
    _, body, packs = encoder(cls)
    content = body(value)
    return parts(content) if packs else []


LEAVES = frozenset((type(None), bool, int, float, str, bytes, bytearray, memoryview))


_BASES: tuple[type, ...] = (str, bytes, int, float, list, dict, set, frozenset)
_BASES += (datetime, date, time, timedelta, Decimal, UUID)


def _refusal(cls: type) -> str:
    article = "an" if cls.__name__[:1] in "AEIOUaeiou" else "a"
    if cls.__name__ in ("coroutine", "async_generator", "generator"):
        return f"{article} {cls.__name__} can't be stored: await it, or collect its values"
    if issubclass(cls, tuple):
        return f"the named tuple {cls.__qualname__} can't be stored: use a frozen dataclass"
    for base in _BASES:
        if issubclass(cls, base):
            return (
                f"{article} {cls.__qualname__} can't be stored, because it would be read back as "
                f"{base.__name__}: convert it with {base.__name__}(...)"
            )
    return (
        f"{article} {cls.__qualname__} can't be stored: use plain data, a pydantic model, a dataclass, "
        "or a reference such as an id or a path"
    )


# --- encoding single types --------------------------------------------------------------


def _int_body(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _clock_body(value: Any) -> bytes:
    """Body of a datetime or time."""
    zone, fold = value.tzinfo, value.fold
    if zone is None or type(zone) is not ZoneInfo:
        # A tzinfo with an offset for no date has a fixed one (timezone, pydantic's, dateutil's UTC).
        if zone is not None and zone.utcoffset(None) is None:
            raise NotStorableError(
                f"a time zone of type {type(zone).__name__} can't be stored: "
                "use zoneinfo.ZoneInfo or datetime.timezone"
            )
        text = value.isoformat() + ("|1|" if fold else "")
    elif zone.key is None:
        raise NotStorableError("a ZoneInfo without a key can't be stored: create it as ZoneInfo('Area/City')")
    else:
        text = f"{value.replace(tzinfo=None).isoformat()}|{fold}|{zone.key}"
    return bytes(text, "utf-8")


def _enum_packer(cls: Any, body: records.Body) -> Callable[[Any], bytes]:
    """Packs the members of an enum, each once: a member's payload never changes."""
    packed: dict[Any, bytes] = {}

    def payload(member: Any) -> bytes:
        known = packed.get(member._name_)
        if known is not None:
            return known
        content = body(member)
        try:
            data = pack(content)
        except Exception:  # the member's value can't be stored: its name is enough to restore it
            data = pack(content[:2])
        if member._name_ in cls._member_map_:  # combinations of flags are too many to cache
            packed[member._name_] = data
        return data

    return payload


_ENCODERS: dict[type, Encoder] = {
    int: (INT, _int_body, False),
    tuple: (TUPLE, list, True),
    set: (SET, list, True),
    frozenset: (FROZENSET, list, True),
    datetime: (DATETIME, _clock_body, False),
    date: (DATE, lambda v: bytes(v.isoformat(), "ascii"), False),
    time: (TIME, _clock_body, False),
    timedelta: (TIMEDELTA, lambda v: [v.days, v.seconds, v.microseconds], True),
    Decimal: (DECIMAL, lambda v: bytes(str(v), "ascii"), False),
    UUID: (UUID_, lambda v: v.bytes, False),
    JsonValue: (JSON, lambda v: v.value, True),
}


# --- decoding ---------------------------------------------------------------------------


def _make_hooks(restore: Callable[[str, Any], Any]) -> Hooks:
    hooks: Hooks = []
    hooks += [_make_hook(depth, restore, hooks) for depth in range(MAX_TYPED + 1)]
    return hooks


def _make_hook(depth: int, restore: Callable[[str, Any], Any], hooks: Hooks) -> Callable[[int, bytes], Any]:
    below = depth + 1

    def hook(code: int, data: bytes) -> Any:
        if code == MODEL:
            return restore(records.MODEL, unpack(data, below, hooks))
        if code in _FROM_BYTES:
            return _FROM_BYTES[code](data)
        body = unpack(data, below, hooks)
        if code == JSON:
            return JsonValue(body)
        if code in RECORD_KINDS:
            return restore(RECORD_KINDS[code], body)
        if type(body) is list and code in _FROM_LIST:
            return _FROM_LIST[code](body)
        raise UnreadableValueError(
            f"it is damaged, or was written by a newer version of polos-redis (extension type {code})"
        )

    return hook


def _parse_clock(kind: Callable[[str], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        iso, bar, rest = str(data, "utf-8").partition("|")
        value = kind(iso)
        if bar:
            fold, _, key = rest.partition("|")
            value = value.replace(fold=int(fold), tzinfo=_zone(key) if key else value.tzinfo)
        return value

    return parse


def _zone(key: str) -> tzinfo:
    # ZoneInfo looks up unknown keys as resources of the tzdata package, so nothing but a key may reach it.
    if not _ZONE_KEY.fullmatch(key):
        raise UnreadableValueError("it is damaged (invalid key of a time zone)")
    return ZoneInfo(key)


_HOOKS = _make_hooks(records.restore)
HOOKS_OR_FIELDS = _make_hooks(records.restore_or_fields)
_FROM_BYTES: dict[int, Callable[[bytes], Any]] = {
    INT: lambda data: int.from_bytes(data, "big", signed=True),
    DATETIME: _parse_clock(datetime.fromisoformat),
    DATE: lambda data: date.fromisoformat(str(data, "ascii")),
    TIME: _parse_clock(time.fromisoformat),
    DECIMAL: lambda data: Decimal(str(data, "ascii")),
    UUID_: lambda data: UUID(bytes=data),
}
_FROM_LIST: dict[int, Callable[[list[Any]], Any]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    TIMEDELTA: lambda body: timedelta(*body),
}
