"""Values decode to equal values of the same types, or are refused when encoded; stored bytes can do no
harm."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import inspect
import io
import itertools
import json
import math
import struct
import subprocess
import sys
import tempfile
import threading
import types
import typing
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import ExtType, packb, unpackb
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, TypeAdapter, field_validator

from polos_redis.errors import (
    ConfigurationError,
    InvalidInputError,
    NotStorableError,
    UnreadableValueError,
    ValueTooLargeError,
)
from polos_redis.values import codec, digests, records, type_names, validation
from tests import ROOT

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    GREEN = "g"
    ODD = (1, "two")
    OBJECT = object()  # its value can't be stored; the member can


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Item(BaseModel):
    sku: str
    price: Decimal = Decimal("1.00")
    tags: set[str] = Field(default_factory=set)


class Order(BaseModel):
    id: UUID
    at: datetime
    items: list[Item]
    status: Color = Color.RED
    by_day: dict[date, Item] = {}


class Doubling(BaseModel):
    """A model whose validator is not idempotent, and whose field has an alias."""

    n: int = Field(alias="N")

    @field_validator("n")
    @classmethod
    def double(cls, n: int) -> int:
        return n * 2


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 1


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, revalidate_instances="always")
    a: int
    b: tuple[int, ...] = ()


class Secretive(BaseModel):
    a: int
    _seen: list[int] = PrivateAttr(default_factory=list)
    _unset: int

    @cached_property
    def twice(self) -> int:
        return self.a * 2


class Box(BaseModel, Generic[T]):
    content: T


class Names(RootModel[list[str]]):
    pass


class Node(BaseModel):
    inner: Any = None


class Fancy(BaseModel):
    """A model with its own repr."""

    secret: str

    @pydantic.field_serializer("secret")
    def hide(self, value: str) -> str:
        return "***"


@dataclasses.dataclass
class Plain:
    a: int
    b: list[int] = dataclasses.field(default_factory=list)
    computed: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.computed = self.a * 2
        self.a += 1  # a second run would show
        self.note = "kept"


@dataclasses.dataclass(frozen=True)
class Key:
    name: str
    n: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: int
    b: str = "b"
    c: float = dataclasses.field(default=0.5, init=False)


@dataclasses.dataclass
class Pair(Generic[T]):
    left: T


class Outer:
    class Inner(BaseModel):
        x: int


class Inherited(Plain):
    pass


@dataclasses.dataclass
class Failure(Exception):
    code: int


Point = namedtuple("Point", "x y")


class Text(str):
    __slots__ = ()


class Count(int):
    pass


class Odd(tzinfo):
    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else timedelta(hours=dt.hour % 2)

    def dst(self, dt: datetime | None) -> None:
        return None

    def tzname(self, dt: datetime | None) -> None:
        return None


def opened(values: dict[str, Any]) -> Open:
    return Open.model_validate(values)


def back(value: Any) -> Any:
    return codec.decode(codec.encode(value))


def same(a: Any, b: Any) -> bool:
    """Equal and of the same types at every level; nan equals nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(map(same, a.values(), b.values()))
    if isinstance(a, datetime | time):
        return repr(a) == repr(b)
    return bool(a == b)


BERLIN = ZoneInfo("Europe/Berlin")
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**70, -(2**70), 10**500),
    *(127, 128, -128, -129, 1 << 71, -(1 << 71), 0.0, -0.0, 1.5, math.nan, math.inf, -math.inf),
    *("", "é", "😀", "\ud800", "a\x00b", b"", b"\xff\x00"),
    *([], [1, [2, [3]]], (), (1,), (1, (2, [3])), {1, 2}, frozenset({1, (2, 3)}), set(), {}),
    {1: "a", (1, 2): "b", None: "c", 2.5: "d", b"k": "e", "s": "f", frozenset({1}): "g"},
    {Color.RED: 1, Key("k"): 2, date(2020, 1, 1): 3, UUID(int=1): 4, Frozen(a=1): 5, Decimal("1.5"): 6},
    *(datetime(2024, 1, 2, 3, 4, 5, 678), datetime(2024, 1, 2, tzinfo=UTC), datetime.max, datetime.min),
    datetime(2024, 1, 2, tzinfo=timezone(-timedelta(hours=3, minutes=30, seconds=7))),
    *(datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1)),
    *(datetime(2024, 10, 27, 2, 30, fold=1), time(1, 2, 3, 4), time(1, fold=1), time(1, tzinfo=UTC)),
    *(time(1, tzinfo=BERLIN), date.min, timedelta(-1, 5, 7), timedelta.max, timedelta.min, timedelta(0)),
    *(
        Decimal("1.50"),
        Decimal("NaN"),
        Decimal("-sNaN12"),
        Decimal("-0"),
        Decimal("1e-400"),
        Decimal("Infinity"),
    ),
    *(UUID(int=5), Color.RED, Color.GREEN, Color.ODD, Color.OBJECT, Level.LOW, Word.YES),
    *(Rights.READ, Rights.READ | Rights.WRITE, Rights(0)),
    Item(sku="a", tags={"x"}),
    Order(
        id=UUID(int=3),
        at=datetime(2020, 1, 1, tzinfo=BERLIN),
        items=[Item(sku="b")],
        by_day={date.min: Item(sku="c")},
    ),
    *(
        Doubling(N=2),
        opened({"a": 2, "b": [1]}),
        Open(),
        Frozen(a=1, b=(1, 2)),
        Names(["a"]),
        Outer.Inner(x=1),
    ),
    *(Box[int](content=1), Box[Item](content=Item(sku="x")), Box[list[Item]](content=[Item(sku="x")])),
    *(Box(content=(1,)), Box[Box[int] | None](content=None), RootModel[dict[str, int]]({"a": 1})),
    *(Plain(1, [2]), Key("a", 2), Slotted(1), Pair[int](3), Inherited(4)),
]


