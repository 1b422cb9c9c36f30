"""The audit of suspensions: who decided what, when, through which channel, and what they were shown."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from polos_redis.decisions.views import Read
from polos_redis.results import AuditEntry
from polos_redis.state import keys
from polos_redis.values.plain import readable
from polos_redis.values.text import text
from polos_redis.values.times import iso, to_iso
from polos_redis.values.versioned import items_of


def entries(stored: Sequence[bytes], execution_id: str, read: Read = readable) -> list[AuditEntry]:
    """Returns the entries of a root's audit that concern an execution; all of them for the root itself.
    `read` makes plain JSON of stored values."""
    found = [entry(packed, read) for packed in stored]
    if keys.root_of(execution_id) != execution_id:
        found = [one for one in found if one.execution_id == execution_id]
    return found


def entry(packed: bytes, read: Read = readable) -> AuditEntry:
    """Returns one entry, made of stored values by `read`."""
    one, key, workflow, what, at, by, channel, digest, opened, answer, *reason = items_of(
        "an audit entry", msgpack.unpackb(packed, raw=True)
    )
    return AuditEntry(
        execution_id=text(one),
        workflow_id=text(workflow),
        step_key=text(key),
        status=text(what),
        by=text(by) or None,
        at=to_iso(int(at)),
        channel=text(channel) or None,
        digest=digest.hex() or None,
        opened_at=iso(int(opened)),
        data=read(answer),
        reason=text(reason[0]) if reason else None,
    )
