"""The Lua scripts: one transition of state each, loaded from this folder.

A file opens with `#!lua`, which makes Redis refuse a script that leaves its partition's slot, and a header:
what it does, KEYS, ARGV, what it returns. `-- #include x` inserts `lib/x.lua`, with its own includes, once,
and in a script at this place: a usual path comes before what only others need.
Checks come first and writes last: an error in the middle would keep the writes before it.

Every position has a name (`tests/scripts/test_style.py` holds the scripts to this):

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

Tests can skip time. The scripts of their namespaces are variants: `skipping` puts `lib/skipped_time.lua`
before a script, and its functions in the place of the commands that depend on the clock. The scripts of all
other namespaces are as if there were no such thing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files

from polos_redis.wire.wire import Script

_FOLDER = files(__name__)
_INCLUDE = re.compile(r"^-- #include (\w+)$", re.MULTILINE)
_CONSTANT = re.compile(r"^local (\w+) <const> = (\d+).*\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_FUNCTION = re.compile(r"^local function (\w+)\(.*?^end\n", re.MULTILINE | re.DOTALL)
_HERE = "\0\n"
_TOKEN = re.compile(r"\s*--.*|'[^'\n]*'|\b[A-Z][A-Z_]+\b")  # a comment, a string or the name of a constant
_WORD = re.compile(r"\w+")
_SKIPPED_TIME = "skipped_time"
_DEPEND_ON_THE_CLOCK = (  # the functions of lib/skipped_time.lua
    ("redis.call('TIME')", "skipped_time(KEYS[1])"),
    ("redis.call('XADD', ", "skipped_add(KEYS[1], "),
    ("redis.call('PEXPIRE', ", "skipped_expire(KEYS[1], "),
    ("redis.call('SET', once, event, 'PX', ", "skipped_set(KEYS[1], once, event, "),
)


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    text: str
    words: Counter[str]


@dataclass(frozen=True, slots=True)
class _File:
    """One file: its opening line, the libraries it includes, its code and the functions in it. In a script's
    code, `_HERE` is where each library stands."""

    name: str
    opening: str
    includes: tuple[str, ...]
    text: str
    words: Counter[str]
    functions: tuple[_Function, ...]


def load(name: str) -> Script:
    """Returns one script with its includes."""
    return Script(name, partial(_source, name))


@cache
def skipping(script: Script) -> Script:
    """Returns the variant of a script for namespaces whose time can be skipped."""
    return Script(script.name, partial(_source, script.name, skips=True))


def _source(name: str, skips: bool = False) -> bytes:
    main = _read(f"{name}.lua", skips)
    first = [_read(f"lib/{_SKIPPED_TIME}.lua")] if skips else []
    files = [*first, *_libraries(main, skips), main]  # what is included further down comes later
    words: Counter[str] = Counter()
    for file in files:
        words.update(file.words)
    texts: dict[str, str] = {}
    for file in reversed(files):
        text = file.text
        for function in reversed(file.functions):  # a function is called by later ones only
            if words[function.name] == 1:
                text = text.replace(function.text, "", 1)
                words.subtract(function.words)
        texts[file.name] = text
    begun = texts.pop(main.name).split(_HERE)
    parts = [begun[0]]
    for name, after in zip(main.includes, begun[1:], strict=True):
        library = _read(f"lib/{name}.lua", skips)
        parts += [texts.pop(file.name, "") for file in (*_libraries(library, skips), library)]
        parts.append(after)
    before = [texts[file.name] for file in first]
    return (main.opening + "".join((*before, *parts))).encode()


def _libraries(file: _File, skips: bool) -> list[_File]:
    """What a file includes, each library once and behind those it includes itself."""
    found: dict[str, _File] = {}

    def visit(file: _File) -> None:
        for name in file.includes:
            if name not in found:
                library = _read(f"lib/{name}.lua", skips)
                visit(library)
                found[name] = library

    visit(file)
    return list(found.values())


@cache
def _read(path: str, skips: bool = False) -> _File:
    """Read a file: comments are left out, constants replaced, and commands that depend on the clock if it
    `skips`."""
    text = _FOLDER.joinpath(path).read_text("utf-8")
    constants = _constants_of_libraries() | dict(_CONSTANT.findall(text))
    includes = tuple(_INCLUDE.findall(text))
    opening, _, rest = text.partition("\n") if text.startswith("#!") else ("", "", text)

    def token(match: re.Match[str]) -> str:
        return "" if match[0].lstrip().startswith("--") else constants.get(match[0], match[0])

    here = _HERE if opening else ""
    code = _TOKEN.sub(token, _COMMENT.sub("", _CONSTANT.sub("", _INCLUDE.sub(here, rest))))
    for command, function in _DEPEND_ON_THE_CLOCK if skips else ():
        code = code.replace(command, function)
    functions = [
        _Function(match[1], match[0], Counter(_WORD.findall(match[0]))) for match in _FUNCTION.finditer(code)
    ]
    return _File(
        path, opening and opening + "\n", includes, code, Counter(_WORD.findall(code)), tuple(functions)
    )


@cache
def _constants_of_libraries() -> dict[str, str]:
    """The constants of all libraries; a name means the same number in each."""
    found: dict[str, str] = {}
    for file in _FOLDER.joinpath("lib").iterdir():
        if file.name.endswith(".lua"):
            for name, number in _CONSTANT.findall(file.read_text("utf-8")):
                if found.setdefault(name, number) != number:
                    raise ValueError(f"lib/{file.name}: {name} is {number} here, but {found[name]} elsewhere")
    return found


INVOKE = load("invoke")
INVOKE_WITH_OPTIONS = load("invoke_with_options")
FORK = load("fork")
LOAD = load("load")
WRITE_STEP = load("write_step")
NOTE_STARTS = load("note_starts")
NOTE_PROGRESS = load("note_progress")
NOTE_SPAN = load("note_span")
FOLLOW = load("follow")
BACK_OFF = load("back_off")
SUSPEND = load("suspend")
PARK = load("park")
STICK = load("stick")
GIVE_UP = load("give_up")
FINISH = load("finish")
AUTO_RETRY = load("auto_retry")
CONTINUE_AS_NEW = load("continue_as_new")
START_CHILDREN = load("start_children")
OPEN_WAIT = load("open_wait")
CHOOSE_WINNER = load("choose_winner")
ANSWER = load("answer")
DROP_EARLY = load("drop_early")
CANCEL = load("cancel")
RETRY = load("retry")
DELETE_EXECUTION = load("delete_execution")
FIRE_TIMERS = load("fire_timers")
REQUEUE_ENTRIES = load("requeue_entries")
PUT_BACK = load("put_back")
RESERVE = load("reserve")
SERVE = load("serve")
LEAVE_STREAM = load("leave_stream")
CLOSE_STREAM = load("close_stream")
REPAIR = load("repair")
CREATE_GROUP = load("create_group")
PUBLISH_DEFINITION = load("publish_definition")
RENEW_LEASE = load("renew_lease")
PRUNE_CONSUMER = load("prune_consumer")
WATCH_EXECUTION = load("watch_execution")
PUBLISH = load("publish")
SUBSCRIBE = load("subscribe")
UNSUBSCRIBE = load("unsubscribe")
ADVANCE_SUBSCRIPTION = load("advance_subscription")
TRIGGER_WORKFLOW = load("trigger_workflow")
CHANGE_SCHEDULE = load("change_schedule")
READ_SCHEDULE = load("read_schedule")
DELIVER_EVENT = load("deliver_event")
READ_SLOT_REQUEST = load("read_slot_request")
ACQUIRE_OR_RELEASE_SLOT = load("acquire_or_release_slot")
READ_SLOT_HOLDERS = load("read_slot_holders")
GRANT_SLOT = load("grant_slot")
START_ERRAND = load("start_errand")
FINISH_ERRAND = load("finish_errand")
FAIL_ERRAND = load("fail_errand")
RETRY_ERRAND = load("retry_errand")
CLAIM_NOTIFICATIONS = load("claim_notifications")
NOTIFICATION_SENT = load("notification_sent")
TAKE_REQUESTS = load("take_requests")
LIST_EXECUTIONS = load("list_executions")
READ_STATUSES = load("read_statuses")
LIST_SUSPENSIONS = load("list_suspensions")
READ_JOURNAL = load("read_journal")
READ_AUDIT = load("read_audit")
NAMESPACE_STATS = load("namespace_stats")
CHECK_COMMANDS = load("check_commands")
CONFIRM = load("confirm")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Script))

LOOK_AHEAD = load("look_ahead")
SKIP_TIME = load("skip_time")
OF_TESTS = (LOOK_AHEAD, SKIP_TIME)  # only namespaces of tests run them
