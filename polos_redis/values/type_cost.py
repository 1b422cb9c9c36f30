"""The checks that pydantic makes of a value, counted before it makes them.

pydantic tries every member of a union, and again at every level below: two models that contain each other's
union take 2^depth checks, and an invalid value yields as many errors. It can't be interrupted, so its work
has to be known in advance. `TypeCost` follows a value through the type's core schema, level by level. A part
that is reached in several ways is followed once, with the number of ways. So counting takes steps linear in
the type times the value, whatever the count.

Users' functions (validators) are not counted. A kind of schema that is unknown here, of a newer pydantic,
counts as one check, and what it wraps is counted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NoReturn

from polos_redis.values import bounds
from polos_redis.values.json_text import InvalidJsonError, read_json

MAX_CHECKS = 200_000  # 0.3 s on a slow machine, and 60 MB of errors if all of them fail
MAX_PATHS = 2_000_000  # steps in the paths of all errors if every check fails: 100 MB
_CONTAINER = 2  # a check of a list or dict takes longer than that of a scalar
_FEW_ITEMS = 300  # of a set, whose hashes need no look
_COMPARED = 10  # comparisons of two items that take as long as a check
_TURN = 256  # steps between two yields

Path = tuple[Any, ...]
Schema = Mapping[str, Any]


class Place:
    """Every way in which a value is checked at one place of a type.

    `width` counts the checks that any value takes. `fields` are the objects with named fields, `mappings` the
    places of the values of other dicts, `keys` those of their keys if these are costly, `arrays` the lists,
    `tagged` the unions whose member a tag selects, and `texts` the places of JSON inside a string.
    `text_cost` counts what more a string takes, and `hashed` how the items of a set or the keys of a dict are
    read, whose hashes may collide. `names` counts the named fields and `positions` those of tuples,
    each of which may be missing, and `follows` says whether anything inside a value is checked.
    """

    __slots__ = (
        *("arrays", "fields", "follows", "hashed", "keys", "mappings", "names", "positions"),
        *("tagged", "text_cost", "texts", "width"),
    )

    def __init__(self) -> None:
        self.width = 0
        self.fields: list[Fields] = []
        self.mappings: list[Place] = []
        self.keys: list[Place] = []
        self.hashed: list[Callable[[Any], Any]] = []
        self.arrays: list[Items] = []
        self.tagged: list[Tagged] = []
        self.texts: list[Place] = []
        self.text_cost: TextCost | None = None
        self.names = 0
        self.positions = 0
        self.follows = False

    def complete(self) -> None:
        """Count what was found."""
        self.names = sum(len(fields.known) for fields in self.fields)
        self.positions = sum(len(items.first) for items in self.arrays)  # all may be missing
        self.follows = any((self.fields, self.mappings, self.arrays, self.tagged, self.texts))

    @property
    def branches(self) -> bool:
        """Whether a check may take long for the number of parts: of a dict or a list in more than one way, of
        keys, or of a string's characters."""
        objects = len(self.fields) + len(self.mappings) + len(self.tagged)
        return objects > 1 or len(self.arrays) > 1 or bool(self.texts or self.keys or self.text_cost)

    def checks(self, value: Any) -> int:
        """The checks of a value that has no parts."""
        if self.text_cost is None or type(value) is not str:
            return self.width
        return self.width + self.text_cost(value)

    def inner(self) -> Iterator[Place]:
        """The places of the parts inside a value, and those that a tag may select."""
        for fields in self.fields:
            yield from (place for _, place in fields.known)
            if fields.others is not None:
                yield fields.others
        for items in self.arrays:
            yield from (*items.first, items.rest)
        for tagged in self.tagged:
            yield from tagged.members.values()
        yield from (*self.mappings, *self.keys, *self.texts)


class Fields:
    """An object with named fields: the paths under which each may be found, and the place of other keys."""

    __slots__ = ("known", "names", "others")

    def __init__(self) -> None:
        self.known: list[tuple[tuple[Path, ...], Place]] = []
        self.names: set[Any] = set()
        self.others: Place | None = None

    def children(self, value: Mapping[Any, Any]) -> Iterator[tuple[Place, Any]]:
        for paths, place in self.known:
            for found in _found(value, paths):
                yield place, found
        if self.others is not None:
            for name, found in value.items():
                if name not in self.names:
                    yield self.others, found


class Items:
    """A list: the places of its first items, and that of the others."""

    __slots__ = ("first", "rest")

    def __init__(self, first: list[Place], rest: Place) -> None:
        self.first = first
        self.rest = rest


