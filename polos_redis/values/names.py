"""Names of people and groups: which are accepted, and the form in which they are compared.

A name is stored and shown as it was written, and compared in its canonical form. Names that look alike must
not count as two people, so `fault_in` refuses what a reader can't see, signs, and letters of several scripts
in one name, as the profile "highly restrictive" of Unicode's UTS 39 does.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

from polos_redis.values.text import first_hidden, without_hidden

if TYPE_CHECKING:
    import regex

LONGEST = 200  # characters

_FORBIDDEN = {"Cn": "not assigned", "Co": "for private use"}  # categories whose look and folding may change
# Letters that look like a Latin one, as a capital or not, once folded: for names of such letters alone.
_LOOKALIKES = str.maketrans(
    dict(zip("авекмнорстухіјѕһԛԝԁӏүѵ", "abekmhopctyxijshqwdlyv", strict=True))  # Cyrillic
    | dict(zip("αβεζηικμνορτυχϲϳ", "abezhikmnoptyxcj", strict=True))  # Greek
    | dict(zip("հոսօցզյտլ", "hnuogqjsl", strict=True))  # Armenian
    | dict(zip("ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "bpdtgkjczfmnlsrvhwxyaeiou", strict=True))  # noqa: RUF001 - Lisu
    | dict(zip("ᎠᎡᎢᎥᎩᎪᎫᎬᎳᎷᎻᏀᏃᏏᏒᏔᏚᏙᏞᏟᏢᏦᏧᏴ", "drtiyajewmhgzbrwsvlcpkdb", strict=True))  # noqa: RUF001 - Cherokee
)
# Punctuation that names have, beyond that of ASCII: apostrophes, hyphens, middle dots.
_PUNCTUATION = {
    **dict.fromkeys(
        map(ord, "\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u2032\ua78c"), "'"
    ),
    0x01C0: "|",  # letters of clicks
    0x01C3: "!",
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-"),
}
_NAMES_HAVE = {*map(chr, _PUNCTUATION), *"\xb7\u058a\u05f3\u05f4\u0f0b\u2027\u30a0\u30fb\u30fc\u3005"}
# i and j have their dot already. Between the letter and a dot stand only marks that attach below or inside.
_NOT_ABOVE = "".join(mark for mark in map(chr, range(0x300, 0x370)) if 0 < unicodedata.combining(mark) < 230)
_DOT_ABOVE = re.compile(f"([ij\u0456\u0458][{_NOT_ABOVE}]*)\u0307+")


def canonical(name: str) -> str:
    """The form in which names are compared: equal for all spellings that count as the same person or group.

    That is NFKC and case folding, without default-ignorable characters and repeated spaces, and with plain
    apostrophes and hyphens. A name made only of letters of another script that look like Latin ones
    (Cyrillic, Greek, Armenian, Lisu, Cherokee) counts as the Latin name. A form is its own form.
    """
    if name.isascii() and name.isprintable():
        return " ".join(name.lower().split())
    folded = unicodedata.normalize("NFD", without_hidden(name))
    for _ in range(2):  # the second time folds what normalizing has taken apart
        folded = unicodedata.normalize("NFKD", folded.casefold())
    folded = unicodedata.normalize("NFKC", _DOT_ABOVE.sub(r"\1", folded))
    folded = " ".join(folded.translate(_PUNCTUATION).split())
    latin = folded.translate(_LOOKALIKES)
    is_lookalike = latin.isascii() and not any("a" <= character <= "z" for character in folded)
    return latin if is_lookalike else folded


def fault_in(name: str) -> str | None:
    """Says why a name can't be accepted, such as "it begins or ends with a space"; None if it can."""
    if not name:
        return "it is empty"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters, and {LONGEST} are allowed"
    hidden = first_hidden(name)
    if hidden is not None:
        return f"it contains {_described(name, hidden)}, which is invisible: remove it"
    if name != name.strip():
        return "it begins or ends with a space"
    return None if name.isascii() else _fault_in_letters(name)