def shown(value: object) -> str:
    """A test id that is the same in every process: without addresses."""
    return value.name if isinstance(value, Color) else repr(value)[:40]


@pytest.mark.parametrize("value", VALUES, ids=shown)
@pytest.mark.promise("value")
def test_a_value_decodes_typed_and_equal(value: Any) -> None:
    assert same(back(value), value)
    nested = [{"k": (value, {"x": [value]})}]
    assert same(back(nested), nested)


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary(),
    lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    max_leaves=10,
)
HASHABLE = st.recursive(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(),
        st.binary(),
        st.dates(),
        st.uuids(),
        st.timedeltas(),
        st.sampled_from([*Color, *Level, *Word]),
        st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC)),
        st.decimals(allow_nan=False),
        st.builds(Key, st.text(), st.integers()),
    ),
    lambda c: st.lists(c, max_size=3).map(tuple) | st.frozensets(c, max_size=3),
    max_leaves=6,
)
ANYTHING = st.recursive(
    HASHABLE | st.floats() | st.decimals(),
    lambda c: st.one_of(
        st.lists(c, max_size=4),
        st.lists(c, max_size=4).map(tuple),
        st.dictionaries(HASHABLE, c, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.builds(Node, inner=c),
        st.builds(Pair, c),
    ),
    max_leaves=12,
)


@given(JSON_LIKE)
def test_json_like_values_round_trip(value: Any) -> None:
    assert same(back(value), value)


@given(ANYTHING)
def test_mixed_values_round_trip_and_become_plain(value: Any) -> None:
    data = codec.encode(value)
    decoded = codec.decode(data)
    assert codec.encode(decoded, limit=1 << 30) == data or sets_inside(data)
    assert type(decoded) is type(value)
    assert "nan" in repr(value).lower() or decoded == value  # a signaling NaN refuses comparison
    assert digests.canonical_digest(decoded) == digests.canonical_digest(value)
    json.dumps(codec.to_plain(data), allow_nan=False).encode("utf-8")


@given(JSON_LIKE | ANYTHING)
def test_what_is_plain_already_is_shown_as_any_other_value(value: Any) -> None:
    """Plain JSON is not converted; inside a tuple, which is not plain JSON, everything is."""
    for stored in (value, [value], {"k": [0.5, value]}):
        assert same(codec.to_plain(codec.encode((stored,))), [codec.to_plain(codec.encode(stored))])


@pytest.mark.parametrize("wrap", [lambda v: [1, v], lambda v: {"a": v}])
def test_plain_values_are_shown_down_to_200_levels(wrap: Callable[[Any], Any]) -> None:
    assert codec.to_plain(codec.encode(deep(199, wrap))) == deep(199, wrap)
    assert "nested deeper" in json.dumps(codec.to_plain(codec.encode(deep(210, wrap))))


def sets_inside(data: bytes) -> bool:
    return b"\x03" in data or b"\x04" in data  # their order is arbitrary


# --- models, dataclasses, enums -----------------------------------------------------------


def test_a_model_keeps_its_values_and_runs_no_code() -> None:
    item = back(Item(sku="a"))
    assert item.model_fields_set == {"sku"}
    assert back(Item(sku="a", price=Decimal(1), tags=set())).model_fields_set == {"sku", "price", "tags"}
    assert back(Doubling(N=2)).n == 4
    assert back(opened({"a": 1, "more": 2})).more == 2
    assert back(opened({"a": 1, "more": 2})).model_extra == {"more": 2}
    item.sku = "changed"  # a restored model is complete
    assert item.model_dump() == {"sku": "changed", "price": Decimal("1.00"), "tags": set()}
    assert item.model_copy(update={"sku": "x"}).sku == "x"


def test_a_model_keeps_private_attributes_but_no_cached_properties() -> None:
    model = Secretive.model_validate({"a": 3})
    model._seen.append(1)
    assert model.twice == 6
    restored = back(model)
    assert (restored, restored._seen) == (model, [1])
    assert "twice" not in restored.__dict__
    assert restored.twice == 6
    with pytest.raises(AttributeError):
        _ = restored._unset


def test_a_dataclass_is_restored_without_its_initializers() -> None:
    restored = back(Plain(1))
    assert (restored.a, restored.computed, restored.note) == (2, 2, "kept")
    assert hash(back(Key("a"))) == hash(Key("a"))
    assert back(Pair[int](1)) == Pair(1)


def test_partial_objects_are_refused() -> None:
    with pytest.raises(NotStorableError, match=r"^\$: a Item whose field 'sku' was never set"):
        codec.encode(Item.model_construct())
    broken = Plain(1)
    del broken.a
    with pytest.raises(NotStorableError, match=r"^\$\.x: a Plain whose field 'a'"):
        codec.encode({"x": broken})


def stored(code: int, *body: Any) -> bytes:
    """Bytes with one record of an extension type: 11 enum, 12 dataclass, 13 model."""
    data: bytes = packb(ExtType(code, packb(list(body))))
    return data


def name_of(cls: type) -> str:
    return type_names.type_name(cls)


# --- refusals -----------------------------------------------------------------------------


def iter_nothing() -> Iterator[int]:
    yield 1


def local_class() -> Any:
    class Local(BaseModel):
        x: int = 1

    return Local()


def deep_both() -> Any:
    """Lists just below msgpack's limit inside typed levels: unbounded C recursion if nothing counted."""
    return deep(60, lambda v: (deep(900, lambda w: [w]), deep(900, lambda w: [w or v])))


def circular(kind: str) -> Any:
    items: list[Any] = []
    items.append({"list": items, "tuple": (items,), "model": Node(inner=items)}[kind])
    return items


def deep(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = wrap(value)
    return value


REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    (
        "file",
        lambda: {"items": [1, 2, 3, {"file": io.StringIO()}]},
        r"^\$\.items\[3\]\.file: a StringIO can't be stored",
    ),
    ("odd key", lambda: {"a b": {7: {object}}}, r"^\$\['a b'\]\[7\] item <class 'object'>: a type can't"),
    ("key", lambda: {(1, object): 1}, r"^\$ key \(1, <class 'object'>\)\[1\]: a type can't"),
    (
        "in a model",
        lambda: Order.model_construct(id=1, at=1, items=[object()]),
        r"^\$\.items\[0\]: an? object can't",
    ),
    ("in a dataclass", lambda: [Key(name=io.BytesIO())], r"^\$\[0\]\.name: a BytesIO"),  # type: ignore[arg-type]
    ("extra", lambda: opened({"more": object()}), r"^\$\.more: an? object"),
    ("private", lambda: private(threading.Lock()), r"^\$\._seen\[0\]: a lock can't"),
    ("other attribute", lambda: setattr_(Plain(1), "lock", object()), r"^\$\.lock: an? object"),
    ("namedtuple", lambda: (Point(1, 2),), r"^\$\[0\]: the named tuple Point can't be stored: use a frozen"),
    ("str", lambda: [Text("a")], r"^\$\[0\]: a Text can't be stored, because it would be read back as str"),
    ("int", lambda: Count(1), r"^\$: a Count .* int\(\.\.\.\)"),
    ("OrderedDict", lambda: OrderedDict(a=1), r"^\$: an OrderedDict .* dict"),
    ("defaultdict", lambda: defaultdict(int), r"^\$: a defaultdict"),
    ("coroutine", lambda: iter_nothing(), r"^\$: a generator can't be stored: await"),
    ("function", lambda: {"f": len}, r"^\$\.f: a builtin_function"),
    (
        "exception",
        lambda: Failure(1),
        r"^\$: a Failure can't be stored, because it holds more than its fields",
    ),
    ("zone", lambda: datetime(2020, 1, 1, tzinfo=Odd()), r"^\$: a time zone of type Odd can't"),
    ("local", local_class, r"^\$: the class .*Local is defined inside a function.*move it to module level"),
    ("made", lambda: pydantic.create_model("Made")(), r"^\$: the class Made can't be found as "),
    (
        "argument",
        lambda: Box[typing.Literal[1]](content=1),
        r"^\$: the type argument .*Literal.* named subclass",
    ),
    *(
        (f"circular {k}", partial(circular, k), r"^\$[^:]*: a \w+ contains itself")
        for k in ("list", "tuple", "model")
    ),
    ("deep list", lambda: deep(3000, lambda v: [v]), r"nested deeper than 200"),
    ("deep dict", lambda: deep(3000, lambda v: {"a": v}), r"nested deeper than 200"),
    ("deep tuple", lambda: deep(3000, lambda v: (v,)), r"nested deeper than 200"),
    ("deep model", lambda: deep(3000, lambda v: Node(inner=v)), r"nested deeper than 200"),
    ("deep both", deep_both, "nested"),
]


def private(value: Any) -> Secretive:
    model = Secretive.model_validate({"a": 1})
    model._seen.append(value)
    return model


def setattr_(value: Any, name: str, attribute: Any) -> Any:
    setattr(value, name, attribute)
    return value


@pytest.mark.failure(29)
@pytest.mark.parametrize(("make", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_refusal_names_the_path(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(NotStorableError, match=message) as caught:
        codec.encode(make())
    assert len(str(caught.value)) < 700
    assert same(back([(1, Item(sku="a"))]), [(1, Item(sku="a"))])  # the failed call leaves nothing behind


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}])
def test_deep_values_below_the_limit_are_accepted(wrap: Callable[[Any], Any]) -> None:
    value = deep(200, wrap)
    assert back(value) == value


def test_typed_nesting_is_limited_in_both_directions() -> None:
    value = deep(90, lambda v: Node(inner=v))
    data = codec.encode(value)
    assert codec.decode(data).inner.inner == value.inner.inner
    hostile = b"\x01"
    for _ in range(5000):
        hostile = packb(ExtType(2, b"\x91" + hostile))
    with pytest.raises(UnreadableValueError, match="nested deeper"):
        codec.decode(hostile)
    codec.to_plain(hostile)


@pytest.mark.failure(29)
def test_the_size_is_limited() -> None:
    assert codec.encode("x" * 95, limit=100)
    with pytest.raises(
        ValueTooLargeError, match=r"102 bytes.* limit is 100.*max_value_bytes.*POLOS_MAX_VALUE"
    ):
        codec.encode("x" * 100, limit=100)
    with pytest.raises(ValueTooLargeError, match=r"1,048,58\d bytes, and the limit is 1,048,576"):
        codec.encode(b"x" * 1_048_576)


def test_bytes_like_values_decode_as_bytes() -> None:
    assert same(back([bytearray(b"a"), memoryview(b"b")]), [b"a", b"b"])


def test_a_property_that_raises_does_not_crash_the_codec() -> None:
    class Broken(Odd):
        def utcoffset(self, dt: datetime | None) -> timedelta:
            raise ZeroDivisionError

    with pytest.raises(NotStorableError, match=r"^\$\[0\]: .*ZeroDivisionError"):
        codec.encode([datetime(2020, 1, 1, tzinfo=Broken())])


def test_threads_can_share_the_packers() -> None:
    value = [Node(inner=(i, Node(inner={i}))) for i in range(20)]
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(200):
            try:
                if back(value) != value:
                    wrong.append("differs")
            except Exception as error:
                wrong.append(error)

    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    assert not wrong


# --- hostile bytes ------------------------------------------------------------------------

ENCODED = [codec.encode([v]) for v in VALUES]


def read(data: bytes) -> None:
    """Decode to a value or raise UnreadableValueError, importing nothing."""
    before = set(sys.modules)
    for reader in (codec.decode, codec.to_plain):
        with contextlib.suppress(UnreadableValueError):
            reader(data)
    new = {m for m in set(sys.modules) - before if not m.startswith(("tzdata", "importlib", "pydantic."))}
    assert not new


@pytest.mark.failure(30)
@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_harmless(data: bytes) -> None:
    read(data)


@pytest.mark.failure(30)
@given(st.sampled_from(ENCODED), st.data())
@settings(max_examples=500)
def test_mutated_bytes_are_harmless(valid: bytes, data: st.DataObject) -> None:
    mutated = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(mutated[: data.draw(st.integers(0, len(mutated)))] if data.draw(st.booleans()) else mutated))


