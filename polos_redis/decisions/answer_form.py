"""Forms that a workflow declares for the page of a suspension: its title, and the fields of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, get_args

from polos_redis.errors import ConfigurationError

FieldType = Literal[
    "text", "textarea", "number", "integer", "checkbox", "select", "date", "datetime", "email", "url"
]

MAX_FIELDS = 400
MAX_NAME = 200  # characters of a field's name
MAX_OPTIONS = 500  # of one field
MAX_TEXT = 10_000  # characters of the title and of the description
MAX_LABEL = 300  # of a field's label and of an option: what the page shows
MAX_HELP = 2000  # of a field's description


class AnswerOption(TypedDict):
    """An option of a select: the value in the answer, and the text that people choose it by."""

    value: Any
    label: str


class AnswerField(TypedDict):
    """A field of the answer. `name` is its key. `options` are values, or values with labels, of a select.

    A field called `approved` is the buttons Approve and Reject, and nothing else.
    """

    name: str
    type: NotRequired[FieldType]
    label: NotRequired[str]
    description: NotRequired[str]
    required: NotRequired[bool]
    default: NotRequired[Any]
    options: NotRequired[list[Any]]


class AnswerForm(TypedDict, total=False):
    """The form of a suspension's page. Without `fields`: Approve and Reject, with a reason.

    The page shows `title` as its heading and `description` below it.
    """

    title: str
    description: str
    fields: list[AnswerField]


def check_form(what: str, form: Any, *, typed: bool) -> dict[str, Any]:
    """Returns a declared form as a dict. Raises `ConfigurationError` that says what is wrong where.

    `typed`: the suspension has a `schema`, whose fields the form can't declare as well.
    """
    found = _checked(what, "form", form, AnswerForm)
    _check_texts(what, "form", found, title=MAX_TEXT, description=MAX_TEXT)
    fields = found.get("fields")
    if fields is None:
        return found
    if typed:
        raise ConfigurationError(f"{what}: schema= has the fields: omit fields from form=")
    if not isinstance(fields, list | tuple) or len(fields) > MAX_FIELDS:
        raise ConfigurationError(f"{what}: form.fields must be a list of at most {MAX_FIELDS} fields")
    checked = [_checked_field(what, f"form.fields[{place}]", one) for place, one in enumerate(fields)]
    names = [one["name"] for one in checked]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ConfigurationError(f"{what}: form.fields has two fields named {twice!r}")
    return {**found, "fields": checked}


def _checked_field(what: str, place: str, field: Any) -> dict[str, Any]:
    found = _checked(what, place, field, AnswerField)
    name = found.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ConfigurationError(f"{what}: {place} needs a name of 1 to {MAX_NAME} characters")
    kinds = get_args(FieldType)
    if found.get("type", "text") not in kinds:
        kind = found["type"]
        raise ConfigurationError(f"{what}: {place}.type must be one of {', '.join(kinds)}, not {kind!r}")
    if not isinstance(found.get("required", False), bool):
        raise ConfigurationError(f"{what}: {place}.required must be True or False")
    _check_texts(what, place, found, label=MAX_LABEL, description=MAX_HELP)
    options = found.get("options")
    if options is not None and (not isinstance(options, list | tuple) or len(options) > MAX_OPTIONS):
        raise ConfigurationError(f"{what}: {place}.options must be a list of at most {MAX_OPTIONS} options")
    for number, option in enumerate(options or ()):
        label = option.get("label", option.get("value")) if isinstance(option, Mapping) else option
        if isinstance(label, str) and len(label) > MAX_LABEL:
            raise ConfigurationError(
                f"{what}: {place}.options[{number}] must have a label of at most {MAX_LABEL} characters"
            )
    if found.get("type") == "select" and not options:
        raise ConfigurationError(f"{what}: {place} is a select and needs options")
    return found


def _checked(what: str, place: str, value: Any, kind: type) -> dict[str, Any]:
    """Returns a mapping as a dict with no key but those of a TypedDict."""
    expected = list(kind.__annotations__)
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what}: {place} must be a dict of {', '.join(expected)}, not {value!r}")
    unknown = [key for key in value if key not in expected]
    if unknown:
        raise ConfigurationError(
            f"{what}: {place} has the unexpected key {unknown[0]!r}; expected one of {', '.join(expected)}"
        )
    return dict(value)


def _check_texts(what: str, place: str, found: Mapping[str, Any], **longest: int) -> None:
    for name, characters in longest.items():
        text = found.get(name, "")
        if not isinstance(text, str) or len(text) > characters:
            raise ConfigurationError(
                f"{what}: {place}.{name} must be a text of at most {characters:,} characters"
            )
