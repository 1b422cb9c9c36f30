"""Why an execution is stuck: what `stick` stores and emits as the data of the event `workflow_stuck`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from polos_redis.values.text import text

UNREACHED = "unreached"  # its code got past accepted decisions without having seen them
EXHAUSTED = "exhausted"  # it has failed, and is paused until somebody retries it

_pack = msgpack.Packer(use_bin_type=False).pack  # plain maps and strings are what the codec stores, too


@dataclass(frozen=True, slots=True)
class StuckReason:
    """`kind`: `UNREACHED` or `EXHAUSTED`; `keys`: the step keys it is about; `at`: file:line where the code
    left the recorded path, empty if unknown; `message`: one sentence for people."""

    kind: str
    keys: tuple[str, ...]
    at: str
    message: str

    def pack(self) -> bytes:
        packed: bytes = _pack(
            {"kind": self.kind, "keys": self.keys, "at": self.at, "message": self.message},
        )
        return packed

    @classmethod
    def parse(cls, raw: bytes) -> StuckReason:
        """Read a stored reason; one that is damaged has no keys and says so."""
        try:
            found: dict[bytes, Any] = msgpack.unpackb(raw, raw=True)
            kind, at, message = (text(found[name]) for name in (b"kind", b"at", b"message"))
            return cls(kind, tuple(map(text, found[b"keys"])), at, message)
        except Exception:
            return cls("", (), "", "the stored reason can't be read")