WILD = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from(
        [type_names.type_name(c) for c in (Item, Order, Secretive, Plain, Slotted, Key, Color, Rights, Names)]
    )
    | st.sampled_from(["sku", "a", "n", "name", "__class__", "__dict__", "__init__", "root", "_seen"]),
    lambda c: st.one_of(
        st.lists(c, max_size=5),
        st.dictionaries(
            st.text() | st.sampled_from(["sku", "a", "__class__"]) | st.integers(0, 9), c, max_size=4
        ),
        st.builds(
            lambda code, body: ExtType(code, packb(body, unicode_errors="surrogatepass")),
            st.integers(0, 15),
            c,
        ),
    ),
    max_leaves=12,
)


@pytest.mark.failure(30)
@given(WILD)
@settings(max_examples=500)
def test_well_formed_nonsense_is_harmless(value: Any) -> None:
    read(packb(value, unicode_errors="surrogatepass"))


@pytest.mark.failure(30)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x0d",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x91" * 1500 + b"\x00",
        b"\xdd\x00\x0f\xff\x00" * 5000,
        b"\x01\x02",
        b"\x81\x90\x01",
        packb(ExtType(0, b"")),
        packb(ExtType(63, b"x")),
        packb(ExtType(9, b"1e99999999999999999999")),
        packb(ExtType(5, b"2020-01-01T00:00:00|0|../../etc/passwd")),
        packb(ExtType(5, b"2020-01-01T00:00:00|0|os.path/x")),
        packb(ExtType(8, packb([10**15, 0, 0]))),
        packb(ExtType(10, b"123")),
        packb(ExtType(2, b"\x91\x01\x02")),
        packb(ExtType(13, packb([]))),
        packb(ExtType(13, packb([["a"], {}]))),
        packb(ExtType(12, packb(7))),
        *(codec.encode(Item(sku="a"))[:cut] for cut in range(1, 12)),
    ],
)
def test_damaged_bytes_are_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableValueError, match="a stored value can't be read"):
        codec.decode(data)
    read(data)


