"""Names of people: which are accepted, and which count as the same person."""
# ruff: noqa: RUF001 - letters that look alike are the subject

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from polos_redis.decisions.people import check_groups, check_name
from polos_redis.errors import ConfigurationError
from polos_redis.values.names import LONGEST, canonical, fault_in

LEGITIMATE = (
    *(
        "Ann O'Neil",
        "José",
        "Jose\u0301",
        "Nguyễn Văn A",
        "Müller-Lüdenscheidt",
        "İbrahim",
        "ann@example.com",
    ),
    *("Иван Петров", "Κώστας", "בן-דוד", "محمد", "می\u200cخواهم", "अनु", "क्\u200dषमा", "อนันต์", "김철수"),
    *(
        "田中 太郎",
        "ヤマダ Taro",
        "葛\U000e0100城",
        "王小明 Wang",
        "user:42",
        "DOMAIN\\ann",
        "execution 0af.12",
    ),
)
INVISIBLE = (
    "\ufe0f\ufe00\u034f\u3164\u115f\uffa0\u200b\u200d\u202e\u2066\xad"
    "\ufffc\U0001d159\U00016fe4\U00013430"
    "\U000e0041\U000e0100\x00\x1b\n\ud800\ufeff\u2800"
)


SIGNS = "\u2215\u02cd\u02d0\ua789\u2236\u2223\u201a\u02d7\u2043\xb4\u2500\u20dd\U0001f98a"


@pytest.mark.parametrize("name", LEGITIMATE)
def test_names_of_people_are_accepted_and_keep_their_spelling(name: str) -> None:
    assert fault_in(name) is None and check_name("a name", name) is name


@pytest.mark.threat(9)
@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("José", "Jose\u0301"),
        ("Ann", "ａｎｎ"),
        ("Ann Lee", "ann\u3000lee"),
        ("Ann Lee", "Ann  Lee"),
        ("STRASSE", "straße"),
        ("O'Brien", "O\u2019Brien"),
        ("Ann-Lee", "Ann\u2011Lee"),
        ("İan", "ian"),
        ("i\u0307\u0300an", "ìan"),
        ("ị\u0307an", "ịan"),
        ("і\u0307ван", "іван"),
        ("coco", "сосо"),
        ("TOM", "ΤΟΜ"),
        ("ANN", "ꓮꓠꓠ"),
        ("WES", "ᎳᎬᏚ"),
        ("hon", "հօո"),
        ("O'Neil", "O\ua78cNeil"),
        ("Hawai'i", "Hawai\u02bbi"),
        ("!Xun", "\u01c3Xun"),
        ("क्षमा", "क्\u200dषमा"),
        ("葛城", "葛\U000e0100城"),
        *((f"ann{one}", "Ann") for one in INVISIBLE if one not in "\x00\x1b\ud800"),
    ],
)
def test_spellings_of_one_name_count_as_one_person(name: str, same: str) -> None:
    assert canonical(name) == canonical(same)


def test_names_that_read_differently_count_as_two_people() -> None:
    assert len({canonical(name) for name in LEGITIMATE}) == len(LEGITIMATE) - 1  # José is in it twice


@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("character", INVISIBLE)
def test_an_invisible_character_is_refused_by_its_code_point(character: str, position: int) -> None:
    name = "Ann"[:position] + character + "Ann"[position:]
    with pytest.raises(
        ConfigurationError, match=f"U\\+{ord(character):04X}.* at position {position + 1}, which is"
    ):
        check_name("a key's name", name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "it is empty"),
        (" ann", "it begins or ends with a space"),
        ("ann\u3000", "it begins or ends with a space"),
        ("x" * (LONGEST + 1), "it has 201 characters, and 200 are allowed"),
        ("аnn", "it mixes Cyrillic and Latin letters, which may look alike: write it in one script"),
        ("Ann Иванова", "it mixes Latin and Cyrillic letters"),
        ("pαul", "it mixes Latin and Greek letters"),
        ("ꓮnn", "it mixes Lisu and Latin letters"),
        ("山田ไทย", "it mixes Han and Thai letters"),
        ("\u0301ann", r"it contains U\+0301 \(COMBINING ACUTE ACCENT\) at position 1, a mark with no letter"),
        ("e\u0301\u0301", "at position 3, a mark with no letter of its own: remove it"),
        ("ann\ue000", r"it contains U\+E000 at position 4, a code point that is for private use: remove it"),
        (
            "ann\u2044lee",
            r"contains U\+2044 \(FRACTION SLASH\) at position 4, a sign that names do not",
        ),
        *((f"ann{one}lee", "a sign that names do not have: remove it") for one in SIGNS),
        ("ann\u0378", "a code point that is not assigned: remove it"),
        ("group:finance", "it begins with 'group:', which marks a group among approvers"),
        ("ＧＲＯＵＰ：finance", "it begins with 'group:'"),
    ],
)
def test_a_refused_name_says_what_is_wrong_and_where(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^a key's name can't be '.*': .*{message}"):
        check_name("a key's name", name)


def test_no_refusal_shows_the_raw_character() -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_name("a name", "ann\u202e\x1b[2J")
    assert str(refused.value).isascii() and str(refused.value).isprintable()


def test_groups_are_the_same_in_any_spelling() -> None:
    assert check_groups("a key", ["Finance", "finance", "ops"]) == ("Finance", "ops")
    with pytest.raises(
        ConfigurationError, match=r"a key: a group's name can't be 'ops\\u200b': it contains U\+200B"
    ):
        check_groups("a key", ["ops\u200b"])


def test_every_default_ignorable_character_is_ignored() -> None:
    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    for code in range(sys.maxunicode + 1):
        if ignorable.match(chr(code)):
            assert canonical(f"a{chr(code)}b") == "ab"
            assert fault_in(f"a{chr(code)}b") is not None


def test_no_single_character_changes_its_form_when_it_is_folded_again() -> None:
    for code in range(sys.maxunicode + 1):
        once = canonical(f"x{chr(code)}")
        assert canonical(once) == once


letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
tricky = st.text(
    st.sampled_from("aij\u0307\u0300\u0323\u0345İıßſKÅΐΌυ\u0301\ufe0fǅﬁ㎢Ⅳ \u3000\u2019асоǰ"), max_size=8
)


@given(letters | tricky)
@example("\u0345\u0301α")
@example("i\u0307\u0300")
@example("i\u0307\u0307")
def test_a_form_is_its_own_form(name: str) -> None:
    once = canonical(name)
    assert canonical(once) == once
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert canonical(unicodedata.normalize(form, name)) == once
    assert canonical(name.upper()) == canonical(name.upper().lower())


@pytest.mark.failure(51)
@pytest.mark.threat(9)
@given(letters | tricky, st.sampled_from(INVISIBLE), st.integers(0, 8))
def test_nothing_invisible_makes_another_accepted_person(name: str, character: str, position: int) -> None:
    other = name[:position] + character + name[position:]
    if other != name and fault_in(other) is None:
        assert canonical(other) == canonical(name)


@given(letters | tricky)
def test_an_accepted_name_has_letters_that_can_be_seen(name: str) -> None:
    if fault_in(name) is None:
        assert canonical(name) and re.search(r"[\x00-\x1f\u202a-\u202e\u2066-\u2069]", name) is None
