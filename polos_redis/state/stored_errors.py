"""Stored errors: exceptions as msgpack [1, type name, message, traceback, that of the user's own code]."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from polos_redis import failures
from polos_redis.errors import UnreadableValueError
from polos_redis.values.versioned import VERSION, items_of

# No bin type: the scripts' cmsgpack can't read it.
_pack = msgpack.Packer(use_bin_type=False, unicode_errors="replace").pack


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A stored exception: the name of its type, its message, its traceback, and that with the frames of the
    user's own code only."""

    type: str
    message: str
    traceback: str = ""
    own_traceback: str = ""


def error_record(error: BaseException, note: str = "") -> bytes:
    """Returns an exception's stored form, with a note after its message; never raises."""
    name, text, traces = failures.name_of(error), failures.text_of(error), failures.tracebacks_of(error)
    packed: bytes = _pack((VERSION, name, text + note, *traces))
    return packed


def parse_error(raw: bytes) -> ErrorRecord:
    """Read a stored exception; never raises, a damaged record becomes an error that says so."""
    try:
        found = msgpack.unpackb(raw, raw=False, unicode_errors="replace")
        return ErrorRecord(*items_of("the stored error", found)[:4])
    except UnreadableValueError as error:
        return ErrorRecord("UnreadableValueError", str(error))
    except Exception:
        return ErrorRecord("UnreadableValueError", "the stored error is damaged")