called: list[str] = []


class Touchy(type):
    def __getattribute__(cls, name: str) -> Any:
        called.append(name)
        return super().__getattribute__(name)


def test_a_time_zone_is_only_looked_up_by_its_key() -> None:
    """ZoneInfo would look for the package tzdata.zoneinfo.os.path."""
    with pytest.raises(UnreadableValueError, match="key of a time zone"):
        codec.decode(packb(ExtType(5, b"2020-01-01T00:00:00|0|os.path/x")))


class Trap(metaclass=Touchy):
    def __init__(self) -> None:
        called.append("init")


@pytest.mark.threat(25)
@pytest.mark.failure(30)
@pytest.mark.parametrize("code", [11, 12, 13])
@pytest.mark.parametrize(
    "name",
    [
        *("antigravity:Item", "this:Item", "this:", ":", "", "os:system", "builtins:eval", "builtins:dict"),
        *("subprocess:Popen", "pathlib:Path", "lazy_trap:Item", "polos_redis.errors:PolosError", "Item"),
        *("$:Trap", "$:Trap.x", "$:Order.__class__", "$:Item.__init__.__globals__", "$:UUID", "$:back"),
        *(
            "$:Box[os:system]",
            "$:Box[int",
            "$:Box[]",
            "$:Box[int,int]",
            "$:Item[int]",
            "$:Box[int]]",
            "$:Touchy",
        ),
        "$:" + "Box[" * 300 + "int" + "]" * 300,
        "$:Box[" + "list[" * 190 + "nope" + "]" * 191,
    ],
)
@pytest.mark.promise("value")
def test_a_stored_type_name_is_never_imported_or_called(
    code: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, attribute: str) -> Any:
            called.append(attribute)
            return super().__getattribute__(attribute)

    monkeypatch.setitem(sys.modules, "lazy_trap", Lazy("lazy_trap"))
    called.clear()
    before = set(sys.modules)
    with pytest.raises(UnreadableValueError):
        codec.decode(stored(code, name.replace("$", __name__), {}, 1))
    assert not called
    assert set(sys.modules) == before
    assert not {"antigravity", "this"} & set(sys.modules)


