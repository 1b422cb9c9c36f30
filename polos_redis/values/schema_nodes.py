"""JSON schemas (2020-12) compiled to nodes, which schema_check.py checks values against.

What a keyword says about the value alone becomes an assertion; what it says about parts, or through other
schemas, becomes nodes. Annotations, `unevaluatedItems`, `unevaluatedProperties`, `$dynamicRef` and unknown
keywords are left to the type itself, and so are patterns that pydantic's regex engine can't express.
References lead into the schema itself and are never fetched.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence, Sized
from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Assertion = Callable[[Any], str]  # says what is wrong with a value, "" if nothing
_Keyword = Callable[[Any], Assertion]  # of a keyword's value

LONGEST_FORMATTED = 2_048  # characters of a string with a format, such as a date or an address


class Node:
    """A compiled schema. `types` are the JSON types it allows; None allows all."""

    __slots__ = (
        *("additional", "all_of", "assertions", "contains", "dependent", "if_then_else", "items", "names"),
        *("not_of", "patterns", "prefix", "properties", "required", "simple", "tags", "types", "unions"),
    )

    def __init__(self) -> None:
        self.types: tuple[str, ...] | None = None
        self.assertions: list[Assertion] = []
        self.all_of: list[Node] = []
        self.unions: list[Union] = []
        self.not_of: Node | None = None
        self.if_then_else: tuple[Node, Node | None, Node | None] | None = None
        self.required: Sequence[str] = ()
        self.properties: dict[str, Node] = {}
        self.patterns: list[tuple[str, Node]] = []
        self.additional: Node | None = None
        self.names: Node | None = None
        self.dependent: dict[str, Node] = {}
        self.prefix: list[Node] = []
        self.items: Node | None = None
        self.contains: tuple[Node, int, int | None] | None = None
        self.tags: dict[str, Node] = {}  # required properties with a constant, which tell union members apart
        self.simple = True  # it has nothing but types and assertions


class Union:
    """`anyOf`, or `oneOf` if it is exclusive. The property `tag` selects one of `by_tag`, if it is not ""."""

    __slots__ = ("by_tag", "exclusive", "members", "tag")

    def __init__(self, members: list[Node], exclusive: bool) -> None:
        self.members = members
        self.exclusive = exclusive
        self.tag = ""
        self.by_tag: dict[str, Node] = {}


@functools.lru_cache(maxsize=256)
def compiled(schema: str) -> Node:
    """The node of a schema that is given as JSON text."""
    root = json.loads(schema)
    return _Compiler(root).compiled()


def json_type(value: Any) -> str:
    """The JSON type of a plain value; "integer" for every number without a fraction."""
    name = _TYPES.get(type(value), "object")
    return "integer" if name == "number" and value.is_integer() else name


_TYPES: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    dict: "object",
    list: "array",
}


class _Compiler:
    """Compiles one schema: each part of it once, so that nodes refer to each other as the schema does; one
    after the other, since references may form a chain of any length."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes: dict[int, Node] = {}
        self._references: dict[str, Node] = {}
        self._todo: list[tuple[Node, Mapping[str, Any]]] = []

    def compiled(self) -> Node:
        root = self.node(self._root)
        while self._todo:
            self._fill(*self._todo.pop())
        return root

    def node(self, schema: Any) -> Node:
        node = self._nodes.get(id(schema))
        if node is None or isinstance(schema, bool):  # True and False are the same object everywhere
            node = self._nodes[id(schema)] = Node()
            if schema is False:
                node.types = ()
            elif isinstance(schema, dict):
                self._todo.append((node, schema))
        return node

    def _fill(self, node: Node, schema: Mapping[str, Any]) -> None:
        kinds = schema.get("type")
        if kinds is not None:
            node.types = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        node.assertions = [
            _ASSERTIONS[keyword](value) for keyword, value in schema.items() if keyword in _ASSERTIONS
        ]
        if "$ref" in schema:
            node.all_of.append(self._referred(schema["$ref"]))
        node.all_of += self._all(schema.get("allOf"))
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                node.unions.append(self._union(schema, keyword))
        node.not_of = self._maybe(schema, "not")
        if "if" in schema:
            node.if_then_else = (
                self.node(schema["if"]),
                self._maybe(schema, "then"),
                self._maybe(schema, "else"),
            )
        self._fill_object(node, schema)
        self._fill_array(node, schema)
        node.simple = not any(
            getattr(node, name)
            for name in Node.__slots__
            if name not in ("types", "assertions", "simple", "tags")
        )

    def _fill_object(self, node: Node, schema: Mapping[str, Any]) -> None:
        node.required = schema.get("required", ())
        node.properties = {name: self.node(one) for name, one in schema.get("properties", {}).items()}
        patterns = schema.get("patternProperties", {})
        node.patterns = [(regex, self.node(one)) for regex, one in patterns.items()]
        node.additional = self._maybe(schema, "additionalProperties")
        node.names = self._maybe(schema, "propertyNames")
        node.dependent = {name: self.node(one) for name, one in schema.get("dependentSchemas", {}).items()}
        for name, names in schema.get("dependentRequired", {}).items():
            node.dependent[name] = Node()
            node.dependent[name].required = names
            node.dependent[name].simple = False
        constants = {
            name: one
            for name, one in schema.get("properties", {}).items()
            if name in node.required and isinstance(one, dict) and {"const", "enum"} & one.keys()
        }
        node.tags = {name: self.node(one) for name, one in constants.items()}

    def _fill_array(self, node: Node, schema: Mapping[str, Any]) -> None:
        node.prefix = self._all(schema.get("prefixItems"))
        node.items = self._maybe(schema, "items")
        if "contains" in schema:
            node.contains = (
                self.node(schema["contains"]),
                schema.get("minContains", 1),
                schema.get("maxContains"),
            )

    def _union(self, schema: Mapping[str, Any], keyword: str) -> Union:
        union = Union(self._all(schema[keyword]), keyword == "oneOf")
        tags = schema.get("discriminator")
        if isinstance(tags, dict) and isinstance(tags.get("mapping"), dict):
            union.tag = str(tags.get("propertyName", ""))
            union.by_tag = {tag: self._referred(str(one)) for tag, one in tags["mapping"].items()}
        return union

    def _referred(self, reference: str) -> Node:
        if reference not in self._references:
            try:
                self._references[reference] = self.node(_pointed(self._root, reference))
            except (LookupError, ValueError, TypeError):
                missing = Node()
                missing.assertions = [
                    lambda _: f"the schema refers to {reference}, but references are never fetched"
                ]
                self._references[reference] = missing
        return self._references[reference]

    def _maybe(self, schema: Mapping[str, Any], keyword: str) -> Node | None:
        return self.node(schema[keyword]) if keyword in schema else None

    def _all(self, schemas: Sequence[Any] | None) -> list[Node]:
        return [self.node(one) for one in schemas or ()]


