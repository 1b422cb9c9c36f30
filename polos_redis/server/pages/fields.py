"""Fields of one value: how each is told to people, written into a sheet, and read from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from math import isfinite
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from polos_redis.server.pages.sheets import Sheet

MOST_RADIOS: Final = 5  # more options become a list to pick from


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field: `name` in HTML, `path` in complaints, and how it is told to people."""

    kind: ClassVar[str] = ""
    name: str
    path: str
    label: str
    help: str = ""
    required: bool = False
    nullable: bool = False
    default: Any = MISSING
    example: Any = MISSING  # what is written into a kind of value before it is chosen
    shown: bool = True  # False: a button gives it, or there is nothing to fill in

    def fill(self, sheet: Sheet, value: Any) -> None:
        """Write a value into the sheet as a person would."""
        raise NotImplementedError

    def read(self, sheet: Sheet) -> Any:
        """The value in the sheet; MISSING where there is none, or it is wrong (then complained of)."""
        raise NotImplementedError

    def fill_default(self, sheet: Sheet) -> None:
        if self.default is not MISSING and self.default is not None:
            self.fill(sheet, self.default)

    def below(self, sheet: Sheet) -> Iterator[Field]:
        """The fields inside this one."""
        return iter(())

    @property
    def optional(self) -> bool:
        return self.nullable or (not self.required and (self.default is MISSING or self.default is None))

    def empty(self, sheet: Sheet, message: str) -> Any:
        """What nothing typed means: left out where that may be, else null, else a complaint."""
        if not self.required and (self.default is MISSING or self.default is None):
            return MISSING
        if self.nullable:
            return None
        sheet.complain(self.path, message)
        return MISSING


@dataclass(frozen=True, kw_only=True, slots=True)
class Input(Field):
    """A line or a box of text. `type` is text, textarea, password, number, integer, decimal (a number given
    as text, so that no digit is lost), date, time, datetime, email, url or json."""

    kind: ClassVar[str] = "input"
    type: str = "text"
    longest: int | None = None

    @property
    def html_type(self) -> str:
        return {"datetime": "datetime-local", "number": "text", "integer": "text", "decimal": "text"}.get(
            self.type, self.type
        )

    @property
    def keyboard(self) -> str:
        """Which keyboard a phone shows (`inputmode`); numbers are texts, so that a wrong one is not lost."""
        return {"number": "decimal", "decimal": "decimal", "integer": "numeric"}.get(self.type, "")

    def fill(self, sheet: Sheet, value: Any) -> None:
        if value is None:
            text = "null" if self.type == "json" and not self.nullable else ""
        elif self.type == "json":
            text = json.dumps(value, ensure_ascii=False, indent=2)
        elif self.type == "datetime" and isinstance(value, str):
            text = _local(value, sheet.zone)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        sheet.put(self.name, text)

    def read(self, sheet: Sheet) -> Any:
        text = sheet.get(self.name).replace("\r\n", "\n")
        if self.type not in ("text", "textarea", "password"):
            text = text.strip()
        if not text.strip():
            if self.type in ("text", "textarea") and isinstance(self.default, str) and not self.nullable:
                return text if not self.required else self.empty(sheet, "Please fill this in.")
            return self.empty(sheet, "Please fill this in.")
        try:
            return _parse(self.type, text, sheet)
        except (ValueError, OverflowError, RecursionError):
            sheet.complain(self.path, _WRONG[self.type])
            return MISSING


_WRONG = {
    "number": "This is not a number. Write it like 1250 or 12.5.",
    "decimal": "This is not a number. Write it like 1250 or 12.5.",
    "integer": "This is not a whole number. Write it like 1250.",
    "date": "This is not a date. Write it like 2026-03-31.",
    "time": "This is not a time. Write it like 14:30.",
    "datetime": "This is not a date and time. Write it like 2026-03-31T14:30.",
    "email": "This is not an e-mail address. Write it like name@example.com.",
    "url": "This is not a web address. Write it like https://example.com/page.",
    "json": "This is not JSON.",
}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def _parse(kind: str, text: str, sheet: Sheet) -> Any:
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
        moment = datetime.fromisoformat(text)
        return _iso(moment if moment.tzinfo else moment.replace(tzinfo=sheet.zone))
    elif kind == "email":
        if not re.fullmatch(r"[^\s@]+@[^\s@]+", text):
            raise ValueError
    elif kind == "url":
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc or re.search(r"\s", text):
            raise ValueError
    elif kind == "json":
        return json.loads(text, parse_constant=_refuse)
    return text


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _iso(moment: datetime) -> str:
    text = moment.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _local(text: str, zone: tzinfo) -> str:
    """A time as `datetime-local` wants it."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment.astimezone(zone) if moment.tzinfo else moment).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceOption:
    value: Any
    label: str

    @property
    def text(self) -> str:
        """As it stands in the sheet: JSON, so that 1 and "1" are told apart."""
        return json.dumps(self.value, ensure_ascii=False)


YES_NO = (ChoiceOption(value=True, label="Yes"), ChoiceOption(value=False, label="No"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice(Field):
    """One of several options; none at first, so that nothing is decided by not looking."""

    kind: ClassVar[str] = "choice"
    options: Sequence[ChoiceOption] = ()

    @property
    def radios(self) -> bool:
        return len(self.options) <= MOST_RADIOS

    def fill(self, sheet: Sheet, value: Any) -> None:
        sheet.put(self.name, "" if value is None else ChoiceOption(value=value, label="").text)

    def read(self, sheet: Sheet) -> Any:
        text = sheet.get(self.name)
        for option in self.options:
            if option.text == text:
                return option.value
        if text:
            sheet.complain(self.path, "Please choose one of the options.")
            return MISSING
        return self.empty(sheet, "Please choose one.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkbox(Field):
    """Yes or no with a default. `must` is one that has to be ticked (a constant True)."""

    kind: ClassVar[str] = "checkbox"
    must: bool = False

    def fill(self, sheet: Sheet, value: Any) -> None:
        sheet.put(self.name, *(["true"] if value is True else []))

    def read(self, sheet: Sheet) -> Any:
        ticked = "true" in sheet.all(self.name)
        if self.must and not ticked:
            if not self.required:
                return MISSING
            sheet.complain(self.path, "This has to be ticked.")
            return MISSING
        return ticked


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices(Field):
    """Any number of options, ticked."""

    kind: ClassVar[str] = "choices"
    options: Sequence[ChoiceOption] = ()

    def fill(self, sheet: Sheet, value: Any) -> None:
        chosen = value if isinstance(value, list) else []
        sheet.put(self.name, *(ChoiceOption(value=one, label="").text for one in chosen))

    def read(self, sheet: Sheet) -> Any:
        texts = {option.text: option.value for option in self.options}
        chosen = sheet.all(self.name)
        if not all(text in texts for text in chosen):
            sheet.complain(self.path, "Please choose from the options.")
            return MISSING
        if not chosen and self.nullable and not isinstance(self.default, list):
            return self.empty(sheet, "")
        return [texts[text] for text in texts if text in chosen]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed(Field):
    """A value that can't be another one: nothing to fill in."""

    kind: ClassVar[str] = "fixed"
    value: Any = None

    def fill(self, sheet: Sheet, value: Any) -> None:
        pass

    def read(self, sheet: Sheet) -> Any:
        return self.value