@pytest.mark.failure(30)
@pytest.mark.parametrize(
    ("code", "cls"), [(11, Item), (11, Key), (12, Item), (12, Color), (13, Color), (13, Key)], ids=repr
)
def test_a_record_of_another_kind_is_refused(code: int, cls: type) -> None:
    with pytest.raises(UnreadableValueError, match="here"):
        codec.decode(stored(code, name_of(cls), {"sku": "a", "name": "b"}, 1))


def test_wrong_fields_neither_crash_nor_shadow_methods() -> None:
    """Whether they claim the shape of the class or another one."""
    wrong: list[Any] = [
        {"name": "x", "sku": "x", "__class__": "x", "__eq__": 1, "model_dump": 1},
        {"name": 7, "sku": 7},
        [1, 2],
        {"sku": 1, "name": 1, 2: 3},
        {},
        None,
    ]
    for code, cls in ((12, Key), (13, Item)):
        for tag in (records.tag_of(cls), name_of(cls), f"{name_of(cls)}#"):
            for state in wrong:
                with contextlib.suppress(UnreadableValueError):
                    value = codec.decode(stored(code, tag, state, ["sku", "zzz"], {"x": 1}, {"_y": 1}))
                    assert type(value) is cls
                    assert value == value and callable(getattr(value, "model_dump", len))
        with pytest.raises(UnreadableValueError, match="it is damaged"):
            codec.decode(stored(code, records.tag_of(cls), {"sku": "x"}))


# --- names of types -----------------------------------------------------------------------


def test_names_of_types() -> None:
    assert type_names.type_name(Outer.Inner) == f"{__name__}:Outer.Inner"
    assert type_names.find_type(f"{__name__}:Outer.Inner") is Outer.Inner
    assert type_names.type_name(Box[dict[str, list[Item] | None]]) == (
        f"{__name__}:Box[dict[str,Union[list[{__name__}:Item],None]]]"
    )
    assert type_names.find_type(f"{__name__}:Box[int]") is Box[int]
    assert type_names.find_type(f"{__name__}:Missing") is None
    assert type_names.find_type("not_imported:X") is None
    for wrong in ("builtins:dict", f"{__name__}:Trap", f"{__name__}:Box[int]]", f"{__name__}:Box[int", ""):
        assert type_names.find_type(wrong) is None


def test_a_parametrised_model_is_created_when_decoded() -> None:
    made = type_names.find_type(f"{__name__}:Box[set[{__name__}:Key]]")
    assert made is not None
    assert issubclass(made, Box)
    restored = codec.decode(stored(13, f"{__name__}:Box[bytes]", {"content": b"x"}))
    assert restored == Box[bytes](content=b"x")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    monkeypatch.syspath_prepend(str(folder))

    def write(body: str) -> Any:
        (folder / "reloaded_types.py").write_text("from pydantic import BaseModel\n" + body)
        sys.modules.pop("reloaded_types", None)
        importlib.invalidate_caches()
        for cache in folder.glob("__pycache__/*"):
            cache.unlink()
        return importlib.import_module("reloaded_types")

    yield write
    sys.modules.pop("reloaded_types", None)


def test_a_reloaded_module_provides_its_new_class(module: Callable[[str], Any]) -> None:
    old = module("class M(BaseModel):\n    a: int\n")
    data = codec.encode(old.M(a=1))
    assert type(codec.decode(data)) is old.M
    new = module("class M(BaseModel):\n    a: int\n    b: int = 5\n")
    assert type(codec.decode(data)) is new.M
    assert codec.decode(data).b == 5
    importlib.reload(new)  # in place: the module object stays
    assert type(codec.decode(data)) is new.M
    del new.M
    with pytest.raises(UnreadableValueError, match=r"reloaded_types:M.*is not imported in this process"):
        codec.decode(data)


