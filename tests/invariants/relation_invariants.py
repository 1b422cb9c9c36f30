"""Invariants of the relations between executions and with names: parents, semaphores, topics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isinf

import msgpack

from polos_redis.state import keys
from polos_redis.state.journal import result_name
from polos_redis.state.origin import Origin
from tests.invariants.state import (
    UNFINISHED,
    Namespace,
    Partition,
    Relations,
    is_open,
    order,
    records,
    relations_of,
    show,
)

# A position in a stream; for a subscriber of another partition also the event it is to receive.
_POSITION = re.compile(rb"(\d+-\d+)(?:=(\d+-\d+))?")


class RelationInvariants:
    """The invariants across all partitions of a namespace."""

    def __init__(self, all_of_it: Namespace) -> None:
        self.all = all_of_it

    def violations(self) -> Iterator[str]:
        for partition in self.all.partitions.values():
            for execution_id, fields in partition.executions.items():
                relations = relations_of(fields)
                yield from self._parent(partition, execution_id, fields, relations)
                yield from self._children(partition, execution_id, fields)
                yield from self._slot(partition, execution_id, fields, relations)
                yield from self._suspensions(partition, execution_id)
                yield from self._waits_for_events(partition, execution_id)
            yield from self._sets_of_children(partition)
            yield from self._below(partition)
            yield from self._descendants(partition)
            for semaphore in partition.slots.keys() | partition.waiters.keys():
                yield from self._semaphore(partition, semaphore)
            yield from self._subscribers(partition)
            yield from self._triggers(partition)
            yield from self._failed_errands(partition)
            yield from self._schedules(partition)

    # --- parents and children -----------------------------------------------------------

    def may_end_its_children(self, fields: dict[bytes, bytes]) -> bool:
        """Whether a timer that cancels its children may exist for an execution."""
        return fields.get(b"status") in (b"failed", b"cancelled") and relations_of(fields).kids

    def _parent(
        self, partition: Partition, execution_id: bytes, fields: dict[bytes, bytes], relations: Relations
    ) -> Iterator[str]:
        """A child that has not finished is in the set of its parent, or of an ended ancestor that has taken
        the parent's role."""
        if fields.get(b"status") not in UNFINISHED or relations.parent not in partition.executions:
            return
        parent = partition.executions[relations.parent]
        if int(parent[b"created"]) > int(fields[b"created"]):
            return  # that of an earlier execution with the parent's id
        if not any(execution_id in children for children in partition.children.values()):
            child, above = show(execution_id), show(relations.parent)
            yield f"child {child} goes on but is not among the children of {above}"

    def _sets_of_children(self, partition: Partition) -> Iterator[str]:
        """The sets hold children that have not finished or have such descendants; where the parent was ended,
        a timer ends them and removes the others."""
        living = set(self._with_ancestors(partition))
        for parent, children in partition.children.items():
            ends = b"c" + parent in partition.timers
            for child in children:
                if not (child in living or ends) or not child.startswith(parent.partition(b".")[0] + b"."):
                    stands = f"which is {show(partition.executions.get(child, {}).get(b'status'))}"
                    yield f"execution {show(parent)} has the child {show(child)}, {stands}"
            fields = partition.executions.get(parent, {})
            if fields and not relations_of(fields).kids:
                yield f"execution {show(parent)} has children but does not know of any"
            if _was_ended(fields) and not ends and not any(_was_retried(partition, c) for c in children):
                yield f"execution {show(parent)} was ended but nothing ends its children"

    def _with_ancestors(self, partition: Partition) -> Iterator[bytes]:
        """Unfinished executions, those that have yet to end their children, and all their ancestors."""
        for execution_id, fields in partition.executions.items():
            if fields.get(b"status") in UNFINISHED or b"c" + execution_id in partition.timers:
                one: bytes | None = execution_id
                while one is not None:
                    yield one
                    one = relations_of(partition.executions.get(one, {})).parent

    def _children(
        self, partition: Partition, execution_id: bytes, fields: dict[bytes, bytes]
    ) -> Iterator[str]:
        """A step that waits for children counts the missing results."""
        if fields.get(b"status") not in UNFINISHED:
            return
        journal = partition.journals.get(execution_id, {})
        for key, record in records(journal):
            if record[1] != b"child" or record[2] not in (b"open", b"done"):
                continue
            who = f"execution {show(execution_id)} waits at {show(key)}"
            total, left, started = record[4:7]
            of = record[9] if len(record) > 9 else execution_id  # a fork has children of another execution
            step_key = key.decode("utf-8", "surrogatepass")
            ids = [keys.child_id(of.decode(), step_key, n, _since_run(fields)) for n in range(started)]
            missing = [one for one in ids if result_name(one) not in journal]
            if left != len(missing) + total - started:
                yield f"{who} for {left} of {total} children; {len(missing)} of {started} have no result"
            if (record[2] == b"done") != (left == 0):
                yield f"{who}, which is {show(record[2])}, for {left} children"
            for one in missing if record[2] == b"open" else ():
                if partition.executions.get(one.encode(), {}).get(b"status") not in UNFINISHED:
                    yield f"{who} for {one}, which does not go on"

    # --- suspensions of descendants -----------------------------------------------------

    def _suspensions(self, partition: Partition, execution_id: bytes) -> Iterator[str]:
        root = execution_id.partition(b".")[0]
        if root == execution_id or partition.executions.get(root, {}).get(b"status") not in UNFINISHED:
            return
        for key, record in records(partition.journals.get(execution_id, {})):
            member = execution_id + b" " + key
            if record[1:3] == [b"suspend", b"open"] and member not in partition.below.get(root, ()):
                yield f"suspension {show(member)} is not among those below {show(root)}"

    def _below(self, partition: Partition) -> Iterator[str]:
        for root, members in partition.below.items():
            for member in members:
                execution_id = member.partition(b" ")[0]
                if not execution_id.startswith(root + b"."):
                    yield f"the suspensions below {show(root)} have {show(member)}, which is not"

    def _descendants(self, partition: Partition) -> Iterator[str]:
        """A root's descendants are in its set, so that `delete` finds them, whichever of them is left."""
        for execution_id in partition.executions:
            root = execution_id.partition(b".")[0]
            members = partition.descendants.get(root, set())
            if root in partition.executions and execution_id not in members | {root}:
                yield f"{show(execution_id)} is not among the descendants of {show(root)}"
        for root, members in partition.descendants.items():
            for one in members:
                if not one.startswith(root + b"."):
                    yield f"the descendants of {show(root)} have {show(one)}, which is not"

    # --- semaphores -----------------------------------------------------------------------

    def starts_by_timer(self, partition: Partition, execution_id: bytes, fields: dict[bytes, bytes]) -> bool:
        """Whether a queued execution without an entry needs a timer to queue it: it is no waiter, and no
        errand queues it."""
        semaphore = relations_of(fields).semaphore
        if semaphore is None or b"p" + execution_id in partition.timers:
            return True
        home = self.all.home(semaphore)
        resolves = b"l" + execution_id in partition.errands or _grants(home, execution_id, semaphore)
        return not resolves and execution_id not in home.waiters.get(semaphore, {})

    def _slot(
        self, partition: Partition, execution_id: bytes, fields: dict[bytes, bytes], relations: Relations
    ) -> Iterator[str]:
        """An execution with an entry holds a slot of its semaphore."""
        if relations.semaphore is None:
            if b"l" + execution_id in partition.errands:
                yield f"execution {show(execution_id)} is in no semaphore but has an errand to resolve one"
            return
        who, semaphore = f"execution {show(execution_id)}", show(relations.semaphore)
        home = self.all.home(relations.semaphore)
        if relations.near != (home is partition):
            negation = "not " if relations.near else ""
            yield f"{who} and its semaphore {semaphore} are {negation}in the same partition"
        seen = execution_id in home.slots.get(relations.semaphore, {})
        waits = execution_id in home.waiters.get(relations.semaphore, {})
        if fields.get(b"status") == b"queued" and b"entry" in fields and (not seen or waits):
            yield f"{who} has an entry but no slot of semaphore {semaphore}"

    def _semaphore(self, home: Partition, semaphore: bytes) -> Iterator[str]:
        """Executions with a slot are runnable and within the limit; waiters have no entry."""
        slots, waiters, name = (
            home.slots.get(semaphore, {}),
            home.waiters.get(semaphore, {}),
            f"semaphore {show(semaphore)}",
        )
        for execution_id in waiters.keys() - slots.keys():
            yield f"{name} has {show(execution_id)} among the waiters but does not know its version"
        limits = {
            relations.limit
            for partition in self.all.partitions.values()
            for relations in map(relations_of, partition.executions.values())
            if relations.semaphore == semaphore
        }
        known = home.limits.get(semaphore.partition(b"\0")[0])
        if known is not None:
            limits.add(int(known))
        holders = slots.keys() - waiters.keys()
        if limits and len(holders) > max(limits):
            yield f"{name} has {len(holders)} executions with a slot, {max(limits)} allowed"
        if limits and waiters and len(holders) < min(limits):
            yield f"{name} has waiters, but only {len(holders)} slots taken of {min(limits)}"
        for execution_id, version in slots.items():
            yield from self._in_semaphore(home, semaphore, execution_id, int(version))

    def _in_semaphore(
        self, home: Partition, semaphore: bytes, execution_id: bytes, version: int
    ) -> Iterator[str]:
        fields, partition = self.all.fields(execution_id), self.all.of(execution_id)
        relations, who = relations_of(fields), f"semaphore {show(semaphore)} has {show(execution_id)}"
        if partition is None or relations.semaphore != semaphore:
            yield f"{who}, which {'does not exist' if partition is None else 'is of another semaphore'}"
            return
        resolves = b"l" + execution_id in partition.errands or _grants(home, execution_id, semaphore)
        if resolves and not relations.near:
            return  # one of the two sides has yet to hear from the other
        if version != relations.slot:
            yield f"{who} at version {version}, which is at {relations.slot}"
        if fields.get(b"status") != b"queued":
            yield f"{who}, which is {show(fields.get(b'status'))}"
        elif execution_id in home.waiters.get(semaphore, {}):
            if b"entry" in fields:
                yield f"{who} among the waiters, which has an entry"
            if b"p" + execution_id in partition.timers:
                yield f"{who} among the waiters, which starts later"
        elif b"entry" not in fields:
            yield f"{who} with a slot, which has no entry"

    # --- topics -------------------------------------------------------------------------

    def _waits_for_events(self, partition: Partition, execution_id: bytes) -> Iterator[str]:
        """An execution that waits for an event has subscribed to its topic."""
        for key, record in records(partition.journals.get(execution_id, {})):
            if record[1] != b"wait" or not record[5]:
                continue
            topic, subscriber = record[5:7]
            home = self.all.home(topic)
            who = f"execution {show(execution_id)} waits at {show(key)} for an event of {show(topic)}"
            if is_open(record):
                if (subscriber[:1] == b"w") != (home is partition):
                    yield f"{who} as {show(subscriber)}, and they are not in the partitions that says"
                if subscriber not in home.subs.get(topic, {}):
                    yield f"{who} but has not subscribed"
            elif subscriber in home.subs.get(topic, {}):
                unsubscribes = b"u%d %s%s" % (len(topic), topic, subscriber) in partition.errands
                if subscriber[:1] == b"w" or not (unsubscribes or _delivers(home, topic)):
                    yield f"{who} no longer, but is still subscribed"

    def _subscribers(self, home: Partition) -> Iterator[str]:
        """A subscriber has a position in the topic, and waits; or, in another partition, is checked later."""
        waits, elsewhere = (
            {
                (record[5], record[6])
                for partition in partitions
                for journal in partition.journals.values()
                for _, record in records(journal)
                if record[1] == b"wait"
            }
            for partitions in ([home], self.all.partitions.values() if home.subs else ())
        )
        for topic, members in home.subs.items():
            for member, position in members.items():
                if member == b"g":
                    if b"w" + topic not in home.errands:
                        yield f"topic {show(topic)} has {show(position)} to receive, but nothing delivers it"
                    continue
                who = f"topic {show(topic)} has the subscriber {show(member)}"
                found = _POSITION.fullmatch(position)
                if found is None or (found[2] and member[:1] != b"f"):
                    yield f"{who} at {show(position)}, which is not a stream position"
                elif found[2] and b"w" + topic not in home.errands:
                    yield f"{who}, which is to receive {show(found[2])}, but nothing delivers it"
                if member[:1] == b"w" and (topic, member) not in waits:
                    yield f"{who}, which does not wait"
                checked = b"s%d %s%s" % (len(topic), topic, member) in home.errands or _delivers(home, topic)
                if member[:1] == b"f" and (topic, member) not in elsewhere and not checked:
                    yield f"{who}, which does not wait, and nothing checks that"

    # --- what starts executions -----------------------------------------------------------

    def _triggers(self, home: Partition) -> Iterator[str]:
        """Events that a workflow has yet to receive have an errand."""
        for topic, members in home.subs.items():
            newest = max((order(entry) for entry, _ in home.topics.get(topic, ())), default=(0, 0))
            for member, position in members.items():
                if member[:1] == b"t" and newest > order(position) and b"e" + topic not in home.errands:
                    yield f"topic {show(topic)} has events for {show(member[1:])} that nothing delivers"

    def _failed_errands(self, home: Partition) -> Iterator[str]:
        """An errand that has failed is stored, and one that was set aside has failed."""
        for errand in home.errand_failures.keys() - home.errands.keys():
            yield f"errand {show(errand)} has failed but is not stored"
        for errand, due in home.errands.items():
            if isinf(due) and errand not in home.errand_failures:
                yield f"errand {show(errand)} was set aside but has not failed"

    def _schedules(self, home: Partition) -> Iterator[str]:
        """A schedule that is not paused has an errand for its next tick."""
        for name, packed in home.schedules.items():
            stored, who = msgpack.unpackb(packed), f"schedule {show(name)}"
            if self.all.home(name) is not home:
                yield f"{who} is not in its partition"
            if stored["paused"] != (stored["next"] is None):
                yield f"{who} has paused={stored['paused']} but its next tick is {stored['next']}"
            if (b"k" + name in home.errands) == stored["paused"]:
                yield f"{who} has paused={stored['paused']}, and its errand says otherwise"
        for errand in home.errands:
            if errand[:1] == b"k" and errand[1:] not in home.schedules:
                yield f"errand {show(errand)} is for a missing schedule"


