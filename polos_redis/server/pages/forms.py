"""Forms of suspensions: from a JSON schema or a `_form` to fields, and from a draft to a JSON answer.

`form.blank()` returns a draft with the defaults, `form.read(draft)` the answer. `client.resume` checks what a
form can't (ranges, patterns, a model's own rules); `form.add_errors` puts its errors beside the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from polos_redis.server.pages.declared_form import schema_of_form
from polos_redis.server.pages.draft import Draft
from polos_redis.server.pages.field_builder import FieldBuilder
from polos_redis.server.pages.fields import MISSING, YES_NO, Checkbox, Choice, Field
from polos_redis.server.pages.nested_fields import Group, Rows
from polos_redis.server.pages.schema_reader import Schema

ROOT: Final = "answer"

APPROVAL: Schema = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "format": "textarea", "title": "Reason"},
    },
    "required": ["approved"],
}


@dataclass(frozen=True, slots=True)
class Form:
    """A form. With `decides`, it is sent by one of two buttons, Approve and Reject."""

    root: Field
    decides: bool

    def blank(self) -> Draft:
        draft = Draft()
        self.root.fill_default(draft)
        return draft

    def read(self, draft: Draft) -> Any:
        """Returns the answer, and adds an error to the draft for each invalid field."""
        value = self.root.read(draft)
        return None if value is MISSING else value

    def change_rows(self, draft: Draft) -> bool:
        """Adds or removes the row whose button was pressed; returns whether one was."""
        added, removed = draft.get("_add"), draft.get("_remove")
        if removed:
            draft.remove_row(removed)
            draft.focus = f"{removed.rpartition('/')[0]}+"
        for field in self.fields(draft) if added else ():
            if isinstance(field, Rows) and field.name == added:
                draft.focus = field.add(draft).name
                break
        return bool(added or removed)

    def fields(self, draft: Draft) -> Iterator[Field]:
        """Returns all fields in the order of the page."""
        stack = [self.root]
        while stack:
            field = stack.pop()
            yield field
            stack += reversed(list(field.below(draft)))

    def add_errors(self, draft: Draft, errors: Iterable[Mapping[str, str]]) -> None:
        """Adds errors found elsewhere to their fields, or to the nearest visible field above."""
        paths = {field.path for field in self.fields(draft) if field.shown}
        for error in errors:
            path = str(error.get("field", ""))
            while path and path not in paths:
                path = path.rpartition(".")[0]
            draft.add_error(path, str(error.get("message", "This value is not valid.")))

    def errors(self, draft: Draft) -> list[tuple[Field | None, str]]:
        """Returns each error with its field, in the form's order; None stands for the whole form."""
        left = dict(draft.errors)
        found = [
            (field, left.pop(field.path))
            for field in self.fields(draft)
            if field.shown and field.path in left
        ]
        return [*((None, message) for message in left.values()), *found]


def of_schema(schema: Schema) -> Form:
    """Returns the form of a JSON schema. A boolean property `approved` becomes the two buttons."""
    root = FieldBuilder(schema).field(schema, ROOT, "", "Your answer", required=True)
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


def of_suspension(suspension: Mapping[str, Any]) -> Form:
    """Builds the form from a suspension's schema, else its `_form`, else approve or reject with a reason."""
    schema = suspension.get("schema")
    if isinstance(schema, Mapping):
        return of_schema(schema)
    data = suspension.get("data")
    declared = data.get("_form") if isinstance(data, Mapping) else None
    several = (suspension.get("required") or 1) > 1
    return of_schema(schema_of_form(declared, decides=several) or APPROVAL)