class Tagged:
    """A union whose member is selected by a tag: paths to the tag, or a function of the value."""

    __slots__ = ("function", "members", "paths")

    def __init__(self, discriminator: Any, members: dict[Any, Place]) -> None:
        self.function: Callable[[Any], Any] | None = discriminator if callable(discriminator) else None
        self.paths = () if self.function else _paths(discriminator)
        self.members = members

    def member(self, value: Any) -> Place | None:
        try:
            tags = [self.function(value)] if self.function else [*_found(value, self.paths)]
            return next((self.members[tag] for tag in tags if tag in self.members), None)
        except Exception:  # of a user's function, or an unhashable tag: pydantic refuses the value
            return None


class TypeCost:
    """What checking values of one type costs."""

    __slots__ = ("_root", "is_linear")

    def __init__(self, core_schema: Any) -> None:
        self._root = _Analysis().place(core_schema)
        places = [*_reachable(self._root)]
        for place in places:
            place.complete()
        self.is_linear = not any(place.branches for place in places)  # without alternatives

    def exceeds(self, value: Any, parts: int) -> bounds.Work[bool]:
        """Whether pydantic would make too many checks of a value with this number of parts.

        Raises `ValueTooLargeError` for JSON inside a string that exceeds the bounds of a value.
        """
        if self.is_linear and parts <= bounds.SMALL_PARTS:
            return False
        checks, paths = yield from self.count(value)
        return checks > MAX_CHECKS or paths > MAX_PATHS

    def count(self, value: Any) -> bounds.Work[tuple[int, int]]:
        """The checks of a value, and the steps in the paths to what they check. Ends beyond a maximum."""
        return (yield from _count(self._root, value))


def _reachable(root: Place) -> Iterator[Place]:
    found, todo = {root}, [root]
    while todo:
        place = todo.pop()
        yield place
        new = set(place.inner()) - found
        found |= new
        todo += new


def _count(root: Place, value: Any) -> bounds.Work[tuple[int, int]]:
    checks = paths = root.checks(value) + _CONTAINER * root.names + root.positions
    steps = 0
    level = {root: _Level(value)}
    read: list[Any] = []  # keeps what was read from strings alive while its ids are in use
    for depth in itertools.count(1):
        below: dict[Place, _Level] = {}
        for place, reached in level.items():
            for key, part in reached.parts.items():
                more = sum(_collisions(read_item, part) for read_item in place.hashed)
                ways = reached.ways[key]
                for inner, child in _children(place, part, read):
                    if type(child) in _SCALARS and not inner.texts:
                        more += inner.width if inner.text_cost is None else inner.checks(child)
                    else:
                        more += _CONTAINER * inner.width
                        more += inner.names if bounds.is_mapping(child) else inner.positions
                        if inner.follows and child:
                            if inner not in below:
                                below[inner] = _Level()
                            below[inner].add(child, ways)
                    steps += 1
                    if not steps % _TURN:
                        yield
                checks += ways * more
                paths += ways * more * depth
                if checks > MAX_CHECKS or paths > MAX_PATHS:
                    return checks, paths
        if not below:
            return checks, paths
        level = below
    raise AssertionError("itertools.count never ends")


def _collisions(read_item: Callable[[Any], Any], part: Any) -> int:
    """The checks that finding equal items takes, if those with the same hash are compared in pairs. Only
    hashes of text can't be chosen: all multiples of 2^61 - 1 have the same."""
    if len(part) < _FEW_ITEMS or not (bounds.is_mapping(part) or bounds.children(part)):
        return 0
    equal = Counter(_hash(read_item, item) for item in part)
    return sum(count * count for count in equal.values() if count > 1) // _COMPARED


def _hash(read_item: Callable[[Any], Any], item: Any) -> int:
    try:
        return hash(read_item(item))
    except Exception:  # not an item of that type, or not in the usual form
        return 0


class _Level:
    """The parts at one level that are checked at one place, by id, and in how many ways each is."""

    __slots__ = ("parts", "ways")

    def __init__(self, *parts: Any) -> None:
        self.parts: dict[int, Any] = {id(part): part for part in parts}
        self.ways = dict.fromkeys(self.parts, 1)

    def add(self, part: Any, ways: int) -> None:
        key = id(part)
        self.parts[key] = part
        self.ways[key] = self.ways.get(key, 0) + ways


_SCALARS = frozenset((str, int, float, bool, type(None), bytes))


