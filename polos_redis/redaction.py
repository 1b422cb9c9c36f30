"""Redaction: removes the tokens of approval links and the secrets of API keys from what people read.

Both have a form that is recognised wherever they stand: in a text, a URL, a dict's key, or JSON that was
already rendered, since none of their characters is ever escaped there. Only what is meant to carry a token
is not redacted: a notification's links, `polos link`, and `_approval_url` in a suspend event.
"""

from __future__ import annotations

import re
from typing import Any

KEY_PREFIX = "polos_"  # of an API key's secret: polos_<16 hex digits>_<43 characters>
LINK_PREFIX = "polos_link_"  # of a link's token: polos_link_<payload>.<signature>
APPROVAL_URL = "_approval_url"  # the field of a suspend event's data that carries a link

# A token that lost its last characters is as good as whole: they can be guessed.
_LINK = LINK_PREFIX + r"[A-Za-z0-9_.-]{39,}[A-Za-z0-9_-]"
_KEY = KEY_PREFIX + r"[0-9a-f]{16}_[A-Za-z0-9_-]{32,}"
_SECRET = re.compile(rf"(?P<first>\?)token={_LINK}&|[?&]token={_LINK}|(?P<link>{_LINK})|{_KEY}")
_SECRET_BUT = re.compile(rf'(?P<kept>"{APPROVAL_URL}": ?"[^"\\]*")|{_SECRET.pattern}')
# In every match; begins with a literal, which makes the search fast.
_TOKEN = re.compile(
    rf"{KEY_PREFIX}(?:{LINK_PREFIX.removeprefix(KEY_PREFIX)}[A-Za-z0-9_.-]{{39}}|[0-9a-f]{{16}}_[A-Za-z0-9_-]{{32}})"
)
_STORED_TOKEN = re.compile(_TOKEN.pattern.encode())


def may_have_secrets(stored: bytes) -> bool:
    """Whether an encoded value may contain tokens or secrets. False if none of its texts does."""
    return _STORED_TOKEN.search(stored) is not None


def redact_text(text: str) -> str:
    """Returns the text without tokens and secrets. A URL stays usable: it only loses its token.

    The text may be rendered JSON, which stays valid.
    """
    return _SECRET.sub(_replacement, text) if _TOKEN.search(text) else text


def redact_json(rendered: str) -> str:
    """Returns rendered JSON without tokens and secrets, except those in fields named `_approval_url`."""
    return _SECRET_BUT.sub(_replacement, rendered) if _TOKEN.search(rendered) else rendered


def redact(value: Any) -> Any:
    """Returns a plain JSON value without tokens and secrets, in dict keys too."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [redact(item) for item in value]
    if isinstance(value, dict):
        return {redact(key): redact(item) for key, item in value.items()}
    return value


def _replacement(match: re.Match[str]) -> str:
    found = match.groupdict()
    if found.get("kept"):
        return match[0]
    if found["link"]:
        return "[redacted link]"
    return found["first"] or ("" if match[0][0] in "?&" else "[redacted key]")
