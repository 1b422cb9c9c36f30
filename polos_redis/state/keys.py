"""Redis keys and execution ids. No other module spells a key.

Every key begins with its partition's prefix, `polos:{<namespace>:<p>}:`; the braces put a whole partition
into one cluster slot. A script takes that prefix as its one KEYS argument and appends the names below, which
`scripts/` repeats literally; `tests/scripts/test_keys.py` compares the two.
"""

from __future__ import annotations

import itertools
from hashlib import blake2b
from typing import Any
from zlib import crc32

from polos_redis.errors import ConfigurationError, InvalidInputError, PolosError

EXEC = "exec:"  # hash: one execution
JOURNAL = "journal:"  # hash: its step records; the field "" counts its changes
EARLY = "early:"  # hash: answers that came before their suspension
QUEUE = "queue:"  # stream: one entry per runnable execution
TOPIC = "topic:"  # stream: events
INDEX = "index:"  # zset: a workflow's executions (empty: further ones'): all, ended, or of a status
REPLY = "reply:"  # sharded pub/sub channel of one client or worker
TIMERS = "timers"  # zset: due time in ms -> timer
SUSPENSIONS = "suspensions"  # zset: open suspensions by opening time
WORKFLOWS = "workflows"  # zset: the names of indexes -> when to look for executions to forget, ms
RESERVED = "reserved"  # set: reserved streams, and those that unserved executions wait for
VERSIONS = "versions"  # set: names of version indexes that have rows: workflow, NUL, version
WORKERS = "workers"  # hash: worker id -> lease counter
SERVES = "serves"  # hash: worker id -> what it serves (msgpack)
CHILDREN = "children:"  # set: an execution's unfinished children
BELOW = "below:"  # set: suspensions (open or decided) of a root execution's descendants
DESCENDANTS = "descendants:"  # set: a root's descendants that are not deleted or forgotten yet
AUDIT = "audit:"  # list: decisions on the suspensions of a root execution and its descendants
SUBS = "subs:"  # hash: subscriber of a topic -> the id of the last event it received
ONCE = "once:"  # string with a TTL: the id of an event that is published once
SLOTS = "slots:"  # hash: a semaphore's holders of slots and its waiters -> version
WAITERS = "waiters:"  # zset: the waiters of a semaphore
ERRANDS = "errands"  # zset: due time in ms -> errand
ERRAND_FAILURES = "errand_failures"  # hash: errand -> its attempts since it last succeeded (msgpack)
OUTBOX = "outbox:"  # zset: due time in ms -> suspension that a channel has to notify people of
QUEUES = "queues"  # set: every queue that has a stream here
LIMITS = "limits"  # hash: queue -> its published concurrency limit
DEFINITIONS = "definitions"  # hash: workflow id -> its published start options (msgpack)
SCHEDULES = "schedules"  # hash: schedule id -> the schedule (msgpack)
TIMER_LEADER = "timer_leader"  # string with a TTL: the worker that fires the timers
KEYS = "keys"  # hash, partition 0: API key id -> the key, with its secret's digest (msgpack)
SESSION = "session:"  # string with a TTL, partition 0: a login session -> its API key's id
RATE = "rate:"  # string with a TTL: when the requests of a caller are paid off, us
CONFIRMED = "confirmed"  # string with a TTL: what a connection writes before it waits for a confirmation
META = "meta"  # hash: facts fixed for the namespace
SKIPPED = "skipped"  # string, in a test's namespace: by how many ms its clock is ahead of the server's
EXPIRING = "expiring"  # zset, in a test's namespace: when a key expires by that clock, ms -> its name

GROUP = "workers"  # the consumer group of every queue
DEFAULT_QUEUE = "default"

ID_LENGTH = 32  # hex digits
CHILD_LENGTH = 20  # of a child's id, after the dot

# The longest names that callers may give, in bytes of UTF-8.
LONGEST_NAME = 256  # ids, keys, queues and event types
LONGEST_STEP_KEY = 512
LONGEST_VERSION = 128
LONGEST_TOPIC = 1024  # has room for a step key and an execution id


def prefix(namespace: str, partition: int) -> str:
    """Returns the prefix of every key of one partition."""
    return f"polos:{{{namespace}:{partition}}}:"


