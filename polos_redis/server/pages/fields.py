"""Form fields of one value: text input, choice, checkbox. Each fills a draft and reads its value from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from math import isfinite
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from polos_redis.errors import ValueTooLargeError
from polos_redis.server.pages.draft import Draft
from polos_redis.values.json_text import InvalidJsonError, read_json

MAX_RADIOS: Final = 5  # more options become a select box
MAX_BITS: Final = 14_000  # of a whole number: Python reads no more than 4300 digits

# The size of a control in HTML, in bytes, without its texts: for the bound of a form's size.
CONTROL_BYTES: Final = 700
OPTION_BYTES: Final = 300


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

    def accepts(self, value: Any) -> bool:
        """Whether a person can enter exactly this JSON value: after `fill`, `read` returns it, or leaves it
        out if it is the default."""
        raise NotImplementedError

    def fill(self, draft: Draft, value: Any) -> None:
        """Writes a value into the draft as a person would type it."""
        raise NotImplementedError

    def read(self, draft: Draft) -> Any:
        """Returns the value in the draft; MISSING if there is none or it is invalid (which adds an error)."""
        raise NotImplementedError

    def fill_default(self, draft: Draft) -> None:
        """Writes the default into the draft, unless a person could not enter exactly that."""
        if self.default is not None and self.default is not MISSING and self.accepts(self.default):
            self.fill(draft, self.default)

    def below(self, draft: Draft) -> Iterator[Field]:
        """Returns the fields inside this one that the draft has values for."""
        return iter(())

    def rendered(self, draft: Draft) -> Iterator[Field]:
        """Returns the fields inside this one that a page shows."""
        return self.below(draft)

    def html_bytes(self, draft: Draft) -> int:
        """The size of this field in HTML at most, without the fields inside it and what a person typed."""
        return control_bytes(self)

    @property
    def optional(self) -> bool:
        return self.nullable or (not self.required and (self.default is MISSING or self.default is None))

    @property
    def when_empty(self) -> Any:
        """The value of an empty field: None, or MISSING if it is left out or an error."""
        return None if self.nullable and (self.required or self.default is not None) else MISSING

    def empty(self, draft: Draft, message: str) -> Any:
        """Returns the value of an empty field; adds an error if it must not be empty."""
        if self.when_empty is MISSING and (self.required or self.default not in (MISSING, None)):
            draft.add_error(self.path, message)
        return self.when_empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Input(Field):
    """A text field. `type` is text, textarea, password, number, integer, decimal (a number kept as text, so
    that no digit is lost), date, time, datetime, local (a datetime without a zone), email, url or json."""

    kind: ClassVar[str] = "input"
    type: str = "text"

    def html_type(self, text: str) -> str:
        """The type of the HTML input. A date or time that a browser's picker can't hold is a plain text."""
        if self.type in _PICKERS:
            picker, holds = _PICKERS[self.type]
            return picker if not text or holds.fullmatch(text) else "text"
        return "text" if self.type in ("number", "integer", "decimal") else self.type

    @property
    def keyboard(self) -> str:
        """The keyboard a phone shows (`inputmode`). Numbers are text inputs, which keep an invalid entry."""
        return {"number": "decimal", "decimal": "decimal", "integer": "numeric"}.get(self.type, "")

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.nullable or self.type == "json"
        if self.type == "json":
            return is_json(value)
        if self.type in ("number", "integer"):
            kinds = (int,) if self.type == "integer" else (int, float)
            return type(value) in kinds and is_json(value)
        if self.type == "decimal" and type(value) in (int, float):
            return is_json(value)  # the same number, as text
        if not isinstance(value, str) or "\r" in value or (self.type != "textarea" and "\n" in value):
            return False
        if not value.strip():
            return self._keeps_blanks and not self.required
        if self.type in ("text", "textarea", "password"):
            return True
        try:
            if self.type == "datetime":  # without a zone, it would get the reader's
                return value == value.strip() and datetime.fromisoformat(value).tzinfo is not None
            parsed = _parse(self.type, value, Draft())
        except (ValueError, OverflowError):
            return False
        return value == value.strip() and parsed == value

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
            if self._keeps_blanks:
                return text if not self.required else self.empty(draft, "Fill in this field.")
            return self.empty(draft, "Fill in this field.")
        try:
            return _parse(self.type, text, draft)
        except InvalidJsonError as error:
            draft.add_error(self.path, f"Enter valid JSON: {error}.")
            return MISSING
        except ValueTooLargeError as error:
            draft.add_error(self.path, f"Enter a smaller value: {error}.")
            return MISSING
        except (ValueError, OverflowError):
            draft.add_error(self.path, _INVALID[self.type])
            return MISSING

    @property
    def _keeps_blanks(self) -> bool:
        """Whether a blank is a text of its own: a default that was cleared."""
        return self.type in ("text", "textarea") and isinstance(self.default, str) and not self.nullable


_PICKERS = {  # the HTML type, and what it can hold
    "date": ("date", re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)),
    "time": ("time", re.compile(r"\d\d:\d\d(:\d\d(\.\d{1,3})?)?", re.ASCII)),
    "datetime": ("datetime-local", re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?", re.ASCII)),
}
_PICKERS["local"] = _PICKERS["datetime"]

_INVALID = {
    "number": "Enter a number, such as 1250 or 12.5.",
    "decimal": "Enter a number, such as 1250 or 12.5.",
    "integer": "Enter a whole number, such as 1250.",
    "date": "Enter a date, such as 2026-03-31.",
    "time": "Enter a time, such as 14:30.",
    "datetime": "Enter a date and time, such as 2026-03-31T14:30.",
    "local": "Enter a date and time, such as 2026-03-31T14:30.",
    "email": "Enter an email address, such as name@example.com.",
    "url": "Enter a web address, such as https://example.com/page.",
}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_RUNS = ("javascript", "data", "vbscript")  # schemes of addresses that run code in a browser


def is_json(value: Any) -> bool:
    """Whether JSON can hold a value exactly: neither infinite numbers nor ones of thousands of digits."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_json(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    if isinstance(value, float):
        return isfinite(value)
    return not isinstance(value, int) or value.bit_length() < MAX_BITS


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _number(text: str) -> int | float:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return int(text) if _WHOLE.fullmatch(text) else _finite(text)


