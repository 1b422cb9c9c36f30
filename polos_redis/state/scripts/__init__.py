"""The Lua scripts: one transition of state each, loaded from this folder.

A file opens with `#!lua`, so that Redis refuses one that leaves its partition's slot, and a header:
what it does, KEYS, ARGV, what it returns. `-- #include x` puts `lib/x.lua` (with what that one includes) in
its place, once. Checks come first and writes last: an error in the middle would keep the writes before it.
"""

from __future__ import annotations

import re
from hashlib import sha1
from importlib.resources import files

from polos_redis.wire.wire import Script

_INCLUDE = re.compile(r"^-- #include (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


def load(name: str) -> Script:
    """Read one script with its includes; comments are left out of what Redis is sent."""
    folder = files(__name__)
    included: set[str] = set()

    def include(match: re.Match[str]) -> str:
        library = match[1]
        if library in included:
            return ""
        included.add(library)
        return _INCLUDE.sub(include, folder.joinpath("lib", f"{library}.lua").read_text("utf-8"))

    text = _INCLUDE.sub(include, folder.joinpath(f"{name}.lua").read_text("utf-8"))
    source = _COMMENT.sub("", text).encode()
    return Script(name, source, sha1(source).hexdigest().encode())


INVOKE = load("invoke")
LOAD = load("load")
WRITE = load("write")
BACKOFF = load("backoff")
SUSPEND = load("suspend")
PARK = load("park")
FINISH = load("finish")
AUTO_RETRY = load("auto_retry")
SPAWN = load("spawn")
WAIT = load("wait")
CHOOSE = load("choose")
ANSWER = load("answer")
CANCEL = load("cancel")
RETRY = load("retry")
DELETE = load("delete")
FIRE = load("fire")
REQUEUE = load("requeue")
PUTBACK = load("putback")
GROUP = load("group")
DEFINE = load("define")
RENEW = load("renew")
PRUNE = load("prune")
WATCH = load("watch")
PUBLISH = load("publish")
SUBSCRIBE = load("subscribe")
ADVANCE = load("advance")
TRIGGER = load("trigger")
SCHEDULE = load("schedule")
READ_SCHEDULE = load("read_schedule")
DELIVER = load("deliver")
SLOT_REQUEST = load("slot_request")
REQUEST_SLOT = load("request_slot")
SLOT_HOLDERS = load("slot_holders")
GRANT_SLOT = load("grant_slot")
ERRAND = load("errand")
CLAIM_NOTIFICATIONS = load("claim_notifications")
NOTIFICATION_SENT = load("notification_sent")
LIST = load("list")
INBOX = load("inbox")
NAMESPACE_STATS = load("namespace_stats")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Script))
