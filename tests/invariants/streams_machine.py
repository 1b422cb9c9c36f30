"""Rules for streams: reserved ones, those of followers, and the executions that begin with a part of a
journal."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from polos_redis.state import keys
from tests.harness.desk import RETENTION, packed
from tests.invariants.machine import RETRIES, STEPS, Machine, consumers, indices, rarely
from tests.invariants.model import Execution

VERSIONS = ("", "2", "3")  # of workflow code; none for workers that don't know the workflow
ORIGIN = packed({"span": "s"})

limits = st.sampled_from((1, 2, 100))


class StreamsMachine(Machine):
    """The base machine's executions, which move to reserved streams, are forked and followed as well."""

    # --- reserved streams ---------------------------------------------------------------

    @precondition(lambda self: self.undelivered())
    @rule(consumer=consumers, version=st.sampled_from(VERSIONS))
    def reserve(self, consumer: str, version: str) -> None:
        """A worker moves what it may not run to a reserved stream: of a version, or of the workflow."""
        place = self.read_entry(consumer, True)
        (one,) = (one for one in self.model.unfinished() if one.entry and one.place == place)
        stream = keys.reserved_stream(keys.DEFAULT_QUEUE, "wf", version)
        args: tuple[Any, ...] = ("reserve", *self.entry_of(one), stream, *([version] if version else []))
        if one.queue == stream:
            return  # it is there already
        if version and one.started and not one.forked:
            with self.desk.unchanged():
                assert self.desk.run(*args) == 2
            return
        assert self.call(*args) == 1
        del self.pending[one.place]
        self.model.reserve(one, stream, version)

    def streams(self) -> list[str]:
        """The reserved streams that executions are in, or wait for, or workers read."""
        used = {one.queue for one in self.model.unfinished()} | self.model.readers.keys()
        return sorted(used - {keys.DEFAULT_QUEUE})

    @precondition(lambda self: self.streams())
    @rule(index=indices, consumer=consumers, limit=limits)
    def serve(self, index: int, consumer: str, limit: int) -> None:
        """A worker begins to read a reserved stream; or comes for the rest of its executions."""
        stream = self.streams()[index % len(self.streams())]
        self.serve_stream(stream, consumer, limit)

    @precondition(lambda self: self.streams())
    @rule(index=indices, consumer=consumers, script=st.sampled_from(("leave_stream", "prune_consumer")))
    def leave_stream(self, index: int, consumer: str, script: str) -> None:
        """A worker does not read a reserved stream any more, unless it holds entries."""
        self.leave(self.streams()[index % len(self.streams())], consumer, script)

    def leave(self, stream: str, consumer: str, script: str = "leave_stream") -> None:
        args = (script, stream, consumer, *([""] if script == "prune_consumer" else []))
        if self.held_by(consumer).get(stream):
            with self.desk.unchanged():
                assert self.desk.run(*args) == 0
        else:
            assert self.desk.run(*args) == 1
            self.model.readers.get(stream, set()).discard(consumer)

    @precondition(lambda self: self.streams())
    @rule(index=indices, limit=limits, emptied=st.booleans())
    def close_stream(self, index: int, limit: int, emptied: bool) -> None:
        """The reaper takes executions off a reserved stream, once no worker reads it."""
        stream = self.streams()[index % len(self.streams())]
        for consumer in sorted(self.model.readers.get(stream, ())) if emptied else ():
            self.hand_back(consumer, True)
            self.the_state_equals_the_models()
            self.leave(stream, consumer)
        if self.model.readers.get(stream):
            with self.desk.unchanged():
                assert self.desk.run("close_stream", stream, limit) == 0
            return
        more = self.desk.run("close_stream", stream, limit)
        assert more == self.model.close_stream(stream, limit)
        if not more:
            self.model.readers.pop(stream, None)
            assert not self.desk.do("EXISTS", keys.QUEUE + stream)

    # --- followers ----------------------------------------------------------------------

    @rule(index=indices, early=rarely)
    def follow_stream(self, index: int, early: bool) -> None:
        """Somebody follows an execution, or one that is not there yet."""
        roots = [one for one in self.model.executions.values() if "." not in one.id]
        if early or not roots:
            assert self.desk.run("follow", f"{self.made + 1:032x}", RETENTION) == 0
        else:
            assert self.call("follow", roots[index % len(roots)].id, RETENTION) == 1

    @precondition(lambda self: self.writer(0))
    @rule(
        index=indices,
        found=st.sets(st.sampled_from(STEPS + RETRIES)),
        told=st.booleans(),
        first=st.booleans(),
    )
    def note_starts(self, index: int, found: set[str], told: bool, first: bool) -> None:
        """Steps run for a while."""
        by = self.writer(index)
        running = self.attempts_at(by, found) if by is not None else {}
        if by is None:
            return
        steps = packed([(key, attempt, 0, told) for key, attempt in running.items()])
        reply = self.write(by, False, "note_starts", steps, int(first))
        if reply is not None:
            self.called.pop()  # it may come again, and stores another time then
            self.model.executions[by.id].running = running
            self.learn_changes(by, False)

    @precondition(lambda self: self.writer(0))
    @rule(index=indices)
    def note_span(self, index: int) -> None:
        """An activation that is about to end notes its span."""
        by = self.writer(index)
        if by is None:
            return
        one = self.model.executions.get(by.id)
        args = ("note_span", by.id, by.entry, by.owner, ORIGIN)
        if one is None or one.fence(by) == -1:
            with self.desk.unchanged():
                assert self.desk.run(*args) == -1
        else:
            assert self.call(*args) == 0
            one.origin = ORIGIN

    # --- forks --------------------------------------------------------------------------

    @precondition(lambda self: self.model.executions)
    @rule(index=indices, unanswered=st.booleans())
    def fork(self, index: int, unanswered: bool) -> None:
        """An execution begins with what another one has: its steps, and its answers if they are kept."""
        self.fork_one(index, unanswered, {})

    def fork_one(self, index: int, unanswered: bool, options: dict[str, Any]) -> None:
        source = self.pick(index, finished=None)
        if source is None or len(self.model.unfinished()) >= self.many:
            return
        self.made += 1
        one = Execution(f"{self.made:032x}", started=True, forked=True)
        one.semaphore = options.get("semaphore", "")
        kept = ("ok",) if unanswered else ("ok", "answered")
        for key, status in source.journal.items():
            if status in kept and "race" not in key:
                one.put(key, status)
                if key in source.decisions:
                    one.decisions[key] = dict(source.decisions[key])
                if key in source.marks:
                    one.marks[key] = source.marks[key]
        stored = self.stored[source.id]
        flat = [part for key in one.journal for part in (key, stored[key.encode()])]
        answered = [(key, "ann", "why") for key, status in one.journal.items() if status == "answered"]
        given = packed(options) if options else b""
        assert self.call("fork", one.id, "wf", b"in", RETENTION, given, b"\x80", packed(answered), *flat) == 1
        self.model.create(one)