def _integer(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError
    return int(text)


def _decimal(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return text


def _time(text: str) -> str:
    time.fromisoformat(text)
    return text


def _naive(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is not None:
        raise ValueError
    return text


def _email(text: str) -> str:
    if not re.fullmatch(r"[^\s@]+@[^\s@]+", text):
        raise ValueError
    return text


def _url(text: str) -> str:
    scheme = urlsplit(text).scheme
    if not scheme or scheme in _RUNS or re.search(r"\s", text):
        raise ValueError
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "number": _number,
    "integer": _integer,
    "decimal": _decimal,
    "date": lambda text: date.fromisoformat(text).isoformat(),
    "time": _time,
    "local": _naive,
    "email": _email,
    "url": _url,
    "json": read_json,
}


def _parse(kind: str, text: str, draft: Draft) -> Any:
    if kind == "datetime":
        value = datetime.fromisoformat(text)
        return _iso(value if value.tzinfo else value.replace(tzinfo=draft.zone))
    return _PARSERS[kind](text) if kind in _PARSERS else text


def _iso(value: datetime) -> str:
    text = value.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _local(text: str, zone: tzinfo) -> str:
    """Returns a time in the format of `datetime-local`; unchanged, with its zone, if that format would not
    give the same time again: it has no microseconds, and an hour that the clocks repeat only once."""
    try:
        value = datetime.fromisoformat(text)
        local = value.astimezone(zone).replace(tzinfo=None, fold=0)
        shown = local.isoformat(timespec="milliseconds" if local.microsecond else "auto")
        again = datetime.fromisoformat(shown).replace(tzinfo=zone)
    except (ValueError, OverflowError):
        return text
    return shown if value.tzinfo is not None and again == value else text


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceOption:
    value: Any
    label: str

    @property
    def text(self) -> str:
        """The value as text in the draft: JSON, which distinguishes 1 from "1"."""
        return json.dumps(self.value, ensure_ascii=False)


def control_bytes(field: Field) -> int:
    return CONTROL_BYTES + 8 * len(field.name) + len(field.label) + len(field.help)


def _options_bytes(options: Sequence[ChoiceOption], name: str) -> int:
    return sum(OPTION_BYTES + 3 * len(name) + len(one.label) + 2 * len(one.text) for one in options)


YES_NO = (ChoiceOption(value=True, label="Yes"), ChoiceOption(value=False, label="No"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice(Field):
    """One of several options. None is preselected, so that nobody chooses by accident."""

    kind: ClassVar[str] = "choice"
    options: Sequence[ChoiceOption] = ()

    @property
    def radios(self) -> bool:
        return len(self.options) <= MAX_RADIOS

    def html_bytes(self, draft: Draft) -> int:
        return control_bytes(self) + _options_bytes(self.options, self.name)

    def accepts(self, value: Any) -> bool:
        if value is None and self.nullable:
            return True
        return is_json(value) and _text_of(value) in (option.text for option in self.options)

    def fill(self, draft: Draft, value: Any) -> None:
        text = _text_of(value)
        draft.put(self.name, text if any(option.text == text for option in self.options) else "")

    def read(self, draft: Draft) -> Any:
        text = draft.get(self.name)
        for option in self.options:
            if option.text == text:
                return option.value
        if text:
            draft.add_error(self.path, "Choose one of the options.")
            return MISSING
        return self.empty(draft, "Choose one.")


def _text_of(value: Any) -> str:
    return ChoiceOption(value=value, label="").text


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict(Field):
    """The property `approved`: nothing but the buttons Approve and Reject, one of which sends the form."""

    kind: ClassVar[str] = "verdict"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def fill(self, draft: Draft, value: Any) -> None:
        if isinstance(value, bool):
            draft.put(self.name, "true" if value else "false")

    def fill_default(self, draft: Draft) -> None:
        pass  # a verdict is never made in advance

    def read(self, draft: Draft) -> Any:
        text = draft.get(self.name)
        if text in ("true", "false"):
            return text == "true"
        draft.add_error(self.path, "Press Approve or Reject.")
        return MISSING


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkbox(Field):
    """Yes or no with a default. With `must`, it has to be ticked (a constant True)."""

    kind: ClassVar[str] = "checkbox"
    must: bool = False

    def accepts(self, value: Any) -> bool:
        return value is True or (value is False and not self.must)

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
    """Any number of options, as checkboxes: a set, or a list in the order of the options."""

    kind: ClassVar[str] = "choices"
    options: Sequence[ChoiceOption] = ()

    def html_bytes(self, draft: Draft) -> int:
        return control_bytes(self) + _options_bytes(self.options, self.name)

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, list) or not is_json(value):
            return False
        places = {option.text: place for place, option in enumerate(self.options)}
        chosen = [places.get(_text_of(one), -1) for one in value]
        return all(before < after for before, after in zip([-1, *chosen], chosen, strict=False))

    def fill(self, draft: Draft, value: Any) -> None:
        chosen = value if isinstance(value, list) else []
        draft.put(self.name, *map(_text_of, chosen))

    def read(self, draft: Draft) -> Any:
        texts = {option.text: option.value for option in self.options}
        chosen = set(draft.all(self.name))
        if not all(text in texts for text in chosen):
            draft.add_error(self.path, "Choose from the options.")
            return MISSING
        return [value for text, value in texts.items() if text in chosen]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed(Field):
    """A constant: nothing to fill in. The constant MISSING leaves the property out."""

    kind: ClassVar[str] = "fixed"
    value: Any = None

    def accepts(self, value: Any) -> bool:
        return self.value is not MISSING and is_json(value) and _text_of(value) == _text_of(self.value)

    def fill(self, draft: Draft, value: Any) -> None:
        pass

    def read(self, draft: Draft) -> Any:
        return self.value