def _pointed(root: Any, reference: str) -> Any:
    """What a reference inside the schema points to. Raises an error if it leads elsewhere."""
    if not reference.startswith("#"):
        raise ValueError(reference)
    found = root
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    if reference not in ("#", "") and not reference.startswith("#/"):  # an anchor
        raise ValueError(reference)
    return found


# --- assertions -------------------------------------------------------------------------


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _limit(fails: Callable[[Any, Any], bool], said: str) -> _Keyword:
    def keyword(limit: Any) -> Assertion:
        return lambda value: said.format(limit) if _number(value) and fails(value, limit) else ""

    return keyword


def _length(cls: type[Sized], fails: Callable[[Any, Any], bool], said: str) -> _Keyword:
    def keyword(limit: int) -> Assertion:
        return lambda value: said.format(limit) if isinstance(value, cls) and fails(len(value), limit) else ""

    return keyword


def _below(size: Any, limit: Any) -> bool:
    return bool(size < limit)


def _above(size: Any, limit: Any) -> bool:
    return bool(size > limit)


def _constant(constant: Any) -> Assertion:
    return _options([constant])


def _options(options: Sequence[Any]) -> Assertion:
    known = {key_of(option) for option in options}
    any_container = any(isinstance(option, dict | list) for option in options)
    listed = " or ".join(json.dumps(option) for option in options[:10]) + (" ..." if options[10:] else "")

    def check(value: Any) -> str:
        comparable = any_container or not isinstance(value, dict | list)
        return "" if comparable and key_of(value) in known else f"must be {listed}"

    return check


