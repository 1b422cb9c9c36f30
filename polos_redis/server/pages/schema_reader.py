"""Reads JSON schemas for forms: resolves references and null, finds types, options and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from polos_redis.server.pages.fields import ChoiceOption, is_json

Schema = Mapping[str, Any]

REF: Final = "\0ref"  # key of a resolved schema: the reference it came from
TYPE_TITLE: Final = "\0title"  # and the title of the type referred to

MAX_REFERENCES = 50  # followed in a row; a reference to itself ends here


class ResolvedSchema(NamedTuple):
    """A schema without `$ref`, single `allOf` and null. `variants` are its alternatives, if several."""

    schema: dict[str, Any]
    nullable: bool
    variants: list[Any]


class SchemaReader:
    """Resolves schemas whose `$ref` point into one root schema."""

    def __init__(self, root: Schema) -> None:
        self.root = root

    def resolve(self, schema: Any) -> ResolvedSchema:
        found = dict(schema) if isinstance(schema, Mapping) else {}
        nullable = False
        for _ in range(MAX_REFERENCES):
            if isinstance(found.get("$ref"), str):
                found = self._followed(found)
                continue
            enum = found.get("enum")
            if isinstance(enum, list) and None in enum and len(enum) > 1:
                nullable = True
                found["enum"] = [one for one in enum if one is not None]
            every = found.get("allOf")
            if isinstance(every, list) and len(every) == 1 and isinstance(every[0], Mapping):
                del found["allOf"]
                found = {**every[0], **found}
                continue
            types = found.get("type")
            if isinstance(types, list):
                nullable = nullable or "null" in types
                others = [one for one in types if one != "null"]
                if len(others) == 1:
                    found["type"] = others[0]
                    continue
                rest = {key: found[key] for key in found.keys() - {"type", "title", "description", "default"}}
                return ResolvedSchema(found, nullable, [{**rest, "type": one} for one in others])
            word = "anyOf" if isinstance(found.get("anyOf"), list) else "oneOf"
            variants = found.get(word)
            if not isinstance(variants, list) or options_of(found) is not None:
                return ResolvedSchema(found, nullable, [])
            others = [one for one in variants if not (isinstance(one, Mapping) and one.get("type") == "null")]
            nullable = nullable or len(others) < len(variants)
            if len(others) == 1 and isinstance(others[0], Mapping):
                del found[word]
                found = {**others[0], **found}
                continue
            return ResolvedSchema(found, nullable, others)
        return ResolvedSchema({}, nullable, [])

    def _followed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Merges the target of a `$ref` into a schema. Its title names the type, not this value."""
        ref = schema.pop("$ref")
        target = self._target(ref)
        type_title = {TYPE_TITLE: target["title"]} if "title" in target else {}
        return {**target, **type_title, "title": None, REF: ref, **schema}

    def _target(self, ref: str) -> Schema:
        found: Any = self.root
        for part in ref.removeprefix("#").strip("/").split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if key:
                found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}


def type_of(schema: Schema) -> str:
    """Returns the type of a resolved schema; "" if it has none."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else ""


def options_of(schema: Schema) -> list[ChoiceOption] | None:
    """Returns the options of an enum, a constant, or a list of titled constants; None for other schemas."""
    if "const" in schema:
        title = schema.get("title")
        return [ChoiceOption(value=schema["const"], label=title if isinstance(title, str) else "")]
    enum = schema.get("enum")
    if isinstance(enum, list):
        return [ChoiceOption(value=one, label=option_label(one)) for one in enum]
    variants = schema.get("oneOf", schema.get("anyOf"))
    if not isinstance(variants, list) or not variants:
        return None
    if not all(isinstance(one, Mapping) and "const" in one for one in variants):
        return None
    return [
        ChoiceOption(value=one["const"], label=str(one.get("title") or option_label(one["const"])))
        for one in variants
    ]


def option_label(value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def range_hint(schema: Schema) -> str:
    """Describes the limits of a number."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"From {_limit(low)} to {_limit(high)}." if _numbers(low, high) else ""
    limits = ((low, "At least"), (above, "More than"), (high, "At most"), (below, "Less than"))
    hints = [f"{words} {_limit(limit)}" for limit, words in limits if limit is not None and _numbers(limit)]
    return ", ".join([*hints[:1], *(hint.lower() for hint in hints[1:])]) + "." if hints else ""


def length_hint(schema: Schema) -> str:
    """Describes the limits of a text's length."""
    low, high = schema.get("minLength"), schema.get("maxLength")
    at_least = isinstance(low, int | float) and _numbers(low) and low > 1
    if _numbers(high):
        return f"From {low} to {high} characters." if at_least else f"At most {high} characters."
    return f"At least {low} characters." if at_least else ""


def _numbers(*values: Any) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) and is_json(one) for one in values)


def _limit(value: float) -> str:
    """Returns a limit in full: rounded, it would name a number that is not allowed."""
    return str(value).removesuffix(".0")
