"""Form fields of one value: text input, choice, checkbox. Each fills a draft and reads its value from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from math import isfinite
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from polos_redis.server.pages.draft import Draft
from polos_redis.values.json_text import read_json

MAX_RADIOS: Final = 5  # more options become a select box


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A form field. `name` is its name in HTML, `path` its place in the answer and in errors."""

    kind: ClassVar[str] = ""
    name: str
    path: str
    label: str
    help: str = ""
    required: bool = False
    nullable: bool = False
    default: Any = MISSING
    example: Any = MISSING  # fills a variant before it is chosen
    shown: bool = True  # False: a button sets it, or there is nothing to fill in

    def fill(self, draft: Draft, value: Any) -> None:
        """Writes a value into the draft as a person would type it."""
        raise NotImplementedError

    def read(self, draft: Draft) -> Any:
        """Returns the value in the draft; MISSING if there is none or it is invalid (which adds an error)."""
        raise NotImplementedError

    def fill_default(self, draft: Draft) -> None:
        if self.default is not MISSING and self.default is not None:
            self.fill(draft, self.default)

    def below(self, draft: Draft) -> Iterator[Field]:
        """Returns the fields inside this one."""
        return iter(())

    @property
    def optional(self) -> bool:
        return self.nullable or (not self.required and (self.default is MISSING or self.default is None))

    def empty(self, draft: Draft, message: str) -> Any:
        """Returns the value of an empty field: MISSING if optional, None if nullable, else adds an error."""
        if not self.required and (self.default is MISSING or self.default is None):
            return MISSING
        if self.nullable:
            return None
        draft.add_error(self.path, message)
        return MISSING


@dataclass(frozen=True, kw_only=True, slots=True)
class Input(Field):
    """A text field. `type` is text, textarea, password, number, integer, decimal (a number kept as text, so
    that no digit is lost), date, time, datetime, email, url or json."""

    kind: ClassVar[str] = "input"
    type: str = "text"

    @property
    def html_type(self) -> str:
        return {"datetime": "datetime-local", "number": "text", "integer": "text", "decimal": "text"}.get(
            self.type, self.type
        )

    @property
    def keyboard(self) -> str:
        """The keyboard a phone shows (`inputmode`). Numbers are text inputs, which keep an invalid entry."""
        return {"number": "decimal", "decimal": "decimal", "integer": "numeric"}.get(self.type, "")

    def fill(self, draft: Draft, value: Any) -> None:
        if value is None:
            text = "null" if self.type == "json" and not self.nullable else ""
        elif self.type == "json":
            text = json.dumps(value, ensure_ascii=False, indent=2)
        elif self.type == "datetime" and isinstance(value, str):
            text = _local(value, draft.zone)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        draft.put(self.name, text)

    def read(self, draft: Draft) -> Any:
        text = draft.get(self.name).replace("\r\n", "\n")
        if self.type not in ("text", "textarea", "password"):
            text = text.strip()
        if not text.strip():
            if self.type in ("text", "textarea") and isinstance(self.default, str) and not self.nullable:
                return text if not self.required else self.empty(draft, "Fill in this field.")
            return self.empty(draft, "Fill in this field.")
        try:
            return _parse(self.type, text, draft)
        except (ValueError, OverflowError, RecursionError):
            draft.add_error(self.path, _INVALID[self.type])
            return MISSING


_INVALID = {
    "number": "Enter a number, such as 1250 or 12.5.",
    "decimal": "Enter a number, such as 1250 or 12.5.",
    "integer": "Enter a whole number, such as 1250.",
    "date": "Enter a date, such as 2026-03-31.",
    "time": "Enter a time, such as 14:30.",
    "datetime": "Enter a date and time, such as 2026-03-31T14:30.",
    "email": "Enter an email address, such as name@example.com.",
    "url": "Enter a web address, such as https://example.com/page.",
    "json": "Enter valid JSON.",
}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def _parse(kind: str, text: str, draft: Draft) -> Any:
    if kind in ("number", "integer", "decimal"):
        if not _NUMBER.fullmatch(text) or not isfinite(float(text)):
            raise ValueError
        if kind == "decimal":
            return text
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        if kind == "integer":
            raise ValueError
        return float(text)
    if kind == "date":
        return date.fromisoformat(text).isoformat()
    if kind == "time":
        time.fromisoformat(text)
    elif kind == "datetime":
        value = datetime.fromisoformat(text)
        return _iso(value if value.tzinfo else value.replace(tzinfo=draft.zone))
    elif kind == "email":
        if not re.fullmatch(r"[^\s@]+@[^\s@]+", text):
            raise ValueError
    elif kind == "url":
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc or re.search(r"\s", text):
            raise ValueError
    elif kind == "json":
        return read_json(text)
    return text


def _iso(value: datetime) -> str:
    text = value.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _local(text: str, zone: tzinfo) -> str:
    """Returns a time in the format of `datetime-local`."""
    try:
        value = datetime.fromisoformat(text)
        return (value.astimezone(zone) if value.tzinfo else value).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceOption:
    value: Any
    label: str

    @property
    def text(self) -> str:
        """The value as text in the draft: JSON, which distinguishes 1 from "1"."""
        return json.dumps(self.value, ensure_ascii=False)


YES_NO = (ChoiceOption(value=True, label="Yes"), ChoiceOption(value=False, label="No"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice(Field):
    """One of several options. None is preselected, so that nobody chooses by accident."""

    kind: ClassVar[str] = "choice"
    options: Sequence[ChoiceOption] = ()

    @property
    def radios(self) -> bool:
        return len(self.options) <= MAX_RADIOS

    def fill(self, draft: Draft, value: Any) -> None:
        draft.put(self.name, "" if value is None else ChoiceOption(value=value, label="").text)

    def read(self, draft: Draft) -> Any:
        text = draft.get(self.name)
        for option in self.options:
            if option.text == text:
                return option.value
        if text:
            draft.add_error(self.path, "Choose one of the options.")
            return MISSING
        return self.empty(draft, "Choose one.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkbox(Field):
    """Yes or no with a default. With `must`, it has to be ticked (a constant True)."""

    kind: ClassVar[str] = "checkbox"
    must: bool = False

    def fill(self, draft: Draft, value: Any) -> None:
        draft.put(self.name, *(["true"] if value is True else []))

    def read(self, draft: Draft) -> Any:
        ticked = "true" in draft.all(self.name)
        if self.must and not ticked:
            if not self.required:
                return MISSING
            draft.add_error(self.path, "Tick this box.")
            return MISSING
        return ticked


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices(Field):
    """Any number of options, as checkboxes."""

    kind: ClassVar[str] = "choices"
    options: Sequence[ChoiceOption] = ()

    def fill(self, draft: Draft, value: Any) -> None:
        chosen = value if isinstance(value, list) else []
        draft.put(self.name, *(ChoiceOption(value=one, label="").text for one in chosen))

    def read(self, draft: Draft) -> Any:
        texts = {option.text: option.value for option in self.options}
        chosen = draft.all(self.name)
        if not all(text in texts for text in chosen):
            draft.add_error(self.path, "Choose from the options.")
            return MISSING
        if not chosen and self.nullable and not isinstance(self.default, list):
            return self.empty(draft, "")
        return [texts[text] for text in texts if text in chosen]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed(Field):
    """A constant: nothing to fill in."""

    kind: ClassVar[str] = "fixed"
    value: Any = None

    def fill(self, draft: Draft, value: Any) -> None:
        pass

    def read(self, draft: Draft) -> Any:
        return self.value
