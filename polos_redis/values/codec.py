"""Values to stored bytes and back: the one door between what users return and what Redis holds.

- `encode`, `decode`: a value to bytes and back, typed and equal (packing.py has the format)
- `encode_record`, `encode_list`: around values that are encoded already
- `canonical_digest`, `stored_digest`: recognise the same value whatever the order of its dicts and sets
- `to_plain`, `plain`: the same as plain JSON values (plain.py)
- `validate_input`: workflow inputs (inputs.py)
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from msgpack import ExtType, packb, unpackb

from polos_redis.errors import NotStorableError, UnreadableValueError, ValueTooLargeError
from polos_redis.values import packing
from polos_redis.values.packing import pack_list as encode_list
from polos_redis.values.packing import pack_record as encode_record
from polos_redis.values.plain import to_plain
from polos_redis.values.validation import validate_input

__all__ = [
    "canonical_digest",
    "decode",
    "encode",
    "encode_list",
    "encode_record",
    "plain",
    "stored_digest",
    "to_plain",
    "validate_input",
]

DEFAULT_LIMIT = 1_048_576  # bytes
_CANONICAL_DICT, _CANONICAL_SET = 64, 65  # extension types that only digests see


def encode(value: object, *, limit: int = DEFAULT_LIMIT) -> bytes:
    """The stored form of a value, at most `limit` bytes; `decode` gives it back typed and equal.

    Storable: None, bool, int of any size, float, str, bytes, list, tuple, set, frozenset, dict with any
    hashable keys, datetime, date, time, timedelta, Decimal, UUID, enum members, pydantic models and
    dataclasses at module level, and mixtures. Subclasses of the builtins are refused; a bytearray or
    memoryview comes back as bytes.

    Raises NotStorableError naming the path inside the value (`$.items[3].file: ...`), and
    ValueTooLargeError.
    """
    try:
        data = packing.pack(value)
    except Exception as error:  # msgpack's own, a refusal, or what a property of a user's class raised
        cause = None if isinstance(error, NotStorableError) else error
        raise NotStorableError(_explain(value, error)) from cause
    if len(data) > limit:
        raise ValueTooLargeError(
            f"the value takes {len(data):,} bytes stored and the limit is {limit:,}: keep it elsewhere and "
            "pass a reference, or raise max_value_bytes (POLOS_MAX_VALUE_BYTES)"
        )
    return data


def decode(data: bytes) -> Any:
    """The value that was encoded, with its types.

    Types are found among imported modules only; nothing is imported, and nothing the store names is
    called, except that a record of a known class is made. Raises UnreadableValueError and nothing else:
    damaged or truncated bytes, a type that is not imported here, a newer format.
    """
    try:
        return packing.unpack(data)
    except UnreadableValueError as error:
        raise UnreadableValueError(f"a stored value can't be read: {error}") from None
    except Exception as error:
        raise UnreadableValueError(f"a stored value can't be read, it is damaged: {error!r}") from error


def plain(value: object) -> Any:
    """A storable value as plain JSON values, exactly as `to_plain` shows it once stored.

    Raises NotStorableError.
    """
    return to_plain(_stored(value))


def canonical_digest(value: object) -> bytes:
    """16 bytes that are the same for the same value, whatever the order of its dicts and sets.

    1, 1.0 and True differ, and so do a model and the dict of its fields; which fields of a model were
    set explicitly makes no difference, as for `==`. Raises NotStorableError.
    """
    return stored_digest(_stored(value))


def stored_digest(data: bytes) -> bytes:
    """`canonical_digest` of a value that is encoded already; its types need not be known here."""
    try:
        canonical = _canonical(_neutral(data))
        return blake2b(_pack_neutral(canonical), digest_size=16).digest()
    except (RecursionError, ValueError) as error:
        if isinstance(error, NotStorableError):
            raise
        raise NotStorableError(f"$: {packing.TOO_DEEP}") from None


def _stored(value: object) -> bytes:
    """The stored form without a limit, for values that are looked at and not stored."""
    return encode(value, limit=1 << 40)


def _neutral(data: bytes) -> Any:
    # Without a hook an extension stays an ExtType: no type is needed and no user's code runs.
    return unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")


def _pack_neutral(value: Any) -> bytes:
    packed: bytes = packb(value, unicode_errors="surrogatepass")
    return packed


def _canonical(value: Any) -> Any:
    """The same tree with dicts and sets as sorted sequences of their packed entries."""
    cls = type(value)
    if cls is list:
        return [_canonical(item) for item in value]
    if cls is dict:
        entries = (_pack_neutral(_canonical(k)) + _pack_neutral(_canonical(v)) for k, v in value.items())
        return ExtType(_CANONICAL_DICT, b"".join(sorted(entries)))
    if cls is not ExtType:
        return value
    code, payload = value
    if code in (packing.SET, packing.FROZENSET):
        entries = (_pack_neutral(_canonical(item)) for item in _neutral(payload))
        return ExtType(_CANONICAL_SET, bytes([code]) + b"".join(sorted(entries)))
    if code == packing.TUPLE or code in packing.RECORD_KINDS:
        body = _neutral(payload)
        if code == packing.MODEL and len(body) > 2:
            body = [body[0], body[1], *(body[3:] if any(body[3:]) else ())]
        return ExtType(code, _pack_neutral(_canonical(body)))
    return value


# --- why a value was refused --------------------------------------------------------------


def _explain(value: object, error: Exception) -> str:
    """`path: reason` of the first thing in value that can't be stored; only for values that were refused."""
    trail: list[tuple[str, Any, Any]] = [("$", value, None)]  # label, value, iterator over its children
    open_ids: set[int] = set()
    while trail:
        label, item, children = trail[-1]
        if children is None:
            problem = _problem(item, open_ids, len(trail))
            if problem is not None:
                return f"{_path(trail)}: {problem}"
            children = iter(_children(item))
            trail[-1] = (label, item, children)
            open_ids.add(id(item))
        step = next(children, None)
        if step is None:
            trail.pop()
            open_ids.discard(id(item))
        else:
            trail.append((*step, None))
    return f"$: {error}" if isinstance(error, NotStorableError) else f"$: it can't be stored: {error!r}"


