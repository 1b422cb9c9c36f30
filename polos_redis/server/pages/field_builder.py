"""Builds form fields from a JSON schema. Whatever it can't express becomes a text area for JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from polos_redis.server.pages.draft import MAX_ROWS
from polos_redis.server.pages.fields import (
    MAX_RADIOS,
    MISSING,
    YES_NO,
    Checkbox,
    Choice,
    ChoiceOption,
    Choices,
    Field,
    Fixed,
    Input,
    Verdict,
)
from polos_redis.server.pages.labels import cut, label_of
from polos_redis.server.pages.nested_fields import Group, Rows, Variants
from polos_redis.server.pages.schema_reader import (
    REF,
    TYPE_TITLE,
    Schema,
    SchemaReader,
    length_hint,
    option_label,
    options_of,
    range_hint,
    type_of,
)
from polos_redis.values.schemas import ZONE

MAX_DEPTH: Final = 8  # levels of fields; deeper values are entered as JSON
MAX_FIELDS: Final = 400  # of one form, or one row of a list
MAX_VARIANTS: Final = 30  # of one value
MAX_NAME: Final = 200  # characters of a property's name, which each control repeats
MAX_LABEL: Final = 300
MAX_HELP: Final = 2000
APPROVED: Final = "approved"  # the property of the answer that only the buttons Approve and Reject set

Attributes = dict[str, Any]  # those common to all fields: name, path, label, ...

_INPUT_TYPES = {
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
_LONG_TEXT_KEYS = re.compile(
    r"(^|_)(reasons?|comments?|notes?|message|description|explanation|feedback|summary|body|remarks?|justification)$"
)
_TYPE_LABELS = {
    "string": "Text",
    "number": "Number",
    "integer": "Whole number",
    "boolean": "Yes or no",
    "array": "List",
    "object": "Details",
}


class FieldBuilder:
    """Builds the fields of one schema. Recursive types and very large ones end in text areas for JSON."""

    def __init__(self, root: Schema) -> None:
        self._reader = SchemaReader(root)
        self._fields_left = MAX_FIELDS
        self._open_refs: list[str] = []  # the types being built, outermost first

    def field(
        self, schema: Any, name: str, path: str, label: str, *, required: bool, depth: int | None = None
    ) -> Field:
        """Builds the field of a schema. `depth` is None for an outermost field."""
        if depth is None:
            depth, self._fields_left = name.count("/"), MAX_FIELDS
        self._fields_left -= 1
        examples = schema.get("examples") if isinstance(schema, Mapping) else None
        schema, nullable, variants = self._reader.resolve(schema)
        ref = schema.pop(REF, "")
        title = schema.get("title")
        if isinstance(title, str) and title and _bare(title) != _bare(label):
            label = title  # a title of its own, not one derived from the name
        description = schema.get("description")
        common: Attributes = {
            "name": name,
            "path": path,
            "label": cut(label, MAX_LABEL),
            "help": cut(description, MAX_HELP) if isinstance(description, str) else "",
            "required": required,
            "nullable": nullable,
            "default": schema.get("default", MISSING),
            "example": examples[0] if isinstance(examples, list) and examples else MISSING,
        }
        if depth > MAX_DEPTH or self._fields_left < 0 or (ref and self._open_refs.count(ref) > 1):
            return Input(type="json", **common)
        self._open_refs.append(ref)
        try:
            found = self._field(schema, nullable, variants, common, depth)
        finally:
            self._open_refs.pop()
        if (
            isinstance(found, Rows)
            and isinstance(found.default, list | dict)
            and len(found.default) > MAX_ROWS
        ):
            return Input(type="json", **common)  # a list that rows can't show in full
        return found

    def _field(
        self, schema: dict[str, Any], nullable: bool, variants: Sequence[Any], common: Attributes, depth: int
    ) -> Field:
        if variants:
            return self._variants(variants, nullable, common, depth)
        options = options_of(schema)
        if options is not None:
            return _choice(options, common)
        kind = type_of(schema)
        if kind in ("object", "array") and nullable:  # nothing, or an empty list?
            bare = {key: value for key, value in schema.items() if key != "default"}
            return self._variants([bare], True, common, depth)
        if (
            kind == "object"
            and schema.get("required")
            and common["default"] is MISSING
            and not common["required"]
        ):
            return self._or_nothing(schema, common, depth)
        if kind == "object":
            return self._object(schema, common, depth)
        if kind == "array":
            return self._array(schema, common)
        if kind == "boolean":
            if isinstance(common["default"], bool) and not nullable:
                return Checkbox(**common)
            return Choice(options=YES_NO, **common)
        if kind == "null":
            return Fixed(value=None, **{**common, "shown": False})
        if kind in ("number", "integer"):
            return Input(type=kind, **_with_hint(common, range_hint(schema)))
        if kind == "string":
            return _text(schema, common)
        return Input(type="json", **common)

    def _or_nothing(self, schema: Schema, common: Attributes, depth: int) -> Field:
        """Returns the field of an object that may be left out, although its own properties are required."""
        name, path, label = f"{common['name']}/0~", common["path"], "Enter a value"
        fields = self.field({**schema, "title": label}, name, path, label, required=True, depth=depth + 1)
        name = f"{common['name']}/none~"
        nothing = Fixed(name=name, path=path, label="Nothing", shown=False, value=MISSING)
        return Variants(variants=[fields, nothing], **common)

    def _variants(self, variants: Sequence[Any], nullable: bool, common: Attributes, depth: int) -> Field:
        variants = [one for one in variants if isinstance(one, Mapping)]
        if not 0 < len(variants) <= MAX_VARIANTS:
            return Input(type="json", **common)
        resolved = [self._reader.resolve(one).schema for one in variants]
        types = {type_of(one) for one in resolved}
        texts = [one for one in resolved if type_of(one) == "string"]
        if types == {"number", "string"} and len(resolved) == 2 and _is_of_numbers(texts[0]):  # a Decimal
            number = next(one for one in resolved if type_of(one) == "number")
            return Input(type="decimal", **_with_hint(common, range_hint(number)))
        if types == {"number", "integer"}:
            return Input(type="number", **common)
        fields: list[Field] = []
        for index, (variant, schema) in enumerate(zip(variants, resolved, strict=True)):
            name = f"{common['name']}/{index}~"
            label = schema.get("title") or schema.get(TYPE_TITLE)
            label = label or _TYPE_LABELS.get(type_of(schema), f"Variant {index + 1}")
            variant = {key: value for key, value in variant.items() if key != "default"}
            if len(variants) == 1:
                label = variant["title"] = "Enter a value"
            fields.append(
                self.field(variant, name, common["path"], str(label), required=True, depth=depth + 1)
            )
        if nullable:
            name = f"{common['name']}/none~"
            fields.append(Fixed(name=name, path=common["path"], label="Nothing", shown=False))
            if common["default"] is MISSING and not common["required"]:
                common = {**common, "default": None}
        return Variants(variants=fields, **{**common, "nullable": nullable})

    def _object(self, schema: Schema, common: Attributes, depth: int) -> Field:
        properties = schema.get("properties")
        rest = schema.get("additionalProperties")
        if isinstance(properties, Mapping) and 0 < len(properties) <= MAX_FIELDS and _are_short(properties):
            required = schema.get("required")
            required = required if isinstance(required, list) else []
            fields = {
                str(key): self._property(str(key), one, common, depth, required=key in required)
                for key, one in properties.items()
            }
            return Group(fields=fields, **common)
        if properties or rest is False:
            return Input(type="json", **common) if properties else Group(**common)
        if isinstance(rest, Mapping) and rest:
            return Rows(make_row=self._row(rest), keyed=True, **common)
        return Input(type="json", **common)

    def _property(self, key: str, schema: Any, common: Attributes, depth: int, *, required: bool) -> Field:
        root, *parts = common["name"].split("/")
        if key == APPROVED and all(part.endswith("~") for part in parts):  # of the answer, or of a variant
            return Verdict(name=f"{root}/{key}", path=key, label="Decision", required=True, shown=False)
        return self.field(
            schema,
            f"{common['name']}/{_escape(key)}",
            f"{common['path']}.{key}".lstrip("."),
            label_of(key),
            required=required,
            depth=depth + 1,
        )

    def _row(self, item: Schema) -> Callable[[str, str, str], Field]:
        return lambda name, path, label: self.field(item, name, path, label, required=True)

    def _array(self, schema: Schema, common: Attributes) -> Field:
        item = schema.get("items")
        if not isinstance(item, Mapping) or "prefixItems" in schema:
            return Input(type="json", **common)
        found = self._reader.resolve(item)
        options = None if found.nullable else options_of(found.schema)
        if options is not None and (schema.get("uniqueItems") or len(options) <= MAX_RADIOS):
            return Choices(options=options, **common)
        min_rows = schema.get("minItems", 0)
        return Rows(make_row=self._row(item), min_rows=min_rows if isinstance(min_rows, int) else 0, **common)


def _bare(text: str) -> str:
    return text.replace(" ", "").lower()


def _escape(key: str) -> str:
    """Returns a property's name as a part of an HTML name, in which `#`, `?`, `=` and a last `~` have a
    meaning."""
    for place, character in enumerate("~/#?="):
        key = key.replace(character, f"~{place}")
    return key


def _are_short(names: Iterable[Any]) -> bool:
    return all(len(str(name)) <= MAX_NAME for name in names)


def _is_of_numbers(schema: Schema) -> bool:
    """Whether a text has to be a number, going by its pattern."""
    pattern = schema.get("pattern")
    try:
        matches = re.compile(pattern).search if isinstance(pattern, str) and len(pattern) < MAX_NAME else None
    except re.error:
        return False
    return matches is not None and bool(matches("12.5") and matches("-3")) and not matches("a")


def _choice(options: list[ChoiceOption], common: Attributes) -> Field:
    if len(options) == 1 and not common["nullable"]:
        only = options[0].value
        if common["required"] or (common["default"] == only and type(common["default"]) is type(only)):
            if only is True:
                return Checkbox(must=True, **common)
            return Fixed(value=only, **{**common, "shown": False})
    labelled = [replace(one, label=cut(one.label or option_label(one.value), MAX_LABEL)) for one in options]
    return Choice(options=labelled, **common)


def _text(schema: Schema, common: Attributes) -> Field:
    kind = _INPUT_TYPES.get(str(schema.get("format")), "text")
    if kind == "datetime" and schema.get(ZONE) is False:
        kind = "local"
    if kind == "password":
        common = {**common, "default": MISSING}  # it is masked
    if kind == "text" and isinstance(common["default"], str) and "\n" in common["default"]:
        kind = "textarea"
    if kind == "text":
        limit, key = schema.get("maxLength"), common["path"].rpartition(".")[2]
        if limit > 200 if isinstance(limit, int) else _LONG_TEXT_KEYS.search(key.lower()):
            kind = "textarea"
    hint = length_hint(schema) if kind in ("text", "textarea") else ""
    return Input(type=kind, **_with_hint(common, hint))


def _with_hint(common: Attributes, hint: str) -> Attributes:
    text = common["help"]
    if text and hint and text[-1] not in ".!?:;":
        text += "."
    return {**common, "help": " ".join(part for part in (text, hint) if part)}
