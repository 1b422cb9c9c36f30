"""Snapshots of journals, read from Redis directly while executions run and once more at the end."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import redis

from polos_redis.state import keys
from polos_redis.state.journal import is_result
from polos_redis.wire.cluster import slot_of
from polos_redis.wire.urls import parse
from tests.chaos.effects import EffectsFile
from tests.chaos.history import Fields, History, Snapshot, Streamed, root_of
from tests.invariants.state import FINISHED, Partition, RawConnection, record_of, text

LOOK_SECONDS = 0.3
AT_ONCE = 40
RESULT = "result"  # the kind of a child's result
# Which items of a record hold its outcome; of a step all do.
_OUTCOME = {"suspend": (6, 8), "wait": (7, 8, 9), "child": (4,), "race": (4,)}


class Watch:
    """Takes snapshots of the executions that were at work lately, and of some that were before."""

    def __init__(
        self, url: str, namespace: str, partitions: int, history: History, effects: EffectsFile
    ) -> None:
        self._url, self._namespace, self._partitions = url, namespace, partitions
        self._history, self._effects = history, effects
        self._live: dict[str, None] = {}  # by the time of their last effect
        self._last: dict[str, Snapshot] = {}

    async def run(self) -> None:
        while True:
            for effect in await asyncio.to_thread(self._effects.read):
                if effect.what != "notified":
                    self._live.pop(effect.execution_id, None)
                    self._live[effect.execution_id] = None
            try:
                snapshots = await asyncio.to_thread(self._read, self._chosen())
            except (redis.RedisError, OSError):
                snapshots = []  # the server is away
            for snapshot in snapshots:
                self._keep(snapshot)
            await asyncio.sleep(LOOK_SECONDS)

    def _chosen(self) -> list[str]:
        """Half of them the latest, half of them the oldest, which go to the end of the line."""
        live = list(self._live)
        oldest = live[: AT_ONCE // 2]
        for execution_id in oldest:
            del self._live[execution_id]
            self._live[execution_id] = None
        return list(dict.fromkeys([*oldest, *live[-AT_ONCE // 2 :]]))

    def _keep(self, snapshot: Snapshot) -> None:
        last = self._last.get(snapshot.execution_id)
        same = last and (last.status, last.run, last.records) == (
            snapshot.status,
            snapshot.run,
            snapshot.records,
        )
        if not same:
            self._history.snapshots.append(snapshot)
            self._last[snapshot.execution_id] = snapshot
        if snapshot.status.encode() in FINISHED:
            self._live.pop(snapshot.execution_id, None)

    def _read(self, execution_ids: list[str]) -> list[Snapshot]:
        by_partition: dict[int, list[str]] = {}
        for execution_id in execution_ids:
            partition = keys.partition_of(root_of(execution_id), self._partitions)
            by_partition.setdefault(partition, []).append(execution_id)
        found = []
        with ExitStack() as stack:
            owners: dict[str, RawConnection] = {}
            for partition, some in by_partition.items():
                prefix = keys.prefix(self._namespace, partition)
                url = self._owner(prefix)
                if url not in owners:
                    owners[url] = stack.enter_context(RawConnection(url))
                found += self._snapshots(owners[url], prefix, some)
        return found

    def _owner(self, prefix: str) -> str:
        """The URL of the server that has a partition."""
        target = parse(self._url)
        if target.kind == "server":
            return self._url
        for seed in target.seeds:
            try:
                with RawConnection(seed) as connection:
                    for first, last, (host, port, *_), *_ in connection.do("CLUSTER", "SLOTS"):
                        if first <= slot_of(prefix.encode()) <= last:
                            return str(target.server(host.decode(), port))
            except (redis.RedisError, OSError):
                continue
        raise redis.ConnectionError("no node answers")

    def _snapshots(self, connection: RawConnection, prefix: str, some: Iterable[str]) -> list[Snapshot]:
        some = list(some)
        commands: list[tuple[Any, ...]] = []
        for execution_id in some:
            commands += [
                ("HMGET", f"{prefix}exec:{execution_id}", "status", "run", "since"),
                ("HGETALL", f"{prefix}journal:{execution_id}"),
            ]
        replies = connection.together(commands)
        at = time.monotonic()
        found = []
        for execution_id, fields, flat in zip(some, replies[::2], replies[1::2], strict=True):
            for reply in (fields, flat):
                if isinstance(reply, Exception):
                    raise reply
            if fields[0] is not None:
                journal = dict(zip(flat[::2], flat[1::2], strict=True))
                status = fields[0].decode()
                run, since = int(fields[1]), int(fields[2] or 1)
                found.append(Snapshot(at, execution_id, status, run, fields_of(journal), since))
        return found


def fields_of(journal: dict[bytes, bytes]) -> dict[str, Fields]:
    """What matters of each record: its kind, its status, and a digest of its outcome."""
    found: dict[str, Fields] = {}
    for key, packed in journal.items():
        if is_result(key):
            found[f"result {key[1:].hex()}"] = (RESULT, "done", _digest(packed))
        elif key and (record := record_of(packed)):
            kind, status = record[1].decode(), record[2].decode()
            outcome = [record[at] for at in _OUTCOME[kind]] if kind in _OUTCOME else record
            found[text(key)] = (kind, status, _digest(repr(outcome).encode()))
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def final_snapshots(partitions: Iterable[Partition]) -> dict[str, Snapshot]:
    """The journals of all executions at the end."""
    at, found = time.monotonic(), {}
    for partition in partitions:
        for execution_id, fields in partition.executions.items():
            journal = fields_of(partition.journals.get(execution_id, {}))
            name, status = execution_id.decode(), fields[b"status"].decode()
            run, since = int(fields[b"run"]), int(fields.get(b"since", 1))
            found[name] = Snapshot(at, name, status, run, journal, since)
    return found


def final_streams(partitions: Iterable[Partition]) -> dict[str, list[Streamed]]:
    """The events of all topics at the end, in order."""
    at, found = time.monotonic(), {}
    for partition in partitions:
        for topic, entries in partition.topics.items():
            name = text(topic)
            found[name] = [
                Streamed(at, "", name, f"{entry.decode()}.{index}", 0, text(kind).partition("\0")[0], "")
                for entry, flat in entries
                for index, kind in enumerate(flat[::2])
            ]
    return found