CHARGE = """
import sys
from dataclasses import dataclass
from enum import Enum
from pydantic import BaseModel

class Kind(Enum):
    CARD = "card"

@dataclass(frozen=True)
class Money:
    cents: int

class Charge(BaseModel):
    kind: Kind
    money: Money

    class Note(BaseModel):
        text: str

VALUE = [Charge(kind=Kind.CARD, money=Money(5)), Charge.Note(text="x")]

if __name__ == "__main__":
    from polos_redis.values import codec
    if sys.argv[1] == "write":
        print(codec.encode(VALUE).hex())
    else:
        again = codec.decode(bytes.fromhex(sys.argv[2]))
        assert again == VALUE and type(again[0]) is Charge, again
        print("ok")
"""
OTHER = """
import sys, charge
from polos_redis.values import codec
if sys.argv[1] == "write":
    print(codec.encode(charge.VALUE).hex())
else:
    again = codec.decode(bytes.fromhex(sys.argv[2]))
    assert again == charge.VALUE and type(again[0]) is charge.Charge, again
    print("ok")
"""


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (["charge.py"], ["other.py"]),
        (["other.py"], ["charge.py"]),
        (["-m", "charge"], ["other.py"]),
        (["other.py"], ["-m", "charge"]),
        (["charge.py"], ["charge.py"]),
        *itertools.permutations((["shop/charge.py"], ["-m", "shop.charge"], ["shop_other.py"]), 2),
        *itertools.permutations(
            (["loose/deep/charge.py"], ["-m", "loose.deep.charge"], ["loose_other.py"]), 2
        ),
    ],
)
def test_main_in_one_process_is_the_module_in_another(
    folder: Path, writer: list[str], reader: list[str]
) -> None:
    """Also in a package, and in folders without an `__init__.py`."""
    for path in (folder, folder / "shop", folder / "loose" / "deep"):
        path.mkdir(parents=True, exist_ok=True)
        (path / "charge.py").write_text(CHARGE)
    (folder / "shop" / "__init__.py").touch()
    (folder / "other.py").write_text(OTHER)
    (folder / "shop_other.py").write_text(OTHER.replace("sys, charge", "sys, shop.charge as charge"))
    (folder / "loose_other.py").write_text(OTHER.replace("sys, charge", "sys, loose.deep.charge as charge"))

    def run(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, *args],
            cwd=folder,
            env={"PYTHONPATH": f"{ROOT}:{folder}", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    data = run(*writer, "write")
    assert b"__main__" not in bytes.fromhex(data)
    assert run(*reader, "read", data) == "ok"


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Imports modules of the folder, which is on the path with some folders in it."""
    before = set(sys.modules)

    def importable(*modules: str, path: tuple[str, ...] = ("",)) -> list[Any]:
        for one in path:
            monkeypatch.syspath_prepend(str(folder / one))
        importlib.invalidate_caches()
        return [importlib.import_module(module) for module in modules]

    yield importable
    for name in set(sys.modules) - before:
        del sys.modules[name]


BODY = "from dataclasses import dataclass\n@dataclass\nclass M:\n    a: int\n"


def test_a_module_of_a_package_has_one_name(folder: Path, importable: Callable[..., Any]) -> None:
    (folder / "packed_name").mkdir()
    (folder / "packed_name" / "__init__.py").touch()
    (folder / "packed_name" / "unpacked_name.py").write_text(BODY)
    (module,) = importable("packed_name.unpacked_name")
    assert type_names.find_type("packed_name.unpacked_name:M") is module.M
    assert type_names.find_type("unpacked_name:M") is None
    assert type_names.find_type("x.packed_name.unpacked_name:M") is None


def test_a_name_that_two_files_have_is_nobodys(folder: Path, importable: Callable[..., Any]) -> None:
    for place in ("loose_a", "loose_b"):
        (folder / place).mkdir()
        (folder / place / "same_name.py").write_text(BODY)
    first, _ = importable("loose_a.same_name", "loose_b.same_name")
    assert type_names.find_type("same_name:M") is None
    assert type_names.find_type("loose_a.same_name:M") is first.M
    del sys.modules["loose_b.same_name"]
    assert type_names.find_type("same_name:M") is first.M


# --- plain JSON ---------------------------------------------------------------------------

PLAIN: list[tuple[Any, Any]] = [
    ([None, True, 1, 1.5, "é"], [None, True, 1, 1.5, "é"]),
    ([math.nan, math.inf, -math.inf], ["NaN", "Infinity", "-Infinity"]),
    (b"text", "text"),
    (b"\xff\xfe", "//4="),
    ((1, {2}, frozenset({3})), [1, [2], [3]]),
    (2**80, 2**80),
    ("\ud800x", "?x"),
    (Color.GREEN, "g"),
    (Color.ODD, [1, "two"]),
    (Color.OBJECT, "OBJECT"),
    (Level.LOW, 1),
    (Rights.READ | Rights.WRITE, 3),
    (Plain(1, [2]), {"a": 2, "b": [2], "computed": 2}),
    ([Item(sku="a", price=Decimal("2.50"), tags={"t"})], [{"sku": "a", "price": "2.50", "tags": ["t"]}]),
    (Names(["a"]), ["a"]),
    (opened({"a": 1, "more": (1,)}), {"a": 1, "more": [1]}),
    (Fancy(secret="x"), {"secret": "***"}),
    (
        {"deep": (Box[Item](content=Item(sku="a")),)},
        {"deep": [{"content": {"sku": "a", "price": "1.00", "tags": []}}]},
    ),
    ({Key("a"): 1}, {'{"name": "a", "n": 0}': 1}),
    ({Color.GREEN: 1, UUID(int=1): 2}, {"g": 1, "00000000-0000-0000-0000-000000000001": 2}),
    (datetime(2024, 7, 1, tzinfo=BERLIN), "2024-07-01T00:00:00+02:00"),
]


@pytest.mark.parametrize(("value", "shown"), PLAIN, ids=shown)
def test_the_plain_form_of_values(value: Any, shown: Any) -> None:
    assert same(codec.plain(value), shown)
    assert same(codec.to_plain(codec.encode(value)), shown)


@given(
    st.timedeltas()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=-3, minutes=-30))))
    | st.dates()
    | st.times()
    | st.uuids()
    | st.decimals()
    | st.dictionaries(
        st.integers() | st.booleans() | st.none() | st.dates() | st.tuples(st.integers()),
        st.text(),
        max_size=1,
    )
)
def test_the_plain_form_of_models_is_pydantics(value: Any) -> None:
    assert codec.plain(value) == TypeAdapter(Any).dump_python(value, mode="json")


def test_the_plain_form_needs_no_types() -> None:
    data = codec.encode({"order": Order(id=UUID(int=1), at=datetime(2020, 1, 1), items=[Item(sku="a")])})
    unknown = data.replace(__name__.encode(), b"?" * len(__name__))
    with pytest.raises(UnreadableValueError, match=r"can't be read: the type .* import its module"):
        codec.decode(unknown)
    assert codec.to_plain(unknown) == codec.to_plain(data)
    assert codec.to_plain(data)["order"]["status"] == 1
    half = data.replace(b":Item", b":Gone")  # the outer class is known, a part of it is not
    assert codec.to_plain(half) == codec.to_plain(data)


def test_the_plain_form_of_deep_and_huge_values_can_be_dumped() -> None:
    text = json.dumps(codec.plain([deep(900, lambda v: [v]), 10**5000]))
    assert "nested deeper than 200 levels" in text


def test_the_plain_form_of_values_that_cannot_be_stored() -> None:
    with pytest.raises(NotStorableError, match=r"^\$\.x"):
        codec.plain({"x": object()})


# --- digest -------------------------------------------------------------------------------


def test_a_digest_ignores_order_and_nothing_else() -> None:
    digest = digests.canonical_digest
    assert len(digest(None)) == 16
    assert digest({"a": 1, "b": {"x": 1, "y": 2}}) == digest({"b": {"y": 2, "x": 1}, "a": 1})
    a, b = {f"k{i}" for i in range(50)}, {f"k{i}" for i in reversed(range(50))}
    assert digest([(a, frozenset(a))]) == digest([(b, frozenset(b))])
    assert digest(Node(inner={"a": 1, "b": 2})) == digest(Node(inner={"b": 2, "a": 1}))
    assert digest(Item(sku="a")) == digest(Item(sku="a", tags=set()))
    assert digest(opened({"a": 1, "x": 1})) != digest(opened({"a": 1, "x": 2}))
    different = [
        1,
        1.0,
        True,
        "1",
        b"1",
        [1],
        (1,),
        {1},
        frozenset({1}),
        {1: 1},
        {"1": 1},
        [[1]],
        [1, 1],
        None,
        {},
    ]
    different += [
        [],
        set(),
        (),
        Key("a"),
        Key("b"),
        Item(sku="a"),
        Item(sku="b"),
        {"sku": "a"},
        Decimal(1),
        Level.LOW,
    ]
    assert len({digest(v) for v in different}) == len(different)
    with pytest.raises(NotStorableError):
        digest(object())


def fingerprint(value: Any) -> Any:
    """What tells values apart: their types and parts, without the order of dicts and sets."""
    if isinstance(value, float):
        return float, struct.pack("d", value)
    if isinstance(value, enum.Enum):
        return type(value), value.name
    if isinstance(value, list | tuple):
        return type(value), tuple(map(fingerprint, value))
    if isinstance(value, dict):
        return dict, frozenset((fingerprint(key), fingerprint(one)) for key, one in value.items())
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(fingerprint, value))
    if isinstance(value, BaseModel):
        return type(value), fingerprint(value.__dict__)
    if dataclasses.is_dataclass(value):
        return type(value), fingerprint(vars(value))
    if isinstance(value, datetime | time):
        name = str(value.tzinfo) if isinstance(value.tzinfo, ZoneInfo) else ""
        return type(value), value.isoformat(), value.fold, name
    return type(value), str(value) if isinstance(value, Decimal) else value


def reordered(value: Any) -> Any:
    """An equal value whose dicts and sets were filled in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    if isinstance(value, list | tuple):
        return type(value)(map(reordered, value))
    if isinstance(value, set | frozenset):
        return type(value)(sorted(value, key=repr, reverse=True))
    return value


@given(ANYTHING, st.data())
def test_digests_are_equal_for_equal_values_only(value: Any, data: st.DataObject) -> None:
    """Also for values that look alike: each is compared with its own plain JSON, for example."""
    others = st.sampled_from([value, reordered(value), codec.plain(value), back(value), str(value)])
    other = data.draw(others | ANYTHING)
    equal = fingerprint(value) == fingerprint(other)
    assert (digests.canonical_digest(value) == digests.canonical_digest(other)) is equal
    shown_digests = [digests.shown_digest(codec.encode(one)) for one in (value, other)]
    assert (shown_digests[0] == shown_digests[1]) is equal


# --- inputs -------------------------------------------------------------------------------


def test_an_input_is_checked_against_the_declared_type() -> None:
    def check(annotation: Any, value: object) -> object:
        return codec.validate_input(annotation, value, workflow_id="charge")

    item = Item(sku="a")
    assert check(Item, item) is item
    frozen = Frozen(a=1)
    assert check(Frozen, frozen) is frozen  # though pydantic would make another one
    assert check(Item | None, item) is item
    assert check(Item, {"sku": "a"}) == item
    assert check(Key, {"name": "a", "n": 1}) == Key("a", 1)
    assert check(list[Item], [{"sku": "a"}]) == [item]
    assert check(datetime, "2020-01-01T00:00:00Z") == datetime(2020, 1, 1, tzinfo=UTC)
    assert check(Word, "yes") is Word.YES
    marker = uuid4()
    for anything in (None, Any, object, inspect.Parameter.empty):
        assert check(anything, marker) is marker
    lock = threading.Lock()
    assert check(type(lock), lock) is lock


def test_an_input_error_names_the_workflow_and_each_field() -> None:
    with pytest.raises(InvalidInputError) as caught:
        codec.validate_input(
            Order, {"id": "x", "items": [{"sku": 1}], "at": "2020-01-01"}, workflow_id="charge"
        )
    message = str(caught.value)
    assert message.startswith("workflow 'charge': input.id: Input should be a valid UUID")
    assert "; input.items.0.sku: Input should be a valid string" in message
    with pytest.raises(InvalidInputError, match=r"workflow 'charge': input: Input should be a valid integer"):
        codec.validate_input(int, "x", workflow_id="charge")
    with pytest.raises(ConfigurationError, match=r"workflow 'charge'.*can't be validated"):
        codec.validate_input("Nowhere", 1, workflow_id="charge")


def test_a_type_is_built_once() -> None:
    annotation = dict[str, Item]
    assert validation.bounded_type(annotation) is validation.bounded_type(annotation)
    checked = codec.validate_input(annotation, {"a": {"sku": "x"}}, workflow_id="charge")
    assert checked == {"a": Item(sku="x")}


def test_importing_the_codec_does_not_import_pydantic() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import types; p = types.ModuleType('polos_redis'); "
        "p.__path__ = [sys.argv[1] + '/polos_redis']; sys.modules['polos_redis'] = p; "
        "from polos_redis.values import codec; assert codec.decode(codec.encode([(1,)])) == [(1,)]; "
        "print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_format_is_frozen() -> None:
    """These bytes are in people's Redis: changing them changes the format."""
    golden = {
        "93010203": [1, 2, 3],
        "c70901" + "01" + "00" * 8: 2**64,
        "c70302920102": (1, 2),
        "d5049107": frozenset({7}),
    }
    for text, value in golden.items():
        assert codec.encode(value).hex() == text
        assert same(codec.decode(bytes.fromhex(text)), value)
    assert unpackb(codec.encode(Key("a"))) == ExtType(
        12, packb([name_of(Key) + "#i2Fva", {"name": "a", "n": 0}])
    )
    assert unpackb(codec.encode(Word.YES)) == ExtType(11, packb([name_of(Word), "YES", "yes"]))
    assert unpackb(codec.encode(Color.OBJECT)) == ExtType(11, packb([name_of(Color), "OBJECT"]))
    assert unpackb(codec.encode(Frozen(a=1, b=(1,)))) == ExtType(
        13, packb([name_of(Frozen) + "#AC9-f", {"a": 1, "b": ExtType(2, packb([1]))}])
    )
    assert unpackb(codec.encode(datetime(2024, 7, 1, tzinfo=BERLIN))) == ExtType(
        5, b"2024-07-01T00:00:00|0|Europe/Berlin"
    )
    assert unpackb(codec.encode(datetime(2024, 7, 1, tzinfo=UTC))) == ExtType(5, b"2024-07-01T00:00:00+00:00")
    assert unpackb(codec.encode(Decimal("1.50"))) == ExtType(9, b"1.50")
    assert unpackb(codec.encode(timedelta(1, 2, 3))) == ExtType(8, packb([1, 2, 3]))
    assert unpackb(codec.encode(UUID(int=1))) == ExtType(10, bytes(15) + b"\x01")
