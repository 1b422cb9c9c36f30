"""The Lua scripts: one transition of state each, loaded from this folder.

A file opens with `#!lua`, which makes Redis refuse a script that leaves its partition's slot, and a header:
what it does, KEYS, ARGV, what it returns. `-- #include x` inserts `lib/x.lua`, with its own includes, once.
Checks come first and writes last: an error in the middle would keep the writes before it.

Every position has a name (`tests/test_scripts_style.py` holds the scripts to this):

- The first statement names all arguments, in the order of the header:
  `local P, id, entry = KEYS[1], unpack(ARGV)`. Arguments without a number of their own ("7..") begin at a
  constant: `unpack(ARGV, EVENTS)`.
- A reply of HMGET, and any short list, is unpacked into locals:
  `local status, entry = unpack(redis.call('HMGET', exec, 'status', 'entry'))`. A bare number only follows a
  call directly: `redis.call('ZPOPMIN', line)[1]`.
- The positions in a record are constants, `record[STATUS]`, written as Lua 5.4 has them:
  `local STATUS <const> = 3`. `load` replaces them by their numbers, since Redis' Lua 5.1 has only variables:
  each would cost something in every run of a script, and in every function that uses it.

A function, too, costs something in every run of a script that contains it: `load` leaves out the unused ones.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from hashlib import sha1
from importlib.resources import files

from polos_redis.wire.wire import Script

_FOLDER = files(__name__)
_INCLUDE = re.compile(r"^-- #include (\w+)$", re.MULTILINE)
_CONSTANT = re.compile(r"^local (\w+) <const> = (\d+).*\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_FUNCTION = re.compile(r"^local function (\w+)\(.*?^end\n", re.MULTILINE | re.DOTALL)
_TOKEN = re.compile(r"\s*--.*|'[^'\n]*'|\b[A-Z][A-Z_]+\b")  # a comment, a string or the name of a constant
_WORD = re.compile(r"\w+")


def load(name: str) -> Script:
    """Read one script with its includes."""
    included: set[str] = set()

    def include(match: re.Match[str]) -> str:
        library = match[1]
        if library in included:
            return ""
        included.add(library)
        return _INCLUDE.sub(include, _read(f"lib/{library}.lua"))

    text = _INCLUDE.sub(include, _read(f"{name}.lua"))
    source = _without_unused(_with_numbers(text)).encode()
    return Script(name, source, sha1(source).hexdigest().encode())


@cache
def _read(path: str) -> str:
    """A file without its comments, of which those that include others stay."""
    text = _FOLDER.joinpath(path).read_text("utf-8")
    return _COMMENT.sub(lambda match: match[0] if match[0].startswith("-- #include ") else "", text)


def _with_numbers(text: str) -> str:
    """The text with its constants replaced, and without comments behind code."""
    constants = dict(_CONSTANT.findall(text))

    def token(match: re.Match[str]) -> str:
        return "" if match[0].lstrip().startswith("--") else constants.get(match[0], match[0])

    return _TOKEN.sub(token, _CONSTANT.sub("", text))


def _without_unused(text: str) -> str:
    """The text without functions that nothing calls."""
    uses = Counter(_WORD.findall(text))
    for function in reversed(list(_FUNCTION.finditer(text))):  # a function is called by later ones only
        if uses[function[1]] == 1:
            text = text[: function.start()] + text[function.end() :]
            uses.subtract(_WORD.findall(function[0]))
    return text


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