def _multiple(divisor: Any) -> Assertion:
    def check(value: Any) -> str:
        if not _number(value) or not Fraction(str(value)) % Fraction(str(divisor)):
            return ""
        return f"must be a multiple of {divisor}"

    return check


def _unique(unique: bool) -> Assertion:
    def check(value: Any) -> str:
        if not unique or not isinstance(value, list) or len({key_of(item) for item in value}) == len(value):
            return ""
        return "contains an item twice"

    return check


def _pattern(regex: str) -> Assertion:
    return lambda value: (
        f"must match the pattern {regex}" if isinstance(value, str) and not matches(regex, value) else ""
    )


def _format(name: str) -> Assertion:
    def check(value: Any) -> str:
        if not isinstance(value, str) or name not in _formats():
            return ""
        if len(value) > LONGEST_FORMATTED:
            return f"must be a valid {name} of at most {LONGEST_FORMATTED:,} characters"
        try:
            return "" if _formats()[name](value) else f"must be a valid {name}"
        except ValueError:
            return f"must be a valid {name}"

    return check


_ASSERTIONS: dict[str, _Keyword] = {
    "minimum": _limit(_below, "must be at least {}"),
    "maximum": _limit(_above, "must be at most {}"),
    "exclusiveMinimum": _limit(lambda value, limit: value <= limit, "must be greater than {}"),
    "exclusiveMaximum": _limit(lambda value, limit: value >= limit, "must be less than {}"),
    "multipleOf": _multiple,
    "minLength": _length(str, _below, "must have at least {} characters"),
    "maxLength": _length(str, _above, "must have at most {} characters"),
    "minItems": _length(list, _below, "must have at least {} items"),
    "maxItems": _length(list, _above, "must have at most {} items"),
    "minProperties": _length(dict, _below, "must have at least {} fields"),
    "maxProperties": _length(dict, _above, "must have at most {} fields"),
    "const": _constant,
    "enum": _options,
    "uniqueItems": _unique,
    "pattern": _pattern,
    "format": _format,
}


def key_of(value: Any) -> Any:
    """A hashable form of a plain value, equal for values that are equal in JSON."""
    if value is None or isinstance(value, bool):
        return (value,)
    if isinstance(value, dict | list):
        return json.dumps(_with_plain_numbers(value), sort_keys=True)
    # As text, whose hash is random: the hashes of numbers can be chosen, to make every look-up slow.
    return f"={value}" if isinstance(value, str) else f"#{_with_plain_numbers(value)}"


def _with_plain_numbers(value: Any) -> Any:
    """The value with 1 in place of 1.0, so that equal values have equal texts."""
    if isinstance(value, dict):
        return {name: _with_plain_numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_plain_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def matches(pattern: str, text: str) -> bool:
    """Whether the text contains the pattern. pydantic's engine decides this in linear time.

    True for a pattern that the engine can't express, such as a lookahead.
    """
    from pydantic import ValidationError

    adapter = _compiled_pattern(pattern)
    try:
        if adapter is not None:
            adapter.validate_python(text)
    except ValidationError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _compiled_pattern(pattern: str) -> TypeAdapter[str] | None:
    from pydantic import StringConstraints, TypeAdapter
    from pydantic_core import SchemaError

    try:
        return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError:
        return None


@functools.cache
def _formats() -> Mapping[str, Callable[[str], bool]]:
    """Checks of the formats in pydantic's schemas, by pydantic's own types; they may raise ValueError."""
    from datetime import date, datetime, time, timedelta
    from uuid import UUID

    from pydantic import AnyUrl, TypeAdapter

    def by_type(annotation: Any) -> Callable[[str], bool]:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)

        def check(text: str) -> bool:
            adapter.validate_json(json.dumps(text))
            return True

        return check

    def email(text: str) -> bool:
        return re.fullmatch(r"[^@\s]+@[^@\s]+", text) is not None

    types = {
        "date-time": datetime,
        "date": date,
        "time": time,
        "duration": timedelta,
        "uuid": UUID,
        "uri": AnyUrl,
    }
    return {"email": email, **{name: by_type(annotation) for name, annotation in types.items()}}