def _fault_in_letters(name: str) -> str | None:
    for position, character in enumerate(name):
        if why := _FORBIDDEN.get(unicodedata.category(character)):
            return f"it contains {_described(name, position)}, a code point that is {why}: remove it"
        if unicodedata.combining(character) and (position == 0 or name[position - 1] == character):
            return f"it contains {_described(name, position)}, a mark with no letter of its own: remove it"
        if not character.isascii() and _is_sign(unicodedata.normalize("NFKC", character)):
            return f"it contains {_described(name, position)}, a sign that names do not have: remove it"
    # NFKC: what counts is how a letter reads, so a full-width letter is Latin.
    read = unicodedata.normalize("NFKC", name)
    if any(alphabet.fullmatch(read) for alphabet in _alphabets()):
        return None
    scripts = dict.fromkeys(filter(None, map(_script_of, read)))
    if len(scripts) > 1:
        return f"it mixes {' and '.join(scripts)} letters, which may look alike: write it in one script"
    return "it mixes letters and marks of several scripts, which may look alike: write it in one script"


def _is_sign(read: str) -> bool:
    """Whether a normalized character is punctuation, a symbol or a modifier of no script: many look alike."""
    if len(read) > 1 and read[0] == " ":
        return True  # a mark on a space
    for character in read:
        category = unicodedata.category(character)
        is_sign = category[0] in "PS" or category == "Me" or (category == "Lm" and not _script_of(character))
        if is_sign and not character.isascii() and character not in _NAMES_HAVE:
            return True
    return False


def _described(name: str, position: int) -> str:
    character = name[position]
    known = unicodedata.name(character, "")
    return f"U+{ord(character):04X}{known and f' ({known})'} at position {position + 1}"


@functools.cache
def _alphabets() -> list[regex.Pattern[str]]:
    """What a name may be written in: one script, or those that Japanese, Chinese or Korean use together."""
    import regex

    together = (
        *(("Latin", "Han", "Hiragana", "Katakana"), ("Latin", "Han", "Bopomofo"), ("Latin", "Han", "Hangul")),
        *((script,) for script in _SCRIPTS),
    )
    classes = ("".join(rf"\p{{scx={one}}}" for one in ("Common", "Inherited", *some)) for some in together)
    return [regex.compile(f"[{letters}]*") for letters in classes]


@functools.cache
def _script_of(character: str) -> str:
    """The script of a letter; empty if it belongs to several or to none of those that are in use."""
    import regex

    return next((script for script in _SCRIPTS if regex.match(rf"\p{{sc={script}}}", character)), "")


# The scripts in everyday use today: the recommended ones of UAX 31, then those of limited use.
_SCRIPTS = (
    *(
        "Latin",
        "Cyrillic",
        "Greek",
        "Arabic",
        "Hebrew",
        "Devanagari",
        "Bengali",
        "Gujarati",
        "Gurmukhi",
        "Kannada",
    ),
    *(
        "Malayalam",
        "Oriya",
        "Sinhala",
        "Tamil",
        "Telugu",
        "Thai",
        "Lao",
        "Khmer",
        "Myanmar",
        "Tibetan",
        "Thaana",
    ),
    *("Armenian", "Georgian", "Ethiopic", "Han", "Hiragana", "Katakana", "Bopomofo", "Hangul"),
    *("Adlam", "Balinese", "Bamum", "Batak", "Canadian_Aboriginal", "Chakma", "Cham", "Cherokee", "Javanese"),
    *("Kayah_Li", "Lepcha", "Limbu", "Lisu", "Mandaic", "Meetei_Mayek", "Miao", "Mongolian", "Newa", "Nko"),
    *(
        "Nyiakeng_Puachue_Hmong",
        "Ol_Chiki",
        "Osage",
        "Hanifi_Rohingya",
        "Saurashtra",
        "Sundanese",
        "Syloti_Nagri",
    ),
    *("Syriac", "Tai_Le", "Tai_Tham", "Tai_Viet", "New_Tai_Lue", "Tifinagh", "Vai", "Wancho", "Yi"),
)
