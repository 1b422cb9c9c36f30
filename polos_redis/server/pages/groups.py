"""Fields of several values: an object, a list or a dict, one of several kinds of value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from polos_redis.server.pages.fields import MISSING, Checkbox, Choice, Choices, Field, Fixed, Input
from polos_redis.server.pages.sheets import MOST_ROWS, Sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class Group(Field):
    """An object: a field for each of its properties."""

    kind: ClassVar[str] = "group"
    fields: Mapping[str, Field] = field(default_factory=dict)

    def fill(self, sheet: Sheet, value: Any) -> None:
        for key, one in self.fields.items():
            if isinstance(value, dict) and key in value:
                one.fill(sheet, value[key])
            else:
                one.fill_default(sheet)

    def fill_default(self, sheet: Sheet) -> None:
        self.fill(sheet, self.default)

    def read(self, sheet: Sheet) -> Any:
        values = {key: one.read(sheet) for key, one in self.fields.items()}
        return {key: value for key, value in values.items() if value is not MISSING}

    def below(self, sheet: Sheet) -> Iterator[Field]:
        return iter(self.fields.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Field):
    """A list, or (`keyed`) a dict with keys to choose: as many rows as there are wanted."""

    kind: ClassVar[str] = "rows"
    make: Callable[[str, str, str], Field]  # name, path, label of a row
    keyed: bool = False
    fewest: int = 0

    def rows(self, sheet: Sheet) -> list[Field]:
        """The fields of the rows that there are."""
        found = []
        for position, number in enumerate(sheet.rows(self.name)):
            key = sheet.get(f"{self.name}/{number}=").strip() if self.keyed else str(position)
            path = f"{self.path}.{key}".lstrip(".")
            label = "Value" if self.keyed else f"{self.label} {position + 1}"
            one = self.make(f"{self.name}/{number}", path, label)
            found.append(one if isinstance(one, Group | Rows) else replace(one, label=label))
        return found

    def fill(self, sheet: Sheet, value: Any) -> None:
        entries: list[Any] = []
        if self.keyed and isinstance(value, dict):
            entries = list(value.items())
        elif not self.keyed and isinstance(value, list):
            entries = [("", one) for one in value]
        entries = entries[:MOST_ROWS]
        sheet.put(f"{self.name}#", *map(str, range(len(entries))))
        for number, (key, _) in enumerate(entries):
            if self.keyed:
                sheet.put(f"{self.name}/{number}=", str(key))
        for row, (_, one) in zip(self.rows(sheet), entries, strict=True):
            row.fill(sheet, one)

    def fill_default(self, sheet: Sheet) -> None:
        Field.fill_default(self, sheet)
        while len(sheet.rows(self.name)) < min(self.fewest, MOST_ROWS):
            self.add(sheet)

    def add(self, sheet: Sheet) -> Field:
        """One row more; returns the field of the last row."""
        before = len(sheet.rows(self.name))
        sheet.add_row(self.name)
        last = self.rows(sheet)[-1]
        if len(sheet.rows(self.name)) > before:
            last.fill_default(sheet)
        return last

    def read(self, sheet: Sheet) -> Any:
        rows = self.rows(sheet)
        if not rows and self.nullable and not isinstance(self.default, list | dict):
            return self.empty(sheet, "")
        values = [row.read(sheet) for row in rows]
        if not self.keyed:
            return [value for value in values if value is not MISSING]
        found: dict[str, Any] = {}
        for row, number, value in zip(rows, sheet.rows(self.name), values, strict=True):
            key = sheet.get(f"{self.name}/{number}=").strip()
            if not key:
                sheet.complain(row.path, "Please give it a name.")
            elif key in found:
                sheet.complain(row.path, f"There are two with the name “{key}”.")
            elif value is not MISSING:
                found[key] = value
        return found

    def below(self, sheet: Sheet) -> Iterator[Field]:
        return iter(self.rows(sheet))


@dataclass(frozen=True, kw_only=True, slots=True)
class Variants(Field):
    """One of several kinds of value: choose which, then fill in that one."""

    kind: ClassVar[str] = "variants"
    variants: Sequence[Field] = ()

    def chosen(self, sheet: Sheet) -> Field | None:
        text = sheet.get(f"{self.name}?")
        number = int(text) if text.isascii() and text.isdigit() else -1
        return self.variants[number] if 0 <= number < len(self.variants) else None

    def fill(self, sheet: Sheet, value: Any) -> None:
        for number, variant in enumerate(self.variants):
            if _fits(variant, value):
                sheet.put(f"{self.name}?", str(number))
                variant.fill(sheet, value)
                return

    def fill_default(self, sheet: Sheet) -> None:
        for variant in self.variants:
            variant.fill_default(sheet)
        if self.example is not MISSING:
            fitting = [variant for variant in self.variants if _fits(variant, self.example)]
            for variant in fitting[:1]:
                variant.fill(sheet, self.example)
        if self.default is not MISSING:
            self.fill(sheet, self.default)

    def read(self, sheet: Sheet) -> Any:
        variant = self.chosen(sheet)
        if variant is None:
            return self.empty(sheet, "Please choose one.")
        return variant.read(sheet)

    def below(self, sheet: Sheet) -> Iterator[Field]:
        variant = self.chosen(sheet)
        return iter(()) if variant is None else iter([variant])


def _fits(variant: Field, value: Any) -> bool:
    """Whether a default is of this kind of value."""
    if isinstance(variant, Fixed):
        return bool(variant.value == value and type(variant.value) is type(value))
    if isinstance(variant, Group):
        return isinstance(value, dict) and all(
            _fits(one, value[key])
            for key, one in variant.fields.items()
            if key in value and isinstance(one, Fixed)
        )
    if isinstance(variant, Rows):
        return isinstance(value, dict if variant.keyed else list)
    if isinstance(variant, Choices):
        return isinstance(value, list)
    if isinstance(variant, Choice):
        return any(one.value == value for one in variant.options)
    if isinstance(variant, Checkbox):
        return isinstance(value, bool)
    if not isinstance(variant, Input) or variant.type == "json":
        return True
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if variant.type == "integer":
        return number and isinstance(value, int)
    return number if variant.type == "number" else isinstance(value, str)
