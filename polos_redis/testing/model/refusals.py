"""What the real API would refuse in a request: names, and schemas that are not strict."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from polos_redis.testing.model.replies import Json


class RefusedRequest(Exception):
    """Answers a request with an error, whatever the reply would have been."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NOT_STRICT = (
    *("allOf", "default", "dependentRequired", "dependentSchemas", "else", "if", "not", "oneOf"),
    *("patternProperties", "prefixItems", "propertyNames", "then", "unevaluatedItems"),
    *("unevaluatedProperties", "uniqueItems"),
)


def check_name(name: str, param: str) -> None:
    if not _NAME.fullmatch(name):
        raise RefusedRequest(
            f"{param} is {name!r}, which does not match {_NAME.pattern}", param, "invalid_value"
        )


def check_schema(schema: Json, what: str, param: str, code: str, at: tuple[str, ...] = ()) -> None:
    """Apply the rules of strict mode to a schema and all its subschemas."""

    def refuse(why: str) -> NoReturn:
        raise RefusedRequest(f"the schema of {what} is not strict: at {at}, {why}", param, code)

    if not at and schema.get("type") != "object":
        refuse("the root must be of type object")
    if found := [word for word in _NOT_STRICT if word in schema]:
        refuse(f"{found[0]} is not permitted")
    if "$ref" in schema and len(schema) > 1:
        refuse("nothing is permitted beside $ref")
    if not {"type", "$ref", "anyOf", "enum", "const"} & set(schema):
        refuse("a type is missing")
    properties = schema.get("properties", {})
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            refuse("additionalProperties must be given and false")
        if missing := [name for name in properties if name not in schema.get("required", ())]:
            refuse(f"required has to name every property; not there: {missing}")
    for word in ("properties", "$defs"):
        for name, below in schema.get(word, {}).items():
            check_schema(below, what, param, code, (*at, word, name))
    for index, below in enumerate(schema.get("anyOf", ())):
        check_schema(below, what, param, code, (*at, "anyOf", str(index)))
    if "items" in schema:
        check_schema(schema["items"], what, param, code, (*at, "items"))


def check_string(value: Any, param: str) -> None:
    if not isinstance(value, str):
        raise RefusedRequest(f"{param} must be a string, not {type(value).__name__}", param, "invalid_type")
