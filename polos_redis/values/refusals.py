"""Explains why a value can't be stored, with the path to the part at fault: `$.items[3].file: ...`."""

from __future__ import annotations

from typing import Any

from polos_redis import failures
from polos_redis.errors import NotStorableError
from polos_redis.values import packing


def explain(value: object, error: BaseException) -> str:
    """`path: reason` for the first part of `value` that can't be stored.

    Call it only for a value that failed to encode with `error`, which is the reason if no part is at fault.
    """
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
    return (
        f"$: {error}"
        if isinstance(error, NotStorableError)
        else f"$: it can't be stored: {failures.repr_of(error)}"
    )


def _problem(value: Any, open_ids: set[int], depth: int) -> str | None:
    if type(value) in packing.LEAVES:
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
    except BaseException as error:
        return (
            str(error)
            if isinstance(error, NotStorableError)
            else f"it can't be stored: {failures.repr_of(error)}"
        )
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
    if cls in packing.LEAVES:
        return []
    code, body, packs = packing.encoder(cls)
    if code == packing.JSON:
        return [("", value.value)]
    if not packs or code not in packing.RECORD_KINDS:
        return []
    _, fields, *more = body(value)
    found = list(fields.items())
    for attributes in more:  # extra and private attributes, but not the list of fields that were set
        if type(attributes) is dict:
            found += attributes.items()
    return [(f".{name}", item) for name, item in found]


def _label(key: Any) -> str:
    return f".{key}" if type(key) is str and key.isidentifier() else f"[{_short(key)}]"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except BaseException:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def _path(trail: list[tuple[str, Any, Any]]) -> str:
    text = "".join(label for label, _, _ in trail)
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
