"""Strings as stored in Redis (UTF-8 with lone surrogates), and as people read them."""

from __future__ import annotations

import json
import re


def text(value: bytes | None) -> str:
    """Decodes a stored string; None gives an empty string."""
    return "" if value is None else value.decode("utf-8", "surrogatepass")


def raw(value: str) -> bytes:
    """Encodes a string for the store."""
    return value.encode("utf-8", "surrogatepass")


def visible(value: str, *, multiline: bool = False) -> str:
    r"""Returns a text for people, with invisible and direction-changing characters escaped like `\u202e`.

    Escaped are control and format characters, line and paragraph separators, fillers, tags, lone surrogates,
    and joiners and variation selectors where no script or emoji uses them. So a text can't hide a part of
    itself, reorder the text around it, or move a terminal's cursor. `multiline` keeps line ends and tabs.
    """
    if value.isascii() and value.isprintable():
        return value
    return (_HIDDEN_IN_LINES if multiline else _HIDDEN).sub(_escape, value)


def visible_json(rendered: str) -> str:
    r"""Returns rendered JSON, indented or not, with the same characters escaped as JSON has them, like
    `\u202e`. The value stays the same.
    """
    if rendered.isascii() and "\x7f" not in rendered:
        return rendered
    return _HIDDEN_IN_LINES.sub(_escape_in_json, rendered)


def _escape_in_json(found: re.Match[str]) -> str:
    if _escape(found) == found[0]:
        return found[0]
    return "\\u007f" if found[0] == "\x7f" else json.dumps(found[0])[1:-1]  # which leaves DEL as it is


def first_hidden(value: str) -> int | None:
    """The position of the first character that `visible` escapes; None if there is none."""
    if value.isascii() and value.isprintable():
        return None
    return next((found.start() for found in _HIDDEN.finditer(value) if _escape(found) != found[0]), None)


def without_hidden(value: str) -> str:
    """Returns a text without its invisible characters, those that scripts and emoji need included."""
    return _HIDDEN.sub("", value)


def _escape(found: re.Match[str]) -> str:
    start = found.start()
    if start and _STAYS.match(found.string, start - 1):
        return found[0]
    if start > 1 and _STAYS_AFTER_A_SELECTOR.match(found.string, start - 2):
        return found[0]
    return found[0].encode("unicode_escape").decode()


# Signs and emoji: one may be followed by U+FE0E or U+FE0F, and be joined to another by U+200D.
_SIGNS = (
    "\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u2460-\u24ff\u25a0-\u27bf\u2900-\u297f"
    "\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
# Letters that are written with joiners: Arabic, Syriac, the scripts of India and their neighbours, Mongolian.
_JOINING = "\u0600-\u0dff\u1000-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# What stays as it is when it stands in its place: the pattern begins at the character before.
_STAYS = re.compile(
    rf"[{_SIGNS}][\ufe0e\ufe0f]|[0-9#*]\ufe0f\u20e3|[{_HAN}][\ufe00-\ufe0d\U000e0100-\U000e01ef]"
    rf"|[{_JOINING}][\u200c\u200d]|[{_SIGNS}]\u200d[{_SIGNS}]"
)
_STAYS_AFTER_A_SELECTOR = re.compile(rf"[{_SIGNS}]\ufe0f\u200d[{_SIGNS}]")  # begins two characters before
_HIDDEN_ANYWHERE = (
    "\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff"
    "\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_HIDDEN = re.compile(rf"[\x00-\x1f{_HIDDEN_ANYWHERE}]")
_HIDDEN_IN_LINES = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f{_HIDDEN_ANYWHERE}]|\r(?!\n)")