def _children(place: Place, part: Any, read: list[Any]) -> Iterator[tuple[Place, Any]]:
    """The parts inside a part, each with the place where it is checked."""
    for tagged in place.tagged:
        member = tagged.member(part)
        if member is not None:
            yield member, part
    if type(part) is str:
        for text in place.texts:
            read.append(_read(part))
            yield text, read[-1]
    elif bounds.is_mapping(part):
        for fields in place.fields:
            yield from fields.children(part)
        for values in place.mappings:
            for child in part.values():
                yield values, child
        for keys in place.keys:
            for key in part:
                yield keys, key
    elif place.arrays:
        for items in place.arrays:
            for index, child in enumerate(bounds.children(part) or ()):
                yield items.first[index] if index < len(items.first) else items.rest, child


def _read(text: str) -> Any:
    try:
        return read_json(text)
    except InvalidJsonError:
        return None  # a single check


def _paths(paths: Any) -> tuple[Path, ...]:
    """Paths from pydantic's forms of an alias or a discriminator: a name, a path, or a list of paths."""
    if isinstance(paths, str):
        return ((paths,),)
    if paths and isinstance(paths[0], list | tuple):
        return tuple(tuple(path) for path in paths)
    return (tuple(paths),)


def _found(value: Any, paths: tuple[Path, ...]) -> Iterator[Any]:
    """What is found under the paths inside a value."""
    for path in paths:
        found = value
        try:
            for step in path:
                found = found[step]
        except (KeyError, IndexError, TypeError):
            continue
        yield found


# --- from a core schema to places -------------------------------------------------------


class _Analysis:
    """Finds the places of one core schema, each once."""

    def __init__(self) -> None:
        self._definitions: dict[str, Schema] = {}
        self._places: dict[int, Place] = {}

    def place(self, schema: Schema) -> Place:
        """The place of a schema, which must outlive this object."""
        known = self._places.get(id(schema))
        if known is None:
            known = self._places[id(schema)] = Place()
            self._add(known, schema, set())
            known.width = max(known.width, 1)
        return known

    def _add(self, place: Place, schema: Schema, seen: set[str]) -> None:
        """Add the ways in which a schema checks a value, with those of the schemas it applies to it."""
        kind = schema.get("type")
        if kind == "definitions":
            self._definitions.update((one["ref"], one) for one in schema["definitions"])
            self._add(place, schema["schema"], seen)
        elif kind == "definition-ref":
            name = schema["schema_ref"]
            if name not in seen and name in self._definitions:
                self._add(place, self._definitions[name], seen | {name})
        elif kind == "union":
            for choice in schema["choices"]:
                self._add(place, choice[0] if isinstance(choice, tuple) else choice, seen)
        elif kind == "tagged-union":
            place.width += 1
            _add_message(place, schema)
            choices = schema["choices"]
            members = {
                tag: self.place(choices[one] if isinstance(one, str) and one in choices else one)
                for tag, one in choices.items()
            }
            place.tagged.append(Tagged(schema["discriminator"], members))
        elif kind == "lax-or-strict":
            self._add(place, schema["lax_schema"], seen)
        elif kind == "json-or-python":
            self._add(place, schema["python_schema"], seen)
        elif kind == "json":
            place.width += 1
            if "schema" in schema:
                place.texts.append(self.place(schema["schema"]))
        else:
            place.width += 1
            _add_function(place, schema)
            _add_message(place, schema)
            if not self._add_container(place, schema):
                for inner in _applied(schema):
                    self._add(place, inner, seen)

    def _add_container(self, place: Place, schema: Schema) -> bool:
        fields = schema.get("arguments_schema" if schema["type"].startswith("arguments") else "fields")
        if isinstance(fields, dict):
            place.fields.append(self._fields(schema, fields.items()))
        elif isinstance(fields, list) and fields and isinstance(fields[0], dict):  # also accepts a list
            place.fields.append(self._fields(schema, [(one["name"], one) for one in fields]))
            named = [self.place(one["schema"]) for one in fields]
            place.arrays.append(Items(named, self.place(_ANYTHING)))
        elif "values_schema" in schema or "keys_schema" in schema:
            place.mappings.append(self.place(schema.get("values_schema", _ANYTHING)))
            self._add_hashed(place, schema.get("keys_schema", _ANYTHING))
            keys = self.place(schema.get("keys_schema", _ANYTHING))
            if keys.width > 1 or keys.text_cost is not None:
                place.keys.append(keys)
        elif "items_schema" in schema:
            items = schema["items_schema"]
            if schema["type"] in ("set", "frozenset"):
                self._add_hashed(place, items)
            if isinstance(items, list | tuple):
                rest = schema.get("variadic_item_index")
                first = items if rest is None else items[:rest]
                after = _ANYTHING if rest is None else items[rest]
                place.arrays.append(Items([self.place(one) for one in first], self.place(after)))
            else:
                place.arrays.append(Items([], self.place(items)))
        else:
            return False
        return True

    def _add_hashed(self, place: Place, items: Schema) -> None:
        """Note how the items of a set, or the keys of a dict, are read, unless their hashes are random."""
        while items["type"] == "nullable" or (items["type"].startswith("function-") and "schema" in items):
            items = items["schema"]
        if items["type"] not in _RANDOM_HASHES:
            place.hashed.append(_READERS.get(items["type"], _unknown))

    def _fields(self, schema: Schema, fields: Iterable[tuple[str, Schema]]) -> Fields:
        found = Fields()
        for name, field in fields:
            alias = field.get("validation_alias", field.get("alias"))
            paths = ((name,), *(_paths(alias) if alias is not None else ()))
            found.known.append((tuple(dict.fromkeys(paths)), self.place(field["schema"])))
            found.names.update(path[0] for path in paths)
        if isinstance(schema.get("extras_schema"), dict):
            found.others = self.place(schema["extras_schema"])
        return found