def check_namespace(namespace: str) -> str:
    """Returns a valid namespace. Raises `ConfigurationError` if its keys would break out of the braces."""
    if not namespace or len(namespace) > 200 or any(c in "{}" or c.isspace() for c in namespace):
        raise ConfigurationError(
            f"invalid namespace {namespace!r}: it must have 1 to 200 characters, without braces and spaces"
        )
    return namespace


def check_text(
    what: str,
    name: Any,
    longest: int = LONGEST_NAME,
    *,
    empty: bool = False,
    error: type[PolosError] = InvalidInputError,
) -> str:
    """Returns a string that becomes part of a key or a row. Raises `error` about `what` if it is no string,
    empty (unless `empty`), or more than `longest` bytes long."""
    if not isinstance(name, str) or not (name or empty):
        raise error(f"{what} must be a {'' if empty else 'non-empty '}string, not {name!r}")
    if 4 * len(name) > longest and (size := len(name.encode("utf-8", "surrogatepass"))) > longest:
        raise error(f"{what} has {size} bytes in UTF-8, and {longest} are allowed: shorten {name[:20]!a}...")
    return name


def root_of(execution_id: str) -> str:
    """Returns the root execution's id; a child's id is `<root id>.<hash>`."""
    if not isinstance(execution_id, str):
        raise InvalidInputError(
            f"an execution id must be a string, not {execution_id!r} (a handle has it as `id`)"
        )
    return execution_id.partition(".")[0]


def partition_of(name: str, partitions: int) -> int:
    """Returns the partition of a name: a root execution id, a free topic, a semaphore."""
    return 0 if partitions == 1 else crc32(name.encode("utf-8", "surrogatepass")) % partitions


def is_execution_id(text: str) -> bool:
    """Returns whether text has the form of an execution id: 32 hex digits, for a child a dot and a hash."""
    root, _, child = text.partition(".")
    return (
        len(root) == ID_LENGTH
        and all(c in "0123456789abcdef" for c in root)
        and all(c in "0123456789abcdef" for c in child)
    )


def child_id(parent: str, step_key: str, index: int, since_run: int = 1) -> str:
    """Returns the id of a child: the same at every replay of its parent, whose journal begins with this
    run."""
    run = (str(since_run),) if since_run > 1 else ()
    return f"{root_of(parent)}.{_derived('child', CHILD_LENGTH // 2, parent, step_key, str(index), *run)}"


def derived_id(workflow_id: str, key: str) -> str:
    """Returns the id of the one execution of an idempotency key."""
    return _derived("invoke", ID_LENGTH // 2, workflow_id, key)


def id_in(partition: int, partitions: int, kind: str, *name: str) -> str:
    """Returns an execution id in a given partition, derived from a kind and a name: the same each time.

    Callers choose idempotency keys, so ids of another kind must not be among those of `derived_id`.
    """
    for number in itertools.count():
        found = _derived(kind, ID_LENGTH // 2, *name, str(number))
        if partition_of(found, partitions) == partition:
            return found
    raise AssertionError


def schedule_id(workflow_id: str, key: str) -> str:
    """Returns the id of a workflow's schedule of a key."""
    return f"schedule-{_derived('schedule', 10, workflow_id, key)}"


def _derived(kind: str, size: int, *parts: str) -> str:
    """Returns `size` bytes in hex that no other kind and no other parts yield, whatever text they are."""
    found = blake2b(digest_size=size, person=kind.encode())
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "big"))
        found.update(encoded)
    return found.hexdigest()


def reserved_stream(queue: str, workflow_id: str, version: str = "") -> str:
    """Returns the stream of a queue that is read by workers that serve this version of a workflow; without a
    version, by those that serve the workflow."""
    return f"{queue}\0{version}\0{workflow_id}"


def parse_stream(name: str) -> tuple[str, str, str]:
    """Returns queue, version and workflow id of a stream; both are empty for one that is not reserved."""
    queue, _, rest = name.partition("\0")
    version, _, workflow_id = rest.partition("\0")
    return queue, version, workflow_id


def suspension_topic(step_key: str, execution_id: str) -> str:
    """Returns the topic of a suspension, which its suspend event names."""
    return f"{step_key}/{execution_id}"


def parse_topic(topic: str) -> tuple[str | None, str | None]:
    """Returns (step key, execution id) of a suspension's topic, (None, id) of an execution's, else Nones."""
    step_key, slash, last = topic.rpartition("/")
    if not is_execution_id(last):
        return None, None
    return (step_key, last) if slash else (None, last)
