"""Stored errors: exceptions as msgpack [type name, message, traceback text]."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import msgpack

# No bin type: the scripts' cmsgpack can't read it.
_pack = msgpack.Packer(use_bin_type=False, unicode_errors="replace").pack
_TEXT_LIMIT = 16_384  # characters


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A stored exception: the name of its type, its message, its traceback."""

    type: str
    message: str
    traceback: str = ""


def text_of(error: BaseException) -> str:
    """Returns the text of an exception, cut if it is very long; never raises, even if its `__str__` does."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"<its text can't be read: {type(broken).__name__}>"
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + " ..."


def error_record(error: BaseException, *, with_traceback: bool = True) -> bytes:
    """Returns an exception's stored form."""
    trace = ""
    if with_traceback:
        try:
            trace = "".join(traceback.format_exception(error))
        except Exception:
            trace = f"<the traceback of {type(error).__name__} can't be formatted>"
        if len(trace) > 2 * _TEXT_LIMIT:
            trace = trace[:_TEXT_LIMIT] + "\n ... \n" + trace[-_TEXT_LIMIT:]
    packed: bytes = _pack((type(error).__name__, text_of(error), trace))
    return packed


def parse_error(raw: bytes) -> ErrorRecord:
    """Read a stored exception; never raises, a damaged record becomes an error that says so."""
    try:
        return ErrorRecord(*msgpack.unpackb(raw, raw=False, unicode_errors="replace")[:3])
    except Exception:
        return ErrorRecord("UnreadableValueError", "the stored error is damaged")
