"""Text for people: what it hides is made visible, and what scripts and emoji need stays."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.values.text import visible

# Format characters with a shape of their own: signs before Arabic and Kaithi numbers, hieroglyphs' brackets.
DRAWN = {
    *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)
}  # fmt: skip
INVISIBLE_LETTERS = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180f\u2800\u3164\uffa0\ufe00\ufe0f\U000e0100\U000e01ef"
)


@pytest.mark.threat(21)
def test_every_control_and_format_character_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in DRAWN:
            assert visible(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("character", INVISIBLE_LETTERS)
def test_so_are_letters_and_marks_without_a_shape(character: str) -> None:
    assert visible(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"
    assert visible(character) != character


@pytest.mark.parametrize(
    "text",
    [
        "Ann O'Neil",
        "José",
        "田中 太郎",
        "5\xa0€",
        "⚠️ ok",
        "👨‍👩‍👧",
        "👍🏽",
        "1️⃣",
        "葛\U000e0100城",
        "می‌خواهم",
        "क्‍ष",
        "שלום",
        "",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert visible(text) == text


def test_a_character_that_needs_a_place_is_escaped_elsewhere() -> None:
    assert visible("1\ufe0f a\ufe0f ⚠\ufe0f\ufe0f") == "1\\ufe0f a\\ufe0f ⚠\ufe0f\\ufe0f"
    assert visible("a\u200db a\u200cb ⚠\u200da") == "a\\u200db a\\u200cb ⚠\\u200da"


def test_only_lines_keep_line_ends_and_tabs() -> None:
    assert visible("a\r\nb\tc\rd\x1b[31m\x0b") == "a\\r\\nb\\tc\\rd\\x1b[31m\\x0b"
    assert visible("a\r\nb\tc\rd\x1b[31m\x0b", multiline=True) == "a\r\nb\tc\\rd\\x1b[31m\\x0b"


@given(st.text(st.sampled_from("ab1⚠👨\n\x1b\u202e\u200d\ufe0f\u20e3\u3164क葛\U000e0100\ud800")))
def test_a_visible_text_is_visible(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert visible(text, multiline=True).count("\n") == text.count("\n")
    assert "\u202e" not in visible(text)
