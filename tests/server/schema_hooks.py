"""What schemathesis sends for the formats of /openapi.json that no JSON Schema describes in full."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

LETTERS = ("abcdefgzABCZäéß", "абвгджзАБВ", "αβγδεΑΒΓ", "אבגד", "田中太郎")
names = st.sampled_from(LETTERS).flatmap(
    lambda letters: st.text(letters + "0123456789", min_size=1, max_size=200)
)
schemathesis.openapi.format("person-name", names)


def fitting(longest: int) -> st.SearchStrategy[str]:
    """Texts of at most so many bytes of UTF-8."""
    texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=longest)
    return texts.filter(lambda text: len(text.encode()) <= longest)


schemathesis.openapi.format("name", fitting(256))
schemathesis.openapi.format("step-key", fitting(512))
