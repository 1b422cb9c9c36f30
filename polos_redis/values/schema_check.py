"""The check of a plain value against a JSON schema, in steps linear in the schema times the value.

Each pair of a schema's node and a part of the value is checked once, and its errors are kept relative to the
part. So a recursive union costs what its members cost once each, however deep the value. The steps
come from a budget, and errors end at MAX_ERRORS. The check is a work of values/bounds.py: it yields between
steps, so that it can share the event loop.

What the type itself could only check in exponential time is refused here too. Otherwise an answer would be
accepted that the workflow can't receive.

An element of the stack is a generator: it yields the pairs it needs and receives their errors.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from polos_redis.errors import InvalidInputError
from polos_redis.values import bounds
from polos_redis.values.schema_nodes import Node, Union, json_type, matches

MAX_ERRORS = 50  # errors listed for one value
MAX_STEPS = 500_000  # about 1 s of work on a slow machine, in turns of 2 ms
MAX_REPEATED = 10_000  # steps that pydantic, which remembers nothing, would take again and again
_TURN = 128  # steps between two yields

TOO_COSTLY = "checking the value against its schema would take too long: make it smaller or less nested"


class SchemaError(NamedTuple):
    """What is wrong with a part: the path to it, the message, and whether it has the wrong JSON type."""

    path: tuple[str | int, ...]
    message: str
    wrong_type: bool = False

    def inside(self, name: str | int) -> SchemaError:
        """The same error, seen from the part that contains the part under this name."""
        return SchemaError((name, *self.path), self.message, self.wrong_type)


Errors = list[SchemaError]
Pair = tuple[Node, int]  # a node and the id of a part
Check = Generator[tuple[Node, Any] | None, Errors, Errors]  # yields None as a sign of progress


def errors_of(schema: Node, value: Any) -> bounds.Work[Errors]:
    """The errors of a plain value, at most MAX_ERRORS. Raises `InvalidInputError` beyond MAX_STEPS, or if the
    check would repeat more than MAX_REPEATED steps without the memory of what was checked."""
    known: dict[Pair, Errors] = {}
    all_steps: dict[Pair, int] = {}  # of a check that remembers nothing
    stack = [_Frame(schema, value)]
    answer: Errors | None = None
    steps = 0
    while stack:
        frame = stack[-1]
        try:
            wanted = next(frame.check) if answer is None else frame.check.send(answer)
        except StopIteration as end:
            answer = known[frame.pair] = end.value
            all_steps[frame.pair] = frame.steps
            stack.pop()
            if stack:
                stack[-1].steps += frame.steps
            if frame.steps > len(known) + MAX_REPEATED:
                raise InvalidInputError(TOO_COSTLY) from None
            continue
        steps += 1 if wanted is not None else _TURN
        if steps > MAX_STEPS:
            raise InvalidInputError(TOO_COSTLY)
        if wanted is None or not steps % _TURN:
            yield
        if wanted is None:
            answer = NONE
            continue
        node, part = wanted
        pair = (node, id(part))
        answer = known.get(pair)
        if answer is None:
            known[pair] = NONE  # a schema that refers to itself says nothing more about the same part
            stack.append(_Frame(node, part))
        elif isinstance(part, dict | list):
            frame.steps += all_steps.get(pair, 1)
    assert answer is not None
    return answer


class _Frame:
    """A check in progress."""

    __slots__ = ("check", "pair", "steps")

    def __init__(self, node: Node, part: Any) -> None:
        self.pair = (node, id(part))
        self.check = _check(node, part)
        self.steps = 1


NONE: Errors = []


def _check(node: Node, value: Any) -> Check:
    errors = _own_errors(node, value)
    if node.simple or (errors and errors[0].wrong_type):
        return errors
    for inner in node.all_of:
        errors += yield inner, value
    for union in node.unions:
        errors += yield from _check_union(union, value)
    if node.not_of is not None and not (yield node.not_of, value):
        errors.append(SchemaError((), "matches a schema that it must not match"))
    if node.if_then_else is not None:
        condition, then, otherwise = node.if_then_else
        branch = otherwise if (yield condition, value) else then
        if branch is not None:
            errors += yield branch, value
    if isinstance(value, dict):
        errors += yield from _check_object(node, value)
    elif isinstance(value, list):
        errors += yield from _check_array(node, value)
    return errors[:MAX_ERRORS]


def _own_errors(node: Node, value: Any) -> Errors:
    """What the node says about the value itself."""
    if node.types is not None:
        kind = json_type(value)
        if kind not in node.types and not (kind == "integer" and "number" in node.types):
            return [SchemaError((), f"must be {_listed(node.types)}, not {_ARTICLES[kind]}", True)]
        if "integer" not in node.types and bounds.is_beyond_floats(value):
            return [SchemaError((), "is too large for a float")]
    found = (assertion(value) for assertion in node.assertions)
    return [SchemaError((), message) for message in found if message]


_ARTICLES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "object": "an object",
    "array": "a list",
}


def _listed(types: Sequence[str]) -> str:
    return " or ".join(_ARTICLES.get(one, one) for one in types) or "absent"


def _check_object(node: Node, value: dict[str, Any]) -> Check:
    errors = [SchemaError((name,), "is required") for name in node.required if name not in value]
    for name, inner in node.dependent.items():
        if name in value:
            errors += yield inner, value
    for number, (name, child) in enumerate(value.items(), 1):
        if len(errors) >= MAX_ERRORS:
            break
        if node.names is not None:
            errors += [SchemaError((name, *error.path), error.message) for error in (yield node.names, name)]
        for inner in _nodes_of(node, name):
            if inner.types == ():
                errors.append(SchemaError((name,), "is not allowed here"))
            elif inner.simple:
                errors += [error.inside(name) for error in _own_errors(inner, child)]
            else:
                errors += [error.inside(name) for error in (yield inner, child)]
        if not number % _TURN:
            yield None
    return errors


def _nodes_of(node: Node, name: str) -> Iterator[Node]:
    """The nodes of the property with this name."""
    is_known = name in node.properties
    if is_known:
        yield node.properties[name]
    for regex, inner in node.patterns:
        if matches(regex, name):
            is_known = True
            yield inner
    if not is_known and node.additional is not None:
        yield node.additional


def _check_array(node: Node, value: list[Any]) -> Check:
    errors: Errors = []
    for index, child in enumerate(value):
        if len(errors) >= MAX_ERRORS:
            break
        inner = node.prefix[index] if index < len(node.prefix) else node.items
        if inner is None:
            break
        if inner.simple:
            errors += [error.inside(index) for error in _own_errors(inner, child)]
        else:
            errors += [error.inside(index) for error in (yield inner, child)]
        if index % _TURN == _TURN - 1:
            yield None
    if node.contains is not None:
        inner, least, most = node.contains
        count = 0
        for child in value:
            count += not (yield inner, child)
        if count < least or (most is not None and count > most):
            errors.append(SchemaError((), "does not contain the right number of the items it must contain"))
    return errors


# --- unions -----------------------------------------------------------------------------


def _check_union(union: Union, value: Any) -> Check:
    if union.tag and isinstance(value, dict):
        return (yield from _check_tagged(union, value))
    fits = 0
    failed: list[Errors] = []
    otherwise_tagged: list[Errors] = []
    for member in union.members:
        wrong_tags = _wrong_tags(member, value)
        errors = yield member, value
        if wrong_tags:
            otherwise_tagged.append(wrong_tags)
        elif errors:
            failed.append(errors)
        else:
            fits += 1
            if not union.exclusive and not isinstance(value, dict | list):
                break  # pydantic tries all members for the others
    if fits and not union.exclusive:
        return []
    if fits > 1:
        return [SchemaError((), f"matches {fits} of the alternatives, but must match one")]
    return [] if fits else _best(failed, otherwise_tagged)


def _check_tagged(union: Union, value: dict[str, Any]) -> Check:
    tag = value.get(union.tag)
    member = union.by_tag.get(tag) if isinstance(tag, str) else None
    if member is None:
        known = " or ".join(repr(one) for one in list(union.by_tag)[:10])
        return [SchemaError((), f"its field {union.tag!r} must be {known}")]
    return (yield member, value)


def _wrong_tags(member: Node, value: Any) -> Errors:
    """The errors of a dict's tags if they say that it is meant for another member."""
    node = member
    seen = 0
    while not node.tags and len(node.all_of) == 1 and seen < 100:  # through references
        node, seen = node.all_of[0], seen + 1
    if not node.tags or not isinstance(value, dict):
        return []
    return [
        error.inside(name)
        for name, inner in node.tags.items()
        if name in value
        for error in _own_errors(inner, value[name])
    ]


def _best(failed: list[Errors], otherwise_tagged: list[Errors]) -> Errors:
    """The errors of the member that the value was most likely meant for; of all, if it is none of them."""
    meant = [errors for errors in failed if not any(error.wrong_type and not error.path for error in errors)]
    meant = meant or otherwise_tagged
    if meant:
        if len({error.path for errors in meant for error in errors}) == 1 == max(map(len, meant)):
            return [SchemaError(meant[0][0].path, _joined(errors[0].message for errors in meant))]
        return max(meant, key=lambda errors: (max(len(error.path) for error in errors), -len(errors)))
    if not failed:
        return [SchemaError((), "matches none of the alternatives")]
    return [SchemaError((), _joined(error.message for errors in failed for error in errors), True)]


def _joined(messages: Iterable[str]) -> str:
    """One message for several alternatives: `must be a string or null, not an integer`."""
    parts = [message.partition(", not ") for message in dict.fromkeys(messages)][:10]
    expected = " or ".join(
        part[0] if number == 0 else part[0].removeprefix("must be ") for number, part in enumerate(parts)
    )
    return expected + "".join(parts[0][1:])
