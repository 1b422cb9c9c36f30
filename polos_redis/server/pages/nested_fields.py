"""Form fields made of other fields: objects, lists, dicts and variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from polos_redis.server.pages.draft import MAX_ROWS, Draft
from polos_redis.server.pages.fields import MISSING, Checkbox, Choice, Choices, Field, Fixed, Input


@dataclass(frozen=True, kw_only=True, slots=True)
class Group(Field):
    """An object: one field per property."""

    kind: ClassVar[str] = "group"
    fields: Mapping[str, Field] = field(default_factory=dict)

    def fill(self, draft: Draft, value: Any) -> None:
        for key, one in self.fields.items():
            if isinstance(value, dict) and key in value:
                one.fill(draft, value[key])
            else:
                one.fill_default(draft)

    def fill_default(self, draft: Draft) -> None:
        self.fill(draft, self.default)

    def read(self, draft: Draft) -> Any:
        values = {key: one.read(draft) for key, one in self.fields.items()}
        return {key: value for key, value in values.items() if value is not MISSING}

    def below(self, draft: Draft) -> Iterator[Field]:
        return iter(self.fields.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Field):
    """A list, or with `keyed` a dict: rows that a person adds and removes."""

    kind: ClassVar[str] = "rows"
    make_row: Callable[[str, str, str], Field]  # called with name, path and label
    keyed: bool = False
    min_rows: int = 0

    def rows(self, draft: Draft) -> list[Field]:
        """Returns one field per row."""
        fields = []
        for position, number in enumerate(draft.rows(self.name)):
            key = draft.get(f"{self.name}/{number}=").strip() if self.keyed else str(position)
            path = f"{self.path}.{key}".lstrip(".")
            label = "Value" if self.keyed else f"{self.label} {position + 1}"
            one = self.make_row(f"{self.name}/{number}", path, label)
            fields.append(one if isinstance(one, Group | Rows) else replace(one, label=label))
        return fields

    def fill(self, draft: Draft, value: Any) -> None:
        entries: list[Any] = []
        if self.keyed and isinstance(value, dict):
            entries = list(value.items())
        elif not self.keyed and isinstance(value, list):
            entries = [("", one) for one in value]
        entries = entries[:MAX_ROWS]
        draft.put(f"{self.name}#", *map(str, range(len(entries))))
        for number, (key, _) in enumerate(entries):
            if self.keyed:
                draft.put(f"{self.name}/{number}=", str(key))
        for row, (_, one) in zip(self.rows(draft), entries, strict=True):
            row.fill(draft, one)

    def fill_default(self, draft: Draft) -> None:
        Field.fill_default(self, draft)
        while len(draft.rows(self.name)) < min(self.min_rows, MAX_ROWS):
            self.add(draft)

    def add(self, draft: Draft) -> Field:
        """Adds a row if there may be more; returns the field of the last row."""
        before = len(draft.rows(self.name))
        draft.add_row(self.name)
        last = self.rows(draft)[-1]
        if len(draft.rows(self.name)) > before:
            last.fill_default(draft)
        return last

    def read(self, draft: Draft) -> Any:
        rows = self.rows(draft)
        if not rows and self.nullable and not isinstance(self.default, list | dict):
            return self.empty(draft, "")
        values = [row.read(draft) for row in rows]
        if not self.keyed:
            return [value for value in values if value is not MISSING]
        values_by_key: dict[str, Any] = {}
        for row, number, value in zip(rows, draft.rows(self.name), values, strict=True):
            key = draft.get(f"{self.name}/{number}=").strip()
            if not key:
                draft.add_error(row.path, "Enter a name.")
            elif key in values_by_key:
                draft.add_error(row.path, f"The name “{key}” is used twice.")
            elif value is not MISSING:
                values_by_key[key] = value
        return values_by_key

    def below(self, draft: Draft) -> Iterator[Field]:
        return iter(self.rows(draft))


@dataclass(frozen=True, kw_only=True, slots=True)
class Variants(Field):
    """One of several types of value: a person chooses one and fills it in."""

    kind: ClassVar[str] = "variants"
    variants: Sequence[Field] = ()

    def chosen(self, draft: Draft) -> Field | None:
        text = draft.get(f"{self.name}?")
        number = int(text) if text.isascii() and text.isdigit() else -1
        return self.variants[number] if 0 <= number < len(self.variants) else None

    def fill(self, draft: Draft, value: Any) -> None:
        for number, variant in enumerate(self.variants):
            if _fits(variant, value):
                draft.put(f"{self.name}?", str(number))
                variant.fill(draft, value)
                return

    def fill_default(self, draft: Draft) -> None:
        for variant in self.variants:
            variant.fill_default(draft)
        if self.example is not MISSING:
            fitting = [variant for variant in self.variants if _fits(variant, self.example)]
            for variant in fitting[:1]:
                variant.fill(draft, self.example)
        if self.default is not MISSING:
            self.fill(draft, self.default)

    def read(self, draft: Draft) -> Any:
        variant = self.chosen(draft)
        if variant is None:
            return self.empty(draft, "Choose one.")
        return variant.read(draft)

    def below(self, draft: Draft) -> Iterator[Field]:
        variant = self.chosen(draft)
        return iter(()) if variant is None else iter([variant])


def _fits(variant: Field, value: Any) -> bool:
    """Whether a value could be of this variant."""
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
