"""From a JSON schema to fields: whatever it says, something comes of it; at the worst a box for JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from polos_redis.server.pages.display import visible
from polos_redis.server.pages.fields import (
    MISSING,
    MOST_RADIOS,
    YES_NO,
    Checkbox,
    Choice,
    ChoiceOption,
    Choices,
    Field,
    Fixed,
    Input,
)
from polos_redis.server.pages.groups import Group, Rows, Variants
from polos_redis.server.pages.words import label_of

DEEPEST: Final = 8  # levels of fields; what lies deeper is given as JSON
MOST_FIELDS: Final = 400  # of one form, or one row of a list

REF: Final = "\0ref"  # where a schema that was referred to keeps by what
TYPE: Final = "\0type"  # and its own title

Schema = Mapping[str, Any]

_FORMATS = {
    "date": "date",
    "date-time": "datetime",
    "time": "time",
    "email": "email",
    "idn-email": "email",
    "uri": "url",
    "url": "url",
    "password": "password",
    "textarea": "textarea",
    "multiline": "textarea",
}
_LONG_TEXTS = re.compile(
    r"(^|_)(reasons?|comments?|notes?|message|description|explanation|feedback|summary|body|remarks?|justification)$"
)


class Builder:
    """Makes the fields of one schema; `$ref` is looked up in it.

    A type that contains itself, and one that has very many fields, ends in boxes for JSON.
    """

    def __init__(self, root: Schema) -> None:
        self.root = root
        self._left = MOST_FIELDS
        self._open: list[str] = []  # the types that are being laid out

    def field(
        self, schema: Any, name: str, path: str, label: str, *, required: bool, depth: int | None = None
    ) -> Field:
        if depth is None:  # an outermost field
            depth, self._left = name.count("/"), MOST_FIELDS
        self._left -= 1
        examples = schema.get("examples") if isinstance(schema, Mapping) else None
        schema, nullable, several = self._plain(schema)
        ref = schema.pop(REF, "")
        title = schema.get("title")
        if isinstance(title, str) and title and _bare(title) != _bare(label):
            label = title  # not one that was only made of the name
        about = schema.get("description")
        told: dict[str, Any] = {
            "name": name,
            "path": path,
            "label": visible(label),
            "help": visible(about) if isinstance(about, str) else "",
            "required": required,
            "nullable": nullable,
            "default": schema.get("default", MISSING),
            "example": examples[0] if isinstance(examples, list) and examples else MISSING,
        }
        if depth > DEEPEST or self._left < 0 or (ref and self._open.count(ref) > 1):
            return Input(type="json", **told)
        self._open.append(ref)
        try:
            return self._laid_out(schema, nullable, several, told, depth)
        finally:
            self._open.pop()

    def _laid_out(
        self,
        schema: dict[str, Any],
        nullable: bool,
        several: Sequence[Any],
        told: dict[str, Any],
        depth: int,
    ) -> Field:
        if several:
            return self._one_of(several, nullable, told, depth)
        options = _options(schema)
        if options is not None:
            return _choice(options, told)
        kind = _type(schema)
        if kind == "object" and nullable:
            bare = {key: value for key, value in schema.items() if key != "default"}
            return self._one_of([bare], True, told, depth)
        if kind == "object":
            return self._object(schema, told, depth)
        if kind == "array":
            return self._array(schema, told)
        if kind == "boolean":
            if isinstance(told["default"], bool) and not nullable:
                return Checkbox(**told)
            return Choice(options=YES_NO, **told)
        if kind == "null":
            return Fixed(value=None, **{**told, "shown": False})
        if kind in ("number", "integer"):
            return Input(type=kind, **_with_hint(told, _range(schema)))
        if kind == "string":
            return _text(schema, told)
        return Input(type="json", **told)

    def _plain(self, schema: Any) -> tuple[dict[str, Any], bool, list[Any]]:
        """A schema without `$ref`, `allOf` of one and null: (schema, whether null will do, its alternatives
        where there are several)."""
        found = dict(schema) if isinstance(schema, Mapping) else {}
        nullable = False
        for _ in range(50):  # a $ref to itself ends here
            if isinstance(found.get("$ref"), str):
                ref = found.pop("$ref")
                target = self._find(ref)
                # a type's own title says what it is, not what this value is for
                named = {TYPE: target["title"]} if "title" in target else {}
                found = {**target, **named, "title": None, REF: ref, **found}
                continue
            every = found.get("allOf")
            if isinstance(every, list) and len(every) == 1 and isinstance(every[0], Mapping):
                del found["allOf"]
                found = {**every[0], **found}
                continue
            types = found.get("type")
            if isinstance(types, list):
                nullable = nullable or "null" in types
                left = [one for one in types if one != "null"]
                if len(left) == 1:
                    found["type"] = left[0]
                    continue
                rest = {key: found[key] for key in found.keys() - {"type", "title", "description", "default"}}
                return found, nullable, [{**rest, "type": one} for one in left]
            word = "anyOf" if isinstance(found.get("anyOf"), list) else "oneOf"
            several = found.get(word)
            if not isinstance(several, list) or _options(found) is not None:
                return found, nullable, []
            left = [one for one in several if not (isinstance(one, Mapping) and one.get("type") == "null")]
            nullable = nullable or len(left) < len(several)
            if len(left) == 1 and isinstance(left[0], Mapping):
                del found[word]
                found = {**left[0], **found}
                continue
            return found, nullable, left
        return {}, nullable, []

    def _find(self, ref: str) -> Schema:
        found: Any = self.root
        for part in ref.removeprefix("#").strip("/").split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if key:
                found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def _one_of(self, several: Sequence[Any], nullable: bool, told: dict[str, Any], depth: int) -> Field:
        several = [one for one in several if isinstance(one, Mapping)]
        plain = [self._plain(one)[0] for one in several]
        types = {_type(one) for one in plain}
        if types == {"number", "string"}:  # a Decimal
            number = next(one for one in plain if _type(one) == "number")
            return Input(type="decimal", **_with_hint(told, _range(number)))
        if types == {"number", "integer"}:
            return Input(type="number", **told)
        variants: list[Field] = []
        for index, (one, schema) in enumerate(zip(several, plain, strict=True)):
            name = f"{told['name']}/{index}~"
            label = (
                schema.get("title") or schema.get(TYPE) or _KINDS.get(_type(schema), f"Variant {index + 1}")
            )
            given = {key: value for key, value in dict(one).items() if key != "default"}
            if len(several) == 1:
                label = "Give it"
                given["title"] = label
            variants.append(self.field(given, name, told["path"], str(label), required=True, depth=depth + 1))
        if nullable:
            none = Fixed(name=f"{told['name']}/none~", path=told["path"], label="Nothing", shown=False)
            variants.append(none)
            if told["default"] is MISSING and not told["required"]:
                told = {**told, "default": None}
        return Variants(variants=variants, **{**told, "nullable": nullable})

    def _object(self, schema: Schema, told: dict[str, Any], depth: int) -> Field:
        properties = schema.get("properties")
        rest = schema.get("additionalProperties")
        if isinstance(properties, Mapping) and properties and len(properties) <= MOST_FIELDS:
            wanted = schema.get("required")
            wanted = wanted if isinstance(wanted, list) else []
            fields = {
                str(key): self.field(
                    one,
                    f"{told['name']}/{_escape(str(key))}",
                    f"{told['path']}.{key}".lstrip("."),
                    label_of(str(key)),
                    required=key in wanted,
                    depth=depth + 1,
                )
                for key, one in properties.items()
            }
            return Group(fields=fields, **told)
        if properties or rest is False:
            return Input(type="json", **told) if properties else Group(**told)
        if isinstance(rest, Mapping) and rest:
            return Rows(make=self._row(rest), keyed=True, **told)
        return Input(type="json", **told)

    def _row(self, item: Schema) -> Callable[[str, str, str], Field]:
        return lambda name, path, label: self.field(item, name, path, label, required=True)

    def _array(self, schema: Schema, told: dict[str, Any]) -> Field:
        item = schema.get("items")
        if not isinstance(item, Mapping) or "prefixItems" in schema:
            return Input(type="json", **told)
        options = _options(self._plain(item)[0])
        if options is not None and (schema.get("uniqueItems") or len(options) <= MOST_RADIOS):
            return Choices(options=options, **told)
        fewest = schema.get("minItems", 0)
        return Rows(make=self._row(item), fewest=fewest if isinstance(fewest, int) else 0, **told)


_KINDS = {
    "string": "Text",
    "number": "Number",
    "integer": "Whole number",
    "boolean": "Yes or no",
    "array": "List",
    "object": "Details",
}


def _bare(text: str) -> str:
    return text.replace(" ", "").lower()


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _type(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else ""


def _options(schema: Schema) -> list[ChoiceOption] | None:
    """The options of an enum, a constant, or a list of titled constants."""
    if "const" in schema:
        title = schema.get("title")
        return [ChoiceOption(value=schema["const"], label=visible(title) if isinstance(title, str) else "")]
    enum = schema.get("enum")
    if isinstance(enum, list):
        return [ChoiceOption(value=one, label=option_label(one)) for one in enum if one is not None]
    several = schema.get("oneOf", schema.get("anyOf"))
    if not isinstance(several, list) or not several:
        return None
    if not all(isinstance(one, Mapping) and "const" in one for one in several):
        return None
    return [
        ChoiceOption(value=one["const"], label=visible(str(one.get("title") or option_label(one["const"]))))
        for one in several
    ]


def option_label(value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _choice(options: list[ChoiceOption], told: dict[str, Any]) -> Field:
    only = options[0].value if len(options) == 1 and not told["nullable"] else None
    if only is not None and (told["required"] or told["default"] == only):
        if only is True:
            return Checkbox(must=True, **told)
        return Fixed(value=only, **{**told, "shown": False})
    return Choice(
        options=[replace(one, label=one.label or option_label(one.value)) for one in options], **told
    )


def _text(schema: Schema, told: dict[str, Any]) -> Field:
    longest, shortest = schema.get("maxLength"), schema.get("minLength")
    kind = _FORMATS.get(str(schema.get("format")), "text")
    if kind == "text":
        key = told["path"].rpartition(".")[2]
        if longest > 200 if isinstance(longest, int) else _LONG_TEXTS.search(key.lower()):
            kind = "textarea"
    hint = ""
    if kind in ("text", "textarea"):
        if isinstance(longest, int) and isinstance(shortest, int) and shortest > 1:
            hint = f"From {shortest} to {longest} characters."
        elif isinstance(longest, int):
            hint = f"At most {longest} characters."
        elif isinstance(shortest, int) and shortest > 1:
            hint = f"At least {shortest} characters."
    return Input(type=kind, longest=longest if isinstance(longest, int) else None, **_with_hint(told, hint))


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"From {low:g} to {high:g}." if _numbers(low, high) else ""
    words = ((low, "At least"), (above, "More than"), (high, "At most"), (under, "Less than"))
    found = [f"{word} {limit:g}" for limit, word in words if limit is not None and _numbers(limit)]
    return ", ".join([*found[:1], *(one.lower() for one in found[1:])]) + "." if found else ""


def _numbers(*values: Any) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def _with_hint(told: dict[str, Any], hint: str) -> dict[str, Any]:
    about = told["help"]
    if about and hint and about[-1] not in ".!?:;":
        about += "."
    return {**told, "help": " ".join(part for part in (about, hint) if part)}
