"""The Lua scripts: one transition of state each, loaded from this folder.

A file opens with `#!lua`, so that Redis refuses one that leaves its partition's slot, and a header:
what it does, KEYS, ARGV, what it returns. `-- #include x` puts `lib/x.lua` in its place. Checks come
first and writes last: an error in the middle would keep the writes before it.
"""

from __future__ import annotations

import re
from hashlib import sha1
from importlib.resources import files

from polos_redis.wire import Script

_INCLUDE = re.compile(r"^-- #include (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


def load(name: str) -> Script:
    """Read one script with its includes; comments are left out of what Redis is sent."""
    folder = files(__name__)
    text = folder.joinpath(f"{name}.lua").read_text("utf-8")
    text = _INCLUDE.sub(lambda m: folder.joinpath("lib", f"{m[1]}.lua").read_text("utf-8"), text)
    source = _COMMENT.sub("", text).encode()
    return Script(name, source, sha1(source).hexdigest().encode())


INVOKE = load("invoke")
LOAD = load("load")
WRITE = load("write")
BACKOFF = load("backoff")
SUSPEND = load("suspend")
PARK = load("park")
FINISH = load("finish")
ANSWER = load("answer")
CANCEL = load("cancel")
FIRE = load("fire")
REQUEUE = load("requeue")
PUTBACK = load("putback")
GROUP = load("group")
RENEW = load("renew")
PRUNE = load("prune")
WATCH = load("watch")
PUBLISH = load("publish")
LIST = load("list")
INBOX = load("inbox")

ALL = (
    *(INVOKE, LOAD, WRITE, BACKOFF, SUSPEND, PARK, FINISH, ANSWER, CANCEL),
    *(FIRE, REQUEUE, PUTBACK, GROUP, RENEW, PRUNE, WATCH, PUBLISH, LIST, INBOX),
)
