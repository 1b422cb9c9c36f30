"""Types of answers: what a suspension's answer is read as, when it approves and when it rejects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from polos_redis.errors import ConfigurationError
from polos_redis.values import bounds, codec, schemas, shapes, type_names
from polos_redis.values.complete_form import accept, complete_form
from polos_redis.values.plain import is_json

_REASON = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Reason"}


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """An answer that rejects. `suspend` returns it when its `schema` has further required fields, which only
    an approval has to fill in."""

    approved: Literal[False] = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerTypes:
    """The types of a suspension's answers.

    `approval` is the type of every answer without a `rejection`, or without `approved: false`. `schema` is
    the approval's JSON schema, where that demands more than the type's own.
    """

    approval: Any = None
    rejection: Any = None
    schema: dict[str, Any] | None = None

    def describe(self, what: str) -> tuple[dict[str, Any] | None, str, dict[str, Any] | None, str]:
        """The JSON schema and the name of the type of approvals, then those of rejections; None and "" for
        what has no type of its own. Raises `ConfigurationError`."""
        if self.approval is None:
            if self.rejection is not None:
                raise ConfigurationError(f"{what}: reject_schema= needs schema=, the type of an approval")
            return None, "", None, ""
        schema, name = schemas.describe(what, self.approval)
        schema = self.schema or schema
        approved = schemas.properties(_without_none(schema)).get("approved", {})
        if not _has_verdict(schema) and approved.keys() - {"title", "description", "default"}:
            raise ConfigurationError(
                f"{what}: the field `approved` of schema= must be a bool: Approve and Reject answer it"
            )
        _check_names(what, self.approval)
        if self.rejection is None or self.rejection is Rejection:
            needed = self.rejection is not None or _needs_rejection(schema)
            return schema, name, _rejection_schema(schema) if needed else None, ""
        if not _has_verdict(schema):
            raise ConfigurationError(f"{what}: with reject_schema=, give schema= a field `approved: bool`")
        rejection, rejection_name = schemas.describe(what, self.rejection, option="reject_schema")
        _check_names(what, self.rejection)
        if not _has_verdict(rejection):
            raise ConfigurationError(f"{what}: give reject_schema= a field `approved: Literal[False]`")
        return schema, name, rejection, rejection_name

    def read(self, stored: bytes) -> bounds.Work[Any]:
        """The stored answer as its type. Raises as `schemas.parse`."""
        value = codec.decode(stored)
        plain = is_json(value)
        annotation = self.approval
        if verdict(value if plain else complete_form(value)) is False:
            annotation = self._type_of_rejections()
        return (yield from schemas.parse(annotation, value) if plain else accept(annotation, value))

    def _type_of_rejections(self) -> Any:
        if self.rejection is not None:
            return self.rejection
        schema, _ = schemas.describe("schema", self.approval)
        return Rejection if _needs_rejection(schema) else self.approval


UNTYPED = AnswerTypes()


def verdict(answer: Any) -> bool | None:
    """Returns whether an answer approves, by its boolean field `approved`; None without one."""
    approved = answer.get("approved") if isinstance(answer, dict) else None
    return approved if isinstance(approved, bool) else None


def _check_names(what: str, annotation: Any) -> None:
    """Raises `ConfigurationError` if a model reads its field `approved` under another name, or another field
    under that name: whoever reads the JSON would see another verdict than the workflow."""
    for one in get_args(annotation):
        _check_names(what, one)
    if not (isinstance(annotation, type) and type_names.is_model(annotation)):
        return
    for name, info in shapes.model_fields(annotation).items():
        aliases = {info.alias, info.serialization_alias, *_names(info.validation_alias)} - {None}
        if aliases and (name == "approved" or "approved" in aliases) and aliases != {name}:
            raise ConfigurationError(
                f"{what}: the field {name} of {annotation.__name__} has the alias {min(aliases - {name})}: "
                "in Python and in JSON, `approved` must be the same field"
            )


def _names(alias: Any) -> list[Any]:
    return [
        one if one is None or isinstance(one, str) else one.path[0]
        for one in getattr(alias, "choices", (alias,))
    ]


def _needs_rejection(schema: dict[str, Any]) -> bool:
    """Whether an answer that only rejects, with a reason, lacks something that a JSON schema requires. A
    union must require more in each of its members, and have none for rejections only."""
    if not _has_verdict(schema):
        return False
    members = _members(schema)
    verdicts = [one["properties"]["approved"].get("const") for one in members]
    if len(members) > 1 and any(one is False for one in verdicts):
        return False
    return all(
        approved is True or set(one.get("required", ())) - {"approved", "reason"}
        for one, approved in zip(members, verdicts, strict=True)
    )


def _has_verdict(schema: dict[str, Any]) -> bool:
    """Whether a JSON schema, and of a union each member, has a field `approved` that may be true or
    false; None among them doesn't count."""
    members = _members(schema)
    return bool(members) and all(_is_verdict(one.get("properties", {}).get("approved")) for one in members)


def _members(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The members of a union other than None; of any other type, its schema alone."""
    return [one for one in schemas.alternatives(schema) if one.get("type") != "null"]


def _without_none(schema: dict[str, Any]) -> dict[str, Any]:
    """Of `A | None`, the schema of A; of any other type, its own."""
    members = _members(schema)
    return members[0] if len(members) == 1 else schema


def _is_verdict(approved: Any) -> bool:
    """Whether the schema of a field takes true or false."""
    if not isinstance(approved, dict):
        return False
    options = [approved, *approved.get("anyOf", ())]
    values = [value for one in options for value in [one.get("const"), *one.get("enum", ())]]
    return any(one.get("type") == "boolean" for one in options) or any(type(one) is bool for one in values)


def _rejection_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a `Rejection`; its reason is as constrained as the approval's, if that is a text."""
    approval = schemas.resolved(_without_none(schema))
    reason = schemas.properties(approval).get("reason")
    is_text = isinstance(reason, dict) and reason.get("type") == "string"
    required = ["reason"] if is_text and "reason" in approval.get("required", ()) else []
    return {
        "title": "Rejection",
        "type": "object",
        "properties": {
            "approved": {"const": False, "title": "Approved", "type": "boolean"},
            "reason": reason if is_text else _REASON,
        },
        "required": ["approved", *required],
        "additionalProperties": False,
    }
