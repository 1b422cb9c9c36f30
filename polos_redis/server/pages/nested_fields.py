"""Form fields made of other fields: objects, lists, dicts and variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from polos_redis.server.pages.draft import MAX_ROWS, Draft, number_of
from polos_redis.server.pages.fields import MISSING, Choice, Field, Fixed, Input, control_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Group(Field):
    """An object: one field per property."""

    kind: ClassVar[str] = "group"
    fields: Mapping[str, Field] = field(default_factory=dict)

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, dict) or not value.keys() <= self.fields.keys():
            return False
        return all(
            one.accepts(value[key]) if key in value else _may_be_absent(one)
            for key, one in self.fields.items()
        )

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


def _may_be_absent(one: Field) -> bool:
    """Whether a field that is not filled in leaves its property out."""
    if one.required or one.when_empty is not MISSING or one.default is not MISSING:
        return False
    if isinstance(one, Variants):
        return any(isinstance(variant, Fixed) and variant.value is MISSING for variant in one.variants)
    return isinstance(one, Input | Choice)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Field):
    """A list, or with `keyed` a dict: rows that a person adds and removes."""

    kind: ClassVar[str] = "rows"
    make_row: Callable[[str, str, str], Field]  # called with name, path and label
    keyed: bool = False
    min_rows: int = 0

    def rows(self, draft: Draft) -> list[Field]:
        """Returns one field per row."""
        known = draft.row_fields.get(self.name)
        if known is not None:
            return known
        fields = []
        for position, number in enumerate(draft.rows(self.name)):
            key = draft.get(f"{self.name}/{number}=").strip() if self.keyed else str(position)
            path = f"{self.path}.{key}".lstrip(".")
            label = "Value" if self.keyed else f"{self.label} {position + 1}"
            one = self.make_row(f"{self.name}/{number}", path, label)
            fields.append(one if isinstance(one, Group | Rows) else replace(one, label=label))
        draft.row_fields[self.name] = fields
        return fields

    def numbered_rows(self, draft: Draft) -> list[tuple[int, Field]]:
        """Returns the number and the field of each row."""
        return list(zip(draft.rows(self.name), self.rows(draft), strict=True))

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, dict if self.keyed else list) or len(value) > MAX_ROWS:
            return False
        entries = value
        if isinstance(value, dict):
            entries = list(value.values())
            if not all(key and key == key.strip() and not {"\r", "\n"} & {*key} for key in value):
                return False
        return all(map(self.make_row(f"{self.name}/0", "", "").accepts, entries))

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
        values = [(number, row, row.read(draft)) for number, row in self.numbered_rows(draft)]
        if not self.keyed:
            return [value for _, _, value in values if value is not MISSING]
        values_by_key: dict[str, Any] = {}
        for number, row, value in values:
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

    def html_bytes(self, draft: Draft) -> int:
        return (2 + len(draft.rows(self.name))) * control_bytes(self)

    def rows_bytes(self, draft: Draft) -> int:
        """The size of all rows in HTML, without rows inside them; at most. Builds one row only."""
        numbers, empty = draft.rows(self.name), Draft()
        stack = [self.make_row(f"{self.name}/{numbers[-1]}", self.path, self.label)] if numbers else []
        size = 0
        while stack:
            field = stack.pop()
            size += field.html_bytes(empty)
            stack += field.rendered(empty)
        return size * len(numbers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variants(Field):
    """One of several types of value: a person chooses one and fills it in."""

    kind: ClassVar[str] = "variants"
    variants: Sequence[Field] = ()

    def chosen(self, draft: Draft) -> Field | None:
        number = number_of(draft.get(f"{self.name}?"))
        return self.variants[number] if 0 <= number < len(self.variants) else None

    def accepts(self, value: Any) -> bool:
        return self._variant_of(value) is not None

    def _variant_of(self, value: Any) -> int | None:
        """Returns the number of the variant to enter a value with; one for JSON only if no other will do."""
        fitting = [number for number, variant in enumerate(self.variants) if variant.accepts(value)]
        typed = [number for number in fitting if not _is_json_box(self.variants[number])]
        return next(iter((*typed, *fitting)), None)

    def fill(self, draft: Draft, value: Any) -> None:
        number = self._variant_of(value)
        if number is not None:
            draft.put(f"{self.name}?", str(number))
            self.variants[number].fill(draft, value)

    def fill_default(self, draft: Draft) -> None:
        for variant in self.variants:
            variant.fill_default(draft)
        if self.example is not MISSING:
            number = self._variant_of(self.example)
            if number is not None:
                self.variants[number].fill(draft, self.example)
        if self.default is not MISSING:
            self.fill(draft, self.default)
        elif not self.required:
            self._choose_none(draft)

    def _choose_none(self, draft: Draft) -> None:
        for number, variant in enumerate(self.variants):
            if isinstance(variant, Fixed) and variant.value is MISSING:
                draft.put(f"{self.name}?", str(number))

    def read(self, draft: Draft) -> Any:
        variant = self.chosen(draft)
        if variant is None:
            return self.empty(draft, "Choose one.")
        return variant.read(draft)

    def below(self, draft: Draft) -> Iterator[Field]:
        variant = self.chosen(draft)
        return iter(()) if variant is None else iter([variant])

    def rendered(self, draft: Draft) -> Iterator[Field]:
        return iter(self.variants)


def _is_json_box(variant: Field) -> bool:
    return isinstance(variant, Input) and variant.type == "json"
