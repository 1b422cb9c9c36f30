"""What schemathesis sends for the formats of /openapi.json that no JSON Schema describes in full."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

LETTERS = ("abcdefgzABCZäéß", "абвгджзАБВ", "αβγδεΑΒΓ", "אבגד", "田中太郎")
names = st.sampled_from(LETTERS).flatmap(
    lambda letters: st.text(letters + "0123456789", min_size=1, max_size=200)
)
schemathesis.openapi.format("person-name", names)
