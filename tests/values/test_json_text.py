"""JSON text from outside means one thing to every reader, or is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.errors import ValueTooLargeError
from polos_redis.values.json_text import InvalidJsonError, read_json

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(value=values, as_bytes=st.booleans(), ascii_only=st.booleans())
def test_json_reads_back_as_the_same_value(value: Any, as_bytes: bool, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    read = read_json(text.encode() if as_bytes else text)
    assert repr(read) == repr(value), "down to the types and the sign of zero"


@given(value=values, number=st.sampled_from(["1e999", "-1e400", "NaN", "Infinity", "-Infinity"]))
def test_a_number_that_is_not_finite_is_refused_anywhere(value: Any, number: str) -> None:
    text = json.dumps({"before": value, "n": [{"n": "HERE"}]}).replace('"HERE"', number)
    with pytest.raises(InvalidJsonError, match=number):
        read_json(text)


@pytest.mark.threat(17)
@given(names=st.lists(st.text(max_size=3), min_size=1, max_size=5), value=values)
def test_a_name_that_stands_twice_is_refused_anywhere(names: list[str], value: Any) -> None:
    pairs = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name in names)
    text = f'[0, {{"a": {{{pairs}}}}}]'
    if len(set(names)) == len(names):
        assert read_json(text) == [0, {"a": dict.fromkeys(names, value)}]
        return
    with pytest.raises(InvalidJsonError, match=r"an object has the name .* twice"):
        read_json(text)
    escaped = text.replace('"a"', r'"\u0061"').replace("[0,", '[{"a": 1, "\\u0061": 2},')
    with pytest.raises(InvalidJsonError, match='an object has the name "a" twice'):
        read_json(escaped)


@pytest.mark.failure(48)
@given(text=st.text() | st.binary() | st.text(alphabet='{}[]",:0123456789eE.-+ \\ntrufalsINy'))
def test_whatever_is_read_is_finite_and_has_every_name_once(text: str | bytes) -> None:
    try:
        value = read_json(text)
    except InvalidJsonError:
        return
    assert read_json(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1, column 1: Expecting value"),
        ('{"a": 1,\n}', "line 2, column 1: "),
        (b'"\xff"', "byte 1 is not UTF-8"),
        (b'"\xed\xa0\x80"', "byte 1 is not UTF-8"),
        ('"a"'.encode("utf-16"), "byte 0 is not UTF-8"),
        ("9" * 5000, "an integer in it has more than 4,300 digits"),
        ("1" * 400 + ".0", "the number 1{57}... is too large for a float"),
    ],
)
def test_a_refusal_says_why_and_where(text: str | bytes, why: str) -> None:
    with pytest.raises(InvalidJsonError, match=why):
        read_json(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 1_500_000, "more than 100,000 parts"),
        ("[" * 100_000, "nested deeper than 100 levels"),
        ("[" * 102 + "]" * 102, "nested deeper than 100 levels"),
        ("[" + "[]," * 500_000 + "[]]", "more than 100,000 parts"),
        ("[" + '{"":0},' * 200_000 + "0]", "more than 100,000 parts"),
        ("[" + '"\\"",' * 250_000 + "0]", "more than 100,000 parts"),
        ("[" + "0," * 150_000 + "0]", "more than 100,000 parts"),
        ("[" + "0," * 150_000 + '"', "line 1"),
    ],
)
def test_what_exceeds_the_bounds_is_refused(text: str, why: str) -> None:
    with pytest.raises((ValueTooLargeError, InvalidJsonError), match=why):
        read_json(text)


def test_marks_inside_strings_are_no_parts() -> None:
    marks = "[{," * 200_000 + '"'
    assert read_json(json.dumps([marks] * 2)) == [marks] * 2
    assert len(read_json(json.dumps([[]] * 99_999))) == 99_999


def test_numbers_keep_their_type_and_sign() -> None:
    assert repr(read_json(b"\xef\xbb\xbf[-0.0, 1.0, 1, 18446744073709551616]")) == (
        "[-0.0, 1.0, 1, 18446744073709551616]"
    )
    assert math.copysign(1, read_json("-1e-999")) == -1, "too small is zero, everywhere alike"
