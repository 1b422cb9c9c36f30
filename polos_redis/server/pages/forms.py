"""Forms: a JSON schema, or a suspension's `_form`, as fields to fill in, and what was typed as a JSON answer.

`form.blank()` is the sheet with the defaults, `form.read(sheet)` the answer. What a form can't know (ranges,
patterns, a model's own rules) is left to `client.resume`, whose complaints go to `form.blame`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from polos_redis.server.pages.builder import MOST_FIELDS, Builder, Schema, option_label
from polos_redis.server.pages.fields import MISSING, YES_NO, Checkbox, Choice, Field
from polos_redis.server.pages.groups import Group, Rows
from polos_redis.server.pages.sheets import Sheet

ROOT: Final = "answer"


@dataclass(frozen=True, slots=True)
class Form:
    """What a person fills in. `decides`: it is sent by one of two buttons, Approve and Reject."""

    root: Field
    decides: bool

    def blank(self) -> Sheet:
        sheet = Sheet()
        self.root.fill_default(sheet)
        return sheet

    def read(self, sheet: Sheet) -> Any:
        """The answer; what is wrong is complained of in the sheet."""
        value = self.root.read(sheet)
        return None if value is MISSING else value

    def change_rows(self, sheet: Sheet) -> bool:
        """Add or remove the row that was asked for by a button; whether one was."""
        added, removed = sheet.get("_add"), sheet.get("_remove")
        if removed:
            sheet.remove_row(removed)
            sheet.focus = f"{removed.rpartition('/')[0]}+"
        for one in self.fields(sheet) if added else ():
            if isinstance(one, Rows) and one.name == added:
                sheet.focus = one.add(sheet).name
                break
        return bool(added or removed)

    def fields(self, sheet: Sheet) -> Iterator[Field]:
        """All fields in the order of the page."""
        left = [self.root]
        while left:
            one = left.pop()
            yield one
            left += reversed(list(one.below(sheet)))

    def blame(self, sheet: Sheet, errors: Iterable[Mapping[str, str]]) -> None:
        """Put complaints from elsewhere beside the fields they are about, or the nearest above those."""
        known = {one.path for one in self.fields(sheet) if one.shown}
        for error in errors:
            path = str(error.get("field", ""))
            while path and path not in known:
                path = path.rpartition(".")[0]
            sheet.complain(path, str(error.get("message", "This is not right.")))

    def complaints(self, sheet: Sheet) -> list[tuple[Field | None, str]]:
        """What is wrong, in the form's order: the field (None for the whole) and the words."""
        left = dict(sheet.complaints)
        found = [(one, left.pop(one.path)) for one in self.fields(sheet) if one.shown and one.path in left]
        return [*((None, words) for words in left.values()), *found]


def of_schema(schema: Schema) -> Form:
    """The form of a JSON schema. A property `approved` that is a boolean becomes the two buttons."""
    root = Builder(schema).field(schema, ROOT, "", "Your answer", required=True)
    if not isinstance(root, Group):
        return Form(root, False)
    approved = root.fields.get("approved")
    decides = isinstance(approved, Checkbox) or (isinstance(approved, Choice) and approved.options == YES_NO)
    if decides and approved is not None:
        button = Choice(
            name=approved.name,
            path=approved.path,
            label="Decision",
            required=True,
            options=YES_NO,
            shown=False,
        )
        root = replace(root, fields={**root.fields, "approved": button})
    return Form(root, decides)


APPROVAL: Schema = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "format": "textarea", "title": "Reason"},
    },
    "required": ["approved"],
}


def schema_of_form(form: Any, *, decides: bool = False) -> Schema | None:
    """The schema of a suspension's `_form`; None where it declares no fields. What makes no sense is read as
    a text: a page must come of it. With `decides` it gets an `approved` if it has none."""
    declared = form.get("fields") if isinstance(form, Mapping) else None
    if not isinstance(declared, list):
        return None
    properties: dict[str, Schema] = {}
    required = []
    for one in declared[:MOST_FIELDS]:
        name = one.get("name") if isinstance(one, Mapping) else None
        if not isinstance(name, str) or not name:
            continue
        properties[name] = _declared(one)
        if one.get("required") is True:
            required.append(name)
    if not properties:
        return None
    if decides and "approved" not in properties:
        properties["approved"] = {"type": "boolean"}
        required.append("approved")
    return {"type": "object", "properties": properties, "required": required}


_DECLARED: dict[str, Schema] = {
    "text": {"type": "string", "format": "text", "maxLength": None},
    "textarea": {"type": "string", "format": "textarea"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "checkbox": {"type": "boolean", "default": False},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
    "email": {"type": "string", "format": "email"},
    "url": {"type": "string", "format": "uri"},
}


def _declared(one: Mapping[str, Any]) -> Schema:
    kind = one.get("type")
    schema = dict(_DECLARED.get(kind if isinstance(kind, str) else "text", _DECLARED["text"]))
    options = one.get("options")
    if isinstance(options, list) and options and kind in ("select", "radio", None):
        schema = {"oneOf": [_declared_option(option) for option in options]}
    if kind == "checkbox" and one.get("required") is True:
        schema = {"const": True}
    for key, name in (("label", "title"), ("description", "description")):
        if isinstance(one.get(key), str):
            schema[name] = one[key]
    if one.get("default") is not None:
        schema["default"] = one["default"]
        if "type" in schema and kind != "checkbox" and one.get("required") is not True:
            schema["type"] = [schema["type"], "null"]  # it is there to begin with, and may be taken out
    return schema


def _declared_option(option: Any) -> Schema:
    if isinstance(option, Mapping) and "value" in option:
        label = option.get("label")
        return {
            "const": option["value"],
            "title": str(label) if label is not None else option_label(option["value"]),
        }
    return {"const": option, "title": option_label(option)}


def of_suspension(suspension: Mapping[str, Any]) -> Form:
    """The form of a suspension: its schema's, else its `_form`'s, else approve or reject with a reason."""
    schema = suspension.get("schema")
    if isinstance(schema, Mapping):
        return of_schema(schema)
    data = suspension.get("data")
    declared = data.get("_form") if isinstance(data, Mapping) else None
    several = (suspension.get("required") or 1) > 1
    return of_schema(schema_of_form(declared, decides=several) or APPROVAL)
