"""Forms of suspensions: from a JSON schema or a declared form to fields, and from a draft to a JSON answer.

`form.blank()` returns a draft with the defaults, `form.read(draft)` the answer. `client.resume` checks what a
form can't (ranges, patterns, a model's own rules); `form.add_errors` puts its errors beside the fields.

Fields express most values of most types. For the rest (an empty text, a list of 300 items, a type that no
field fits), a form of a schema also takes the whole answer as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from polos_redis.server.pages.declared_form import form_in_data, schema_of_form
from polos_redis.server.pages.draft import Draft
from polos_redis.server.pages.field_builder import APPROVED, FieldBuilder
from polos_redis.server.pages.fields import MISSING, Choice, Field, Input, Verdict
from polos_redis.server.pages.nested_fields import Group, Rows, Variants
from polos_redis.server.pages.schema_reader import Schema, SchemaReader

ROOT: Final = "answer"
REJECTION: Final = "\0rejection"  # path of the fields of a rejection: no path of an answer
REASON: Final = "reason"  # the property of an answer that a rejection keeps
MAX_FORM_BYTES: Final = 500_000  # of a form's HTML, estimated
MAX_LISTED: Final = 10  # errors of an answer in JSON

APPROVAL: Schema = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "format": "textarea", "title": "Reason"},
    },
    "required": ["approved"],
}
AS_JSON: Final = Input(
    type="json",
    name="json",
    path="\0json",  # no path of an answer
    label="The whole answer as JSON",
    help="Replaces the fields above. Leave it empty to use those.",
)
BOX_ONLY: Final = replace(AS_JSON, label="Your answer as JSON", help="", required=True)


@dataclass(frozen=True, slots=True)
class Form:
    """A form. With `decides`, it is sent by one of two buttons, Approve and Reject. `json` takes the whole
    answer instead of the fields. `rejection` has the fields that only a rejection has. `of_data` says that
    its texts come from the data that the suspension shows."""

    root: Field
    decides: bool
    json: Input | None = None
    rejection: Field | None = None
    of_data: bool = False

    def blank(self) -> Draft:
        draft = Draft()
        for field in self._roots:
            field.fill_default(draft)
        return draft

    @property
    def _roots(self) -> list[Field]:
        """The outermost fields, in the order of the page."""
        return [one for one in (self.root, self.json, self.rejection) if one is not None]

    def read(self, draft: Draft) -> Any:
        """Returns the answer, and adds an error to the draft for each invalid field."""
        if self.rejects(draft):
            return self._rejection(draft)
        if self._uses_json(draft):
            return self._read_json(draft)
        value = self.root.read(draft)
        return None if value is MISSING else value

    def rejects(self, draft: Draft) -> bool:
        """Whether the button Reject was pressed of a form whose other fields are for an approval."""
        apart = isinstance(self.root, Group) or self.rejection is not None
        return self.decides and apart and self._verdict(draft) is False

    def _rejection(self, draft: Draft) -> Any:
        """Returns a rejection: `approved`, the fields that a rejection has, and the reason if there is
        one."""
        found = {} if self.rejection is None else self.rejection.read(draft)
        if not isinstance(found, dict):
            draft.add_error(REJECTION, "Enter a JSON object, such as {}.")
            return None
        reason = self.root.fields.get(REASON) if isinstance(self.root, Group) else None
        if REASON not in found and isinstance(reason, Input | Choice) and draft.get(reason.name).strip():
            value = reason.read(draft)
            if isinstance(value, str):
                found = {**found, REASON: value}
        return {**found, APPROVED: False}

    def _verdict(self, draft: Draft) -> bool | None:
        return {"true": True, "false": False}.get(draft.get(f"{ROOT}/{APPROVED}"))

    def _uses_json(self, draft: Draft) -> bool:
        return self.json is not None and (self.json.required or bool(draft.get(self.json.name).strip()))

    def _read_json(self, draft: Draft) -> Any:
        """Returns the answer typed as JSON. Only the buttons set `approved`: it may be left out."""
        assert self.json is not None
        value = self.json.read(draft)
        if value is MISSING or not self.decides:
            return None if value is MISSING else value
        verdict = self._verdict(draft)
        if verdict is None:
            draft.add_error(APPROVED, "Press Approve or Reject.")
        elif not isinstance(value, dict):
            draft.add_error(self.json.path, "Enter a JSON object, such as {}.")
        elif value.get(APPROVED, verdict) is not verdict:
            draft.add_error(self.json.path, f"Leave out “{APPROVED}”: only the buttons decide.")
        else:
            return {**value, APPROVED: verdict}
        return None

    def change_rows(self, draft: Draft) -> bool:
        """Adds or removes the row whose button was pressed; returns whether one was."""
        added, removed = draft.get("_add"), draft.get("_remove")
        if removed:
            draft.remove_row(removed)
            draft.focus = f"{removed.rpartition('/')[0]}+"
        for field in self.fields(draft) if added else ():
            if isinstance(field, Rows) and field.name == added:
                self._add_row(field, draft)
                break
        return bool(added or removed)

    def _add_row(self, rows: Rows, draft: Draft) -> None:
        before = draft.all(f"{rows.name}#")
        row = rows.add(draft)
        if self.is_too_large(draft):
            draft.put(f"{rows.name}#", *before)
            draft.add_error(rows.path, "The form can't hold another row. Enter the answer as JSON instead.")
            draft.focus = f"{rows.name}+"
        else:
            draft.focus = row.name

    def is_too_large(self, draft: Draft, *, texts: bool = True) -> bool:
        """Whether a page with this form, and with what was typed (`texts`), would be too large. Counts, and
        builds rows, no further than that."""
        left = MAX_FORM_BYTES - (draft.size if texts else 0)
        stack = self._roots
        while stack and left >= 0:
            field = stack.pop()
            left -= field.html_bytes(draft)
            rows = field.rows_bytes(draft) if isinstance(field, Rows) else 0
            if rows > left:
                return True
            stack += field.rendered(draft)
        return left < 0

    def fields(self, draft: Draft) -> Iterator[Field]:
        """Returns all fields in the order of the page."""
        stack = self._roots[::-1]
        while stack:
            field = stack.pop()
            yield field
            stack += reversed(list(field.below(draft)))

    def add_errors(self, draft: Draft, errors: Iterable[Mapping[str, str]]) -> None:
        """Adds errors found elsewhere to their fields, or to the nearest visible field above."""
        rejects = self.rejects(draft)
        if self.json is not None and self._uses_json(draft) and not rejects:
            lines = [": ".join(filter(None, (one.get("field"), one.get("message")))) for one in errors]
            draft.add_error(self.json.path, "\n".join(lines[:MAX_LISTED]))
            return
        paths = {field.path for field in self.fields(draft) if field.shown}
        for error in errors:
            path = str(error.get("field", ""))
            while path and path not in paths:
                if rejects and f"{REJECTION}.{path}" in paths:
                    path = f"{REJECTION}.{path}"
                else:
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
    """Returns the form of a JSON schema. The property `approved` becomes the two buttons, whatever its
    schema."""
    root = FieldBuilder(schema).field(schema, ROOT, "", "Your answer", required=True)
    decides = _decides(root)
    form = Form(root, decides is True, AS_JSON)
    if decides is None or _is_json(root) or form.is_too_large(form.blank()):
        properties = SchemaReader(schema).resolve(schema).schema.get("properties")
        return _box_only(isinstance(properties, Mapping) and APPROVED in properties)
    return form


def _box_only(decides: bool) -> Form:
    """Returns the form of an answer that no fields express."""
    name = f"{ROOT}/{APPROVED}"
    verdict = Verdict(name=name, path=APPROVED, label="Decision", required=True, shown=False)
    fields = {APPROVED: verdict} if decides else {}
    return Form(Group(name=ROOT, path="", label="", fields=fields), decides, BOX_ONLY)


def _rejection_of(form: Form, schema: Any) -> Field | None:
    """Returns the fields of a rejection that the form lacks; None if the form of one type lacks none."""
    if not isinstance(schema, Mapping) or not form.decides:
        return None
    found = FieldBuilder(schema).field(schema, "rejection", REJECTION, "Your rejection", required=True)
    if not isinstance(found, Group):
        return found
    of_approval = form.root.fields.keys() if isinstance(form.root, Group) else set()
    known = {APPROVED, *({REASON} & of_approval)}
    fields = {name: one for name, one in found.fields.items() if name not in known}
    needed = any(one.shown for one in fields.values()) or not isinstance(form.root, Group)
    return replace(found, fields=fields) if needed else None


def _decides(field: Field) -> bool | None:
    """Whether an answer of this field has a verdict; None if only some of its variants have."""
    if isinstance(field, Group):
        return APPROVED in field.fields
    if not isinstance(field, Variants):
        return False
    found = {_decides(variant) for variant in field.variants}
    return found.pop() if len(found) == 1 else None


def _is_json(field: Field) -> bool:
    return isinstance(field, Input) and field.type == "json"


def of_suspension(suspension: Mapping[str, Any]) -> Form:
    """Builds the form from a suspension's schema, else from the form that it declares, else from the `_form`
    in its data, else approve or reject with a reason."""
    schema = suspension.get("schema")
    if isinstance(schema, Mapping):
        form = of_schema(schema)
        return replace(form, rejection=_rejection_of(form, suspension.get("reject_schema")))
    declared = suspension.get("form")
    of_data = declared is None
    if of_data:
        declared = form_in_data(suspension)
    several = (suspension.get("required") or 1) > 1
    found = schema_of_form(declared, decides=several)
    form = of_schema(found or APPROVAL)
    json = form.json if form.json is BOX_ONLY else None  # too large for fields
    return replace(form, json=json, of_data=of_data and found is not None)