def _was_retried(partition: Partition, execution_id: bytes) -> bool:
    """Whether an execution, or a descendant below an ended one, has been retried."""
    fields = partition.executions.get(execution_id, {})
    return fields.get(b"run", b"1") != b"1" or (
        fields.get(b"status") not in UNFINISHED
        and any(_was_retried(partition, child) for child in partition.children.get(execution_id, ()))
    )


def _was_ended(fields: dict[bytes, bytes]) -> bool:
    """Whether an execution was ended from outside, by a cancel or its run timeout."""
    timed_out = b"WorkflowTimeoutError" in fields.get(b"error", b"")
    return fields.get(b"status") == b"cancelled" or timed_out


def _grants(home: Partition, execution_id: bytes, semaphore: bytes) -> bool:
    """Whether an errand of the semaphore's partition grants an execution its slot."""
    return any(
        e.startswith(b"a" + execution_id + b" ") and e.endswith(b" " + semaphore) for e in home.errands
    )


def _delivers(home: Partition, topic: bytes) -> bool:
    """Whether an errand delivers the topic's events to those who wait for one."""
    return b"w" + topic in home.errands


def _since_run(fields: dict[bytes, bytes]) -> int:
    """The run that an execution's journal begins with; a fork has that of where it is from."""
    if b"forked_from" in fields.get(b"origin", b""):
        return Origin.unpack("", fields[b"origin"]).since_run
    return int(fields.get(b"since", 1))
