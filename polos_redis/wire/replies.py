"""What Redis can answer, besides what was asked for: the errors of a call.

A future or a repeated call can raise `CallLostError` (`sent` says whether the call left the process: if it
did, its outcome is unknown), `TransientReplyError` (not executed, worth repeating) and `RefusedReplyError`
(repeating won't cure it). The last two carry Redis' error word as `code`.
"""

from __future__ import annotations

from polos_redis.errors import ConnectionLostError, RedisRefusedError

TRANSIENT = {"LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"}
TRANSIENT |= {"UNBLOCKED", "NOREPLICAS", "MISCONF"}
REDIRECTS = {"MOVED", "ASK", "CLUSTERDOWN"}
HINTS = {
    "OOM": "its memory limit is reached: free memory or raise maxmemory",
    "NOPERM": "grant the ACL user ~polos:* &polos:* and the command",
    "NOAUTH": "put user and password into the URL: redis://user:password@host:port",
    "WRONGPASS": "check the user and password in the URL",
    "WRONGTYPE": "another program uses this key: give polos a namespace or a Redis of its own",
    "MOVED": "this is a cluster: write redis+cluster:// in its URL",
    "ASK": "this is a cluster: write redis+cluster:// in its URL",
    "CROSSSLOT": "on a cluster all keys of one call must share one {slot}",
}


class CallLostError(ConnectionLostError):
    """The connection is gone. `sent` False: the call never left; True: its outcome is unknown."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class TransientReplyError(CallLostError):
    """Redis can't serve right now (`code` says why): not executed, so worth repeating."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, sent=True)
        self.code = code


class RefusedReplyError(RedisRefusedError):
    """Redis answered with an error that repeating won't cure; `code` is its first word."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def refusal(
    address: str, what: str, code: str, text: str, *, redirected: bool = False
) -> TransientReplyError | RefusedReplyError:
    """The error for an error reply; `redirected` when the call is to be repeated elsewhere."""
    if redirected or code in TRANSIENT:
        return TransientReplyError(f"Redis at {address} can't serve {what} now: {text}", code)
    hint = f" ({HINTS[code]})" if code in HINTS else ""
    return RefusedReplyError(f"Redis at {address} refused {what}: {text}{hint}", code)