def _email_cost(text: str) -> int:
    return min(len(text), _LONGEST_EMAIL) * (1 if text.isascii() else 10)


def _pattern_cost(text: str) -> int:
    return 400 * len(text)  # ten characters, a range that ignores case, take 5 ms to compile


def _fraction_cost(text: str) -> int:
    _, _, exponent = text.lower().partition("e")
    return MAX_CHECKS + 1 if len(exponent) > 4 else len(text)  # 1e9999999 has ten million digits


TextCost = Callable[[str], int]
_LONGEST_EMAIL = 2_048  # characters: what is longer is refused before it is read
_FUNCTION = 5  # checks that a call of one of pydantic's functions takes: of an IP address, for example
_TEXT_COSTS: dict[str, TextCost] = {
    "EmailStr._validate": _email_cost,
    "NameEmail._validate": _email_cost,
    "pattern_either_validator": _pattern_cost,
    "pattern_str_validator": _pattern_cost,
    "fraction_validator": _fraction_cost,
}


def _add_message(place: Place, schema: Schema) -> None:
    """Add what errors take whose message lists what is expected."""
    if schema["type"] in ("enum", "literal", "tagged-union"):
        expected = schema.get("expected", schema.get("members", schema.get("choices", ())))
        place.width += sum(len(repr(one)) for one in expected) // _MESSAGE


_MESSAGE = 300  # characters of a message that take as much memory as an error


def _add_function(place: Place, schema: Schema) -> None:
    """Add what a function of pydantic's own takes, which is written in Python. Users' are not counted."""
    function = schema.get("function")
    called = function.get("function") if isinstance(function, dict) else None
    if str(getattr(called, "__module__", "")).partition(".")[0] in ("pydantic", "ipaddress"):
        place.width += _FUNCTION
        place.text_cost = _TEXT_COSTS.get(getattr(called, "__qualname__", ""), place.text_cost)


def _unknown(item: Any) -> NoReturn:
    raise ValueError("the hash of an item is not known before it is read")


_RANDOM_HASHES = frozenset(
    ("bool", "bytes", "date", "datetime", "enum", "literal", "str", "time", "timedelta")
)
_READERS: dict[str, Callable[[Any], Any]] = {
    "any": lambda item: item,
    "decimal": Decimal,
    "float": float,
    "int": int,
    "uuid": lambda item: int(item.replace("-", ""), 16),
}

_ANYTHING: Schema = {"type": "any"}
_NOT_APPLIED = frozenset(
    (
        *("config", "default", "expected", "function", "json_schema_input_schema", "members", "metadata"),
        *("return_schema", "serialization"),
    )
)


def _applied(schema: Schema) -> Iterator[Schema]:
    """The schemas that a schema applies to the same value, such as a validator's or a model's."""
    for name, one in schema.items():
        if name not in _NOT_APPLIED:
            for inner in one if isinstance(one, list | tuple) else (one,):
                if isinstance(inner, dict) and isinstance(inner.get("type"), str):
                    yield inner
