"""`@stored_as`: values stay readable when their class is moved or renamed; no two classes have one name."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from polos_redis import stored_as
from polos_redis.errors import ConfigurationError, NotStorableError, PolosError, UnknownTypeError
from polos_redis.values import codec, schemas, type_names

T = TypeVar("T")

HEADER = """
from __future__ import annotations
import enum
from dataclasses import dataclass, field
from typing import Generic, Optional, TypeVar
from pydantic import BaseModel
from polos_redis import stored_as
T = TypeVar("T")
"""

CLASSES = """
{color}
class Color{new}(enum.Enum):
    RED = 1
    BLUE = "b"

{item}
@dataclass{options}
class Item{new}:
    sku: str
    color: Color{new}
    more: list[Item{new}] = field(default_factory=list)

{order}
class Order{new}(BaseModel):
    items: dict[str, Item{new}]
    color: Optional[Color{new}] = None
    parent: Optional[Order{new}] = None

{box}
class Box{new}(BaseModel, Generic[T]):
    content: T

class Shop{new}:
    {inner}
    class Inner(BaseModel):
        n: int
"""
NAMES = {
    "color": "before_move:Color",
    "item": "before_move:Item",
    "order": "before_move:Order",
    "box": "before_move:Box",
    "inner": "before_move:Shop.Inner",
}


@contextmanager
def module(name: str, text: str) -> Iterator[Any]:
    """A module that is imported within the block."""
    made = types.ModuleType(name)
    made.__file__ = f"/nowhere/{name}.py"
    sys.modules[name] = made
    try:
        exec(compile(HEADER + text, made.__file__, "exec"), vars(made))
        yield made
    finally:
        del sys.modules[name]


@contextmanager
def deployed(name: str, text: str) -> Iterator[Any]:
    """As `module`, but its code runs once for all examples."""
    made = sys.modules[name] = _executed(name, text)
    try:
        yield made
    finally:
        del sys.modules[name]


@functools.cache
def _executed(name: str, text: str) -> types.ModuleType:
    with module(name, text) as made:
        found: types.ModuleType = made
    return found


def classes(named: bool, new: str = "", options: str = "") -> str:
    decorators = {key: f'@stored_as("{name}")' if named else "" for key, name in NAMES.items()}
    return CLASSES.format(new=new, options=options, **decorators)


def values(place: Any, new: str = "") -> st.SearchStrategy[Any]:
    def cls(name: str) -> Any:
        return getattr(place, name + new)

    colors = st.sampled_from(list(cls("Color")))
    leaves = st.builds(cls("Item"), st.text(max_size=5), colors)
    items = st.builds(cls("Item"), st.text(max_size=5), colors, st.lists(leaves, max_size=2))
    table = st.dictionaries(st.text(max_size=3), items, max_size=2)
    orders = st.recursive(
        st.builds(cls("Order"), items=table, color=colors),
        lambda parents: st.builds(cls("Order"), items=table, parent=parents),
        max_leaves=3,
    )
    boxes = [
        st.builds(cls("Box")[int], content=st.integers(-9, 9)),
        st.builds(cls("Box")[cls("Order")], content=orders),
        st.builds(cls("Box")[types.GenericAlias(list, (cls("Box")[cls("Color")],))], content=st.builds(list)),
        st.builds(cls("Box")[cls("Item") | None], content=st.none() | items),
    ]
    inner = st.builds(cls("Shop").Inner, n=st.integers(-9, 9))
    return st.lists(st.one_of(colors, items, orders, inner, *boxes), max_size=4)


def spelled(value: Any, place: Any, new: str) -> Any:
    """A value as plain data with the original names of its classes; all of them are those of a module."""
    if isinstance(value, list | dict):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [(key, spelled(item, place, new)) for key, item in pairs]
    if type(value).__module__ == "builtins":
        return value
    cls = type(value)
    name = cls.__qualname__.partition("[")[0]
    found: Any = place
    for part in name.split("."):
        found = getattr(found, part)
    assert cls is found or found in cls.__mro__
    name = ".".join(part.removesuffix(new) if new else part for part in name.split("."))
    if isinstance(value, enum.Enum):
        return (name, value.name)
    fields = (
        [field.name for field in dataclasses.fields(value)]
        if dataclasses.is_dataclass(value)
        else vars(value)
    )
    return (name, [(field, spelled(getattr(value, field), place, new)) for field in fields])


@pytest.mark.parametrize("options", ["", "(frozen=True)", "(slots=True)"])
@given(st.data(), st.sampled_from(["", "Moved"]), st.booleans())
@pytest.mark.promise("value")
def test_values_are_read_where_their_class_has_moved(
    options: str, data: st.DataObject, new: str, back: bool
) -> None:
    """By the next deployment, and what that stores by the last one, which may still run."""
    key = options.partition("=")[0].strip("(") + new  # a module for each way to move
    new_text = classes(True, new, options).replace("before_move", f"before_move_{key}")
    texts = [
        (f"before_move_{key}", classes(False, options=options), ""),
        (f"after_move_{key}", new_text, new),
    ]
    (first, text, suffix), (second, other, renamed) = reversed(texts) if back else texts
    with deployed(first, text) as place:
        value = data.draw(values(place, suffix))
        stored = codec.encode(value)
        written = spelled(value, place, suffix)
    with deployed(second, other) as place:
        read = codec.decode(stored)
        assert spelled(read, place, renamed) == written
        again = codec.encode(read)
        assert b"after_move" not in again
        assert spelled(codec.decode(again), place, renamed) == written


def test_a_dataclass_with_slots_keeps_its_name() -> None:
    """`@dataclass(slots=True)` creates the class a second time; the decorator may stand on either side."""
    above = '@stored_as("old:P")\n@dataclass(slots=True)\nclass P:\n    x: int\n'
    for text in (above, '@dataclass(slots=True)\n@stored_as("old:P")\n@dataclass\nclass P:\n    x: int\n'):
        with module("slotted", text) as place:
            assert type_names.type_name(place.P) == "old:P"
            assert codec.decode(codec.encode(place.P(3))) == place.P(3)


MODEL = "class Order(BaseModel):\n    amount: int = 1\n"
STORED = '@stored_as("first:Order")\n'


def test_values_stored_after_a_move_without_a_name_stay_readable() -> None:
    """Once the name is given: those from before the move, and those from between."""
    with module("first", MODEL) as place:
        before = codec.encode(place.Order(amount=2))
    with module("second", MODEL) as place:
        between = codec.encode(place.Order(amount=3))
        with pytest.raises(UnknownTypeError) as refused:
            codec.decode(before)
    assert str(refused.value) == (
        "a stored value can't be read: the type 'first:Order' is not imported in this process: import its "
        "module; if the class was moved or "
        "renamed, declare it with @stored_as('first:Order')"
    )
    with module("second", STORED + MODEL) as place:
        assert [codec.decode(before), codec.decode(between)] == [place.Order(amount=2), place.Order(amount=3)]
        assert codec.encode(place.Order(amount=2)) == before
    with module("third", '@stored_as("first:Order", "second:Order")\n' + MODEL) as place:
        assert [codec.decode(before), codec.decode(between)] == [place.Order(amount=2), place.Order(amount=3)]


def test_the_error_names_the_part_of_a_parametrised_type_that_is_missing() -> None:
    box = "class Box(BaseModel, Generic[T]):\n    content: T\n"
    with module("first", MODEL) as place, module("boxes", box) as boxes:
        stored = codec.encode(boxes.Box[types.GenericAlias(list, (place.Order,))](content=[]))
    with module("boxes", box), pytest.raises(UnknownTypeError) as refused:
        codec.decode(stored)
    assert str(refused.value) == (
        "a stored value can't be read: the type 'boxes:Box[list[first:Order]]', with 'first:Order', is not "
        "imported in this process: import its "
        "module; if the class was moved or renamed, declare it with @stored_as('first:Order')"
    )


def test_two_classes_of_one_name_are_refused() -> None:
    with module("second", STORED + MODEL) as place:
        sentence = (
            r"^stored_as\('first:Order'\) of third:Other: second:Order is stored under this name; give one "
            r"of "
            r"them another$"
        )
        with (
            pytest.raises(ConfigurationError, match=sentence),
            module("third", STORED + "class Other(BaseModel): ..."),
        ):
            pass
        earlier = '@stored_as("third:Other", "first:Order")\nclass Other(BaseModel): ...'
        with (
            pytest.raises(ConfigurationError, match="second:Order is stored under this name"),
            module("third", earlier),
        ):
            pass
        assert type_names.find_type("first:Order") is place.Order


def test_a_name_of_a_class_that_is_still_there_is_refused() -> None:
    with (
        module("first", MODEL),
        pytest.raises(ConfigurationError) as refused,
        module("second", STORED + MODEL),
    ):
        pass
    assert str(refused.value) == (
        "stored_as('first:Order') of second:Order: first:Order is stored under this name; give one of them "
        "another"
    )


def test_a_class_that_takes_the_name_of_another_later_is_not_stored() -> None:
    with module("second", STORED + MODEL) as place, module("first", MODEL) as later:
        with pytest.raises(NotStorableError) as refused:
            codec.encode(later.Order())
        assert str(refused.value) == (
            "$: the class first:Order can't be stored as first:Order, the name of second:Order: give it "
            "another "
            "with @stored_as"
        )
        stored = codec.encode(place.Order(amount=4))
        assert type(codec.decode(stored)) is place.Order
    with (
        module("second", STORED + MODEL) as place,
        module("first", '@stored_as("first:New")\n' + MODEL) as later,
    ):
        assert type(codec.decode(stored)) is place.Order
        assert type(codec.decode(codec.encode(later.Order()))) is later.Order


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEADER + text)
        for cache in tmp_path.rglob("__pycache__/*"):
            cache.unlink()
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_reloaded_module_declares_its_class_again(write: Callable[[str, str], None]) -> None:
    write("reloaded_names", STORED + MODEL)
    old = importlib.import_module("reloaded_names")
    old_class = old.Order
    stored = codec.encode(old.Order(amount=2))
    write("reloaded_names", STORED + MODEL + "    more: int = 7\n")
    importlib.reload(old)
    assert old.Order is not old_class
    assert codec.decode(stored) == old.Order(amount=2, more=7)
    del sys.modules["reloaded_names"]
    new = importlib.import_module("reloaded_names")
    assert type(codec.decode(stored)) is new.Order
    del new.Order
    with pytest.raises(UnknownTypeError):
        codec.decode(stored)


def test_a_module_that_is_imported_twice_declares_its_class_twice(write: Callable[[str, str], None]) -> None:
    """As `shop.twice_named` and, from its folder, as `twice_named`: the last one counts."""
    write("shop_twice/twice_named", STORED + MODEL)
    one = importlib.import_module("shop_twice.twice_named")
    sys.path.insert(0, str(Path(one.__file__ or "").parent))
    try:
        other = importlib.import_module("twice_named")
    finally:
        del sys.path[0]
    assert type(codec.decode(codec.encode(other.Order()))) is other.Order
    with pytest.raises(NotStorableError) as refused:
        codec.encode(one.Order())
    assert str(refused.value) == (
        "$: the class first:Order exists twice, as shop_twice.twice_named:Order and as twice_named:Order: "
        "import "
        "its module by one name"
    )


@stored_as("elsewhere:Base")
class Base(BaseModel):
    a: int = 1


class Derived(Base):
    b: int = 2


@stored_as("elsewhere:Point")
@dataclasses.dataclass
class Point:
    x: int = 0


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


@stored_as("elsewhere:Box")
class Box(BaseModel, Generic[T]):
    content: T


class IntBox(Box[int]):
    pass


def test_subclasses_and_parametrised_models_have_their_own_names() -> None:
    assert type_names.type_name(Base) == "elsewhere:Base"
    assert type_names.type_name(Derived) == f"{__name__}:Derived"
    assert type_names.type_name(Point3) == f"{__name__}:Point3"
    assert type_names.type_name(Box[Base]) == "elsewhere:Box[elsewhere:Base]"
    assert type_names.type_name(IntBox) == f"{__name__}:IntBox"
    for value in (Base(), Derived(), Point(), Point3(), Box[Base](content=Base()), IntBox(content=1)):
        read = codec.decode(codec.encode(value))
        assert (type(read), read) == (type(value), value)
    assert schemas.describe("it", Base)[1] == "elsewhere:Base"
    assert schemas.describe("it", Box[Base])[1] == "elsewhere:Box[elsewhere:Base]"


class Pair(NamedTuple):
    a: int


class Options(TypedDict):
    a: int


class Plain:
    pass


@pytest.mark.parametrize("cls", [Pair, Options, Plain, ValueError, int])
def test_classes_that_are_not_stored_by_a_name_are_refused(cls: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        stored_as("a:B")(cls)
    assert str(refused.value) == (
        f"stored_as('a:B') of {cls.__qualname__}: only pydantic models, dataclasses and enums are stored by "
        f"a name; "
        "put it above @dataclass"
    )


def test_other_mistakes_are_refused() -> None:
    class Local(BaseModel):
        pass

    mistakes: list[tuple[Any, str]] = [
        (len, r"stored_as\('a:B'\) decorates a class, not <built-in function len>"),
        (
            Box[str],
            r"stored_as\('a:B'\) of Box\[str\]: give the name to the generic model, not to one of its forms",
        ),
        (
            Local,
            r"Local: the class is defined inside a function, where other processes can't find it; move it to",
        ),
    ]
    for target, sentence in mistakes:
        with pytest.raises(ConfigurationError, match=sentence):
            stored_as("a:B")(target)


@given(
    st.text(max_size=12)
    | st.from_regex(r"[\w.]{1,5}:[\w.<>]{1,5}", fullmatch=True)
    | st.sampled_from(
        [
            "int",
            "Union",
            "...",
            "a:b#c",
            "a:b[int]",
            "a:b,c",
            "a:b:c",
            "a: b",
            ":",
            "a:",
            ":b",
            "a\n:b",
            "a:\ud800",
            "x" * 100 + ":" + "y" * 100,
        ]
    )
)
def test_a_name_is_refused_or_finds_its_class(name: str) -> None:
    with module("named", MODEL + "class Box(BaseModel, Generic[T]):\n    content: T\n") as place:
        module_name, _, qualname = name.partition(":")
        rest = module_name + qualname
        is_valid = module_name and qualname and rest.isprintable() and not set(rest) & set(" :#[],")
        if not is_valid or len(name) > 200:
            with pytest.raises(ConfigurationError) as refused:
                stored_as(name)(place.Order)
            assert str(refused.value) == (
                f"stored_as({name!r}): a name is 'module:Class' of at most 200 printable characters, "
                f"without spaces, "
                "'#', commas and brackets"
            )
            assert type_names.type_name(place.Order) == "named:Order"
            return
        stored_as(name)(place.Order)
        box = place.Box[types.GenericAlias(list, (place.Order,))](content=[place.Order()])
        value = [place.Order(amount=5), box]
        assert codec.decode(codec.encode(value)) == value
        assert type_names.find_type(name) is place.Order


@pytest.mark.parametrize("name", [5, None, b"a:b"])
def test_a_name_is_text(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a name is 'module:Class'"):
        stored_as("a:B", name)


@pytest.mark.threat(25)
def test_a_stored_name_finds_no_class_that_has_not_been_given_it() -> None:
    """The name leads to a place; what is there now must say that it has the name."""
    with module("second", STORED + MODEL) as place:
        stored = codec.encode(place.Order())
        place.Order = type("Order", (BaseModel,), {"__module__": "second", "__qualname__": "Order"})
        with pytest.raises(UnknownTypeError):
            codec.decode(stored)
        for other in (print, 5, Plain, "text"):
            place.Order = other
            with pytest.raises(PolosError):
                codec.decode(stored)


def test_the_decorator_keeps_the_class_for_type_checkers() -> None:
    typing.assert_type(Base(a=1).a, int)
    typing.assert_type(Point(1), Point)
