"""Errors of calls to Redis, made from error replies and lost connections.

A call raises `CallLostError` if its connection is lost (the outcome is unknown if `sent` is True),
`TransientReplyError` if Redis did not execute it and it can be repeated, and `RefusedReplyError` if repeating
won't help. The last two have Redis' error code as `code`.
"""

from __future__ import annotations

from polos_redis.errors import ConnectionLostError, RedisRefusedError, RedisUnavailableError

TRANSIENT = {"LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"}
TRANSIENT |= {"UNBLOCKED", "NOREPLICAS", "MISCONF"}
UNPINGED = {"NOREPLICAS", "MASTERDOWN"}  # a PING succeeds meanwhile
REDIRECTS = {"MOVED", "ASK", "CLUSTERDOWN"}
HINTS = {
    "OOM": "its memory limit is reached: free memory or raise maxmemory",
    "NOPERM": "grant the ACL user ~polos:* &polos:* and the command",
    "NOAUTH": "put user and password into the URL: redis://user:password@host:port",
    "DENIED": "set a password, or turn protected-mode off",
    "WRONGPASS": "check the user and password in the URL",
    "WRONGTYPE": "another program uses this key: use another namespace or a separate Redis",
    "MOVED": "this is a cluster: write redis+cluster:// in its URL",
    "ASK": "this is a cluster: write redis+cluster:// in its URL",
    "CROSSSLOT": "on a cluster all keys of one call must share one {slot}",
}


class NotRedisError(RedisUnavailableError):
    """What answers at the address does not speak Redis' protocol."""


class CallLostError(ConnectionLostError):
    """The connection was lost. `sent` is True if the outcome is unknown, False if the call was never sent."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class TransientReplyError(CallLostError):
    """Redis can't serve the call now (`code` says why) and did not execute it, so it can be repeated."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, sent=True)
        self.code = code


class RefusedReplyError(RedisRefusedError):
    """Redis rejected the call, and repeating it won't help; `code` is the first word of its reply."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def refusal(
    address: str, what: str, code: str, text: str, *, redirected: bool = False
) -> TransientReplyError | RefusedReplyError:
    """The error for an error reply. With `redirected`, the call can be repeated on another node."""
    if redirected or code in TRANSIENT:
        return TransientReplyError(f"Redis at {address} can't serve {what} now: {text}", code)
    hint = f" ({HINTS[code]})" if code in HINTS else ""
    return RefusedReplyError(f"Redis at {address} refused {what}: {text}{hint}", code)