def _problem(value: Any, open_ids: set[int], depth: int) -> str | None:
    if type(value) in packing._LEAVES:
        return None
    if id(value) in open_ids:
        return f"a {type(value).__name__} contains itself"
    if depth > packing.MAX_NESTING:
        return f"nested deeper than {packing.MAX_NESTING} levels"
    if type(value) in (list, dict):
        return None
    try:
        _, body, _ = packing.encoder(type(value))
        body(value)
    except Exception as error:
        return str(error) if isinstance(error, NotStorableError) else f"it can't be stored: {error!r}"
    return None


def _children(value: Any) -> list[tuple[str, Any]]:
    cls = type(value)
    if cls is dict:
        keys = [(f" key {_short(key)}", key) for key in value if type(key) is not str]
        return keys + [(_label(key), item) for key, item in value.items()]
    if cls in (list, tuple):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if cls in (set, frozenset):
        return [(f" item {_short(item)}", item) for item in value]
    if cls in packing._LEAVES:
        return []
    code, body, packs = packing.encoder(cls)
    if not packs or code not in packing.RECORD_KINDS:
        return []
    _, fields, *more = body(value)
    found = list(fields.items())
    for attributes in more:  # extra and private attributes; the list of set fields holds names only
        if type(attributes) is dict:
            found += attributes.items()
    return [(f".{name}", item) for name, item in found]


def _label(key: Any) -> str:
    return f".{key}" if type(key) is str and key.isidentifier() else f"[{_short(key)}]"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def _path(trail: list[tuple[str, Any, Any]]) -> str:
    text = "".join(label for label, _, _ in trail)
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
