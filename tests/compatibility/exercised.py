"""The surfaces that only a run shows: what commands print, their exit codes, events, and logs of workers.

Commands run against a real server and a real worker process, with executions in every state.
"""

from __future__ import annotations

import json
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polos_redis import EventData
from polos_redis.cli.exit_codes import BLOCKED, TOO_OLD
from polos_redis.results import ExecutionSummary
from polos_redis.state import keys
from polos_redis.sync import PolosClient, events
from polos_redis.values import codec
from tests import ROOT
from tests.compatibility.flows import DEPLOYED, GATE, PROMPT, TOPIC
from tests.compatibility.shapes import shape
from tests.compatibility.snapshots import THING
from tests.harness.command import POLOS, Command, Running
from tests.harness.model_process import model_process

FLOWS = "tests.compatibility.flows"
DEADLINE = 60.0
SCRIPT = [
    {"say": "Let me see.", "tool_calls": [{"name": "look"}], "when": {"prompt": PROMPT, "round": 0}},
    {"say": "It is gone.", "when": {"prompt": PROMPT, "round": 1}},
]

OF_KEYS = ("suspend_", "resume_", "timeout_", "decision_")  # events named after a step key
COMMON = {"time", "level", "logger", "message"}

Surface = dict[str, dict[str, str]]


def exercise(url: str, namespace: str, folder: Path) -> dict[str, Surface]:
    """Runs everything in a namespace that has one partition; returns the surfaces by name."""
    script = folder / "script.json"
    script.write_text(json.dumps(SCRIPT))
    with model_process(script, folder / "model.log") as model, PolosClient(url, namespace) as client:
        run = _Run(url, namespace, folder, client)
        run.polos.environment |= {"OPENAI_BASE_URL": model, "OPENAI_API_KEY": "none"}
        run.everything()
        return run.surfaces()


def _has_progress(execution: ExecutionSummary) -> bool:
    return any(step.progress_at for step in execution.running_steps)


class _Run:
    """One run of everything, and what it has seen."""

    def __init__(self, url: str, namespace: str, folder: Path, client: PolosClient) -> None:
        self.polos = Command(url, namespace, folder)
        self.polos.environment |= {
            "PYTHONPATH": str(ROOT),
            "POLOS_LEASE_SECONDS": "1.5",
            "POLOS_PARTITIONS": "1",
            "POLOS_PUBLIC_URL": "https://polos.example.com",
            "POLOS_SECRET": "x" * 32,
        }
        self.folder = folder
        self.client = client
        self.printed: defaultdict[str, list[Any]] = defaultdict(list)
        self.codes: defaultdict[str, dict[str, str]] = defaultdict(lambda: {THING: "command"})
        self.events: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []

    def everything(self) -> None:
        with self.polos.start(POLOS, "worker", FLOWS, "--json") as worker:
            worker.wait_for("worker ready")
            self._orders()
            self._failures()
            self._changed_code()
            self._running()
            self._continuing()
            self._agent()
            self._early_answer()
            self._namespace()
            worker.signal(signal.SIGTERM)
            self._left("polos worker", "SIGTERM", worker.wait())
            self.logged = [json.loads(line) for line in worker.err.splitlines()]
        self._left("polos worker", "the event loop was blocked for too long", BLOCKED)
        self._left("polos worker", "the namespace needs a newer release", TOO_OLD)
        self._without_namespace()

    # --- commands ---

    def _json(self, *command: str) -> Any:
        """Runs a command with --json; keeps and returns what it prints."""
        done = self.polos.here(*command, "--json")
        assert done.code == 0, (command, done.err)
        found = done.json
        self._keep(command, found)
        return found

    def _lines(self, *command: str, options: Sequence[str] = ("--json",)) -> list[Any]:
        """Like `_json`, of a command that prints one value per line."""
        done = self.polos.here(*command, *options)
        assert done.code == 0, (command, done.err)
        found = [json.loads(line) for line in done.out.splitlines()]
        for value in found:
            self._keep(command, value)
        return found

    def _keep(self, command: Iterable[str], value: Any) -> None:
        self.printed[self._name(command)].append(value)

    def _name(self, command: Iterable[str]) -> str:
        first, *others = command
        return f"polos {first} {others[0]}" if first in ("keys", "schedules", "errands") else f"polos {first}"

    def _left(self, command: str, when: str, code: int) -> None:
        self.codes[command][when] = str(code)

    def _exits(self, when: str, *command: str) -> None:
        self._left(self._name(command), when, self.polos.here(*command).code)

    def _until(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + DEADLINE
        while not (found := condition()):
            assert time.monotonic() < end, f"timed out waiting for {what}"
            time.sleep(0.02)
        return found

    def _reach(self, execution_id: str, status: str) -> Any:
        def there() -> Any:
            found = self.client.get_execution(execution_id)
            assert found.error is None or status in ("failed", "paused"), found.error
            return found if found.status == status else None

        return self._until(there, f"status {status} of {execution_id}")

    def _open(self, execution_id: str, *step_keys: str) -> None:
        """Waits until suspensions are open and the execution has parked."""

        def there() -> bool:
            found = self.client.get_execution(execution_id)
            assert found.error is None, found.error
            opened = {one.step_key for one in found.open_suspensions}
            return found.status == "waiting" and opened >= {*step_keys}

        self._until(there, f"{step_keys} of {execution_id}")

    def _invoke(self, workflow: str, *options: str) -> str:
        return str(self._json("invoke", f"frozen-{workflow}", *options)["id"])

    # --- what happens ---

    def _orders(self) -> None:
        """Orders that wait for people, a child and an event; one goes on to its end, one is cancelled."""
        given = '{"item": "lamp", "amount": 5}'
        first = self._invoke("order", "--input", given, "--user", "eve", "--session", "s1")
        second = self._invoke("order", "--input", given)
        with self._following("tail", "--topic", f"{TOPIC}/{first}") as tail:
            for one in (first, second):
                self._open(one, "review")
            self._json("show", first)
            (child,) = self._until(lambda: self.client.get_execution(first).children, "its child")
            self._open(child.id, "count")
            self._json("show", first)
            for listing in ("list", "suspensions", "versions", "queues", "top"):
                self._json(listing)
            self._json("list", "--limit", "1")
            self._json("suspensions", "--limit", "1")
            self._exits("refused", "resume", first, "review", "--data", "5", "--by", "ann")
            self._exits("refused", "retry", first)
            self._json("link", first, "review", "--for", "ann", "--group", "staff")
            self._json("resume", first, "ship", "--approve", "--early", "--by", "cyd")
            self._json("show", first)
            for name in ("ann", "bob"):
                self._json("resume", first, "review", "--approve", "--by", name)
                self._json("show", first)
            self._json("resume", child.id, "count", "--data", '"one"')
            events.publish(self.client, f"{TOPIC}/{first}", EventData("arrived", {"item": "lamp"}))
            tail.wait_for('"lamp"')
        for line in tail.out.splitlines():
            self._keep(("tail",), json.loads(line))
        self._reach(first, "completed")
        self._json("show", first)
        self._json("audit", first)
        fork = self._json("fork", first, "--from", "ship", "--keep-decisions", "--by", "ann")["id"]
        self._open(fork, "ship")
        self._json("show", fork)
        self._json("audit", fork)
        self._json("cancel", fork)
        self._json("cancel", second, "--by", "ann")
        self._json("show", second)
        for one in (first, second, child.id):
            self.events += self._lines("events", one)
        for line in self._lines("export", first, second, "--children", options=()):
            assert line["polos_history"]
        done = self._json("invoke", "frozen-order", "--input", given, "--idempotency-key", "k")
        self._json("cancel", done["id"])
        self._json("delete", first, "--yes")

    @contextmanager
    def _following(self, *command: str) -> Iterator[Running]:
        with self.polos.start(POLOS, *command, "--json") as process:
            process.wait_for("following")
            yield process
            process.signal(signal.SIGINT)
            self._left(f"polos {command[0]}", "Ctrl-C", process.wait())

    def _failures(self) -> None:
        one = self._invoke("failing")
        self._reach(one, "failed")
        self._json("show", one)
        self.events += self._lines("events", one)
        self._json("retry", one, "--by", "ann")
        self._reach(one, "failed")
        self._json("list", "--status", "failed")
        done = self.polos.here("invoke", "frozen-failing", "--wait", "--json")
        self._keep(("invoke", "--wait"), done.json)
        self._left("polos invoke", "--wait, and the execution fails", done.code)
        done = self.polos.here("invoke", "frozen-daily", "--wait", "--json")
        self._left("polos invoke", "--wait, and the execution completes", done.code)
        self._exits("--wait, and --timeout passes", "invoke", "nobody", "--wait", "--timeout", "0.1")
        one = self._invoke("paused")
        self._reach(one, "paused")
        self._json("show", one)
        self._json("cancel", one)
        self.events += self._lines("events", one)

    def _changed_code(self) -> None:
        one = self._invoke("changed")
        self._open(one, "review", "other")
        self._json("resume", one, "review", "--reject", "--reason", "no", "--by", "ann")
        self._until(lambda: self.client.get_execution(one).status == "waiting", "its park")
        (self.folder / DEPLOYED).touch()
        self._json("resume", one, "other", "--approve")
        self._reach(one, "stuck")
        self._json("show", one)
        self._json("list")
        exported = self.polos.run("export", one)
        (self.folder / "one.jsonl").write_text(exported.out)
        done = self.polos.run("replay", FLOWS, "one.jsonl", "--json")
        self._keep(("replay",), done.json)
        self._left("polos replay", "the code diverges", done.code)
        self._json("retry", one, "--skip", "review", "--reason", "it was for the old code", "--by", "ann")
        self._reach(one, "completed")
        self._json("show", one)
        self._json("audit", one)
        self.events += self._lines("events", one)

    def _running(self) -> None:
        one, other = self._invoke("running"), self._invoke("running")
        found = self._until(
            lambda: next((x for x in self.client.list_executions() if _has_progress(x)), None),
            "the progress of a step",
        )
        waiting = other if found.id == one else one
        self._until(lambda: self.client.get_execution(waiting).ahead is not None, "the other in the line")
        for command in (("show", one), ("show", other), ("list",), ("queues",)):
            self._json(*command)
        with self._following("tail", found.id) as tail:  # events of progress are for those who follow
            tail.wait_for("step_progress")
        (self.folder / GATE).touch()
        for execution_id in (one, other):
            self._reach(execution_id, "completed")
            self.events += self._lines("events", execution_id)

    def _continuing(self) -> None:
        one = self._invoke("continuing", "--input", "1")
        for page in (1, 2):
            self._open(one, f"page-{page}")
            self._json("resume", one, f"page-{page}", "--approve")
        self._reach(one, "completed")
        self._json("show", one)
        self.events += self._lines("events", one)

    def _agent(self) -> None:
        one = self._invoke("agent", "--input", json.dumps(PROMPT))
        self._reach(one, "completed")
        self._json("show", one)
        self.events += self._lines("events", one)

    def _early_answer(self) -> None:
        """An early answer that can't be read: the errand that checks it fails."""
        one = self._invoke("order", "--input", '{"item": "lamp", "amount": 5}')
        self._open(one, "review")
        self._json("resume", one, "ship", "--approve", "--early", "--by", "cyd")
        with self._damaged(one, "ship"):
            (child,) = self.client.get_execution(one).children
            self._json("resume", child.id, "count", "--data", "1")
            events.publish(self.client, f"{TOPIC}/{one}", EventData("arrived", None))
            for name in ("ann", "bob"):
                self._json("resume", one, "review", "--approve", "--by", name)

            def has_failed() -> bool:  # while it is tried again, it has no error
                (listed,), (shown,) = (
                    self._json("errands", "list") or [{}],
                    self._json("show", one)["early_answers"],
                )
                return bool(listed.get("error") and shown["errand"] and shown["errand"]["error"])

            self._until(has_failed, "a failed errand")
            # One that is being tried is not retried.
            self._until(lambda: self._json("errands", "retry", "--all")["retried"], "a retried errand")
        self._until(lambda: self._is_completed(one), "its end")

    def _is_completed(self, execution_id: str) -> bool:
        self._json("errands", "retry", "--all")  # the last attempt may have met the damaged answer
        return self.client.get_execution(execution_id).status == "completed"

    @contextmanager
    def _damaged(self, execution_id: str, step_key: str) -> Iterator[None]:
        """Breaks an early answer for a while."""
        name = keys.EARLY.encode() + execution_id.encode()

        def swap(value: bytes) -> bytes:
            async def call(client: Any) -> bytes:
                store = await client.store()
                key = store.partitions.prefix(execution_id) + name
                found: bytes = await store.wire.call("HGET", key, step_key)
                await store.wire.call("HSET", key, step_key, value)
                return found

            return self.client.call(call)

        sound = swap(codec.encode("damaged"))
        yield
        swap(sound)

    def _namespace(self) -> None:
        """What a namespace has besides executions."""
        for delay in ((), ("--delay", "3600")):
            queued = self._json("invoke", "nobody", *delay)["id"]
            self._json("show", queued)
            self._json("list")
            self._json("cancel", queued)
        options = ("--scope", "read", "--group", "staff", "--days", "9", "--workflow", "frozen-order")
        key = self._json("keys", "create", "shop", *options)
        self._json("keys", "revoke", key["id"])
        self._json("keys", "list")
        (schedule,) = self._json("schedules", "list")["schedules"]
        for action in ("pause", "resume", "delete"):
            self._json("schedules", action, schedule["id"])
        self._until(lambda: self._json("workers")[0]["up_seconds"] is not None, "a renewed lease")
        self._json("top")
        done = self.polos.here("doctor", "--json")
        self._keep(("doctor",), done.json)

    def _without_namespace(self) -> None:
        unknown = "0" * 32
        options = {"resume": ["--approve"], "fork": ["--from", "one"], "delete": ["--yes"]}
        for command in (
            "audit",
            "cancel",
            "delete",
            "events",
            "export",
            "fork",
            "resume",
            "retry",
            "show",
            "tail",
        ):
            more = options.get(command, ())
            self._exits("there is no such execution", command, unknown, *more)
        for wrong in (
            ("show",),
            ("list", "--status", "asleep"),
            ("resume", unknown),
            ("invoke", "x", "--input", "{"),
            ("dev", "none.py"),
            ("replay", "none.py", unknown),
            ("worker", "none.py"),
        ):
            self._exits("wrong usage", *wrong)
        self._exits("Redis is unreachable", "list", "--url", "redis://127.0.0.1:1", "--patience", "0.1")
        self._exits("a problem was found", "doctor", "--url", "redis://127.0.0.1:1", "--patience", "0.1")
        none = self.polos.run("worker", "json")  # sets up logging
        self._left("polos worker", "the module defines no workflow", none.code)
        demo = self.polos.run("demo", "--approve", "--json")
        assert demo.code == 0, demo.err
        self._keep(("demo",), demo.json)
        with self.polos.start(POLOS, "dev", FLOWS, "--port", "0", "--json") as dev:
            dev.wait_for('"inbox"')
            self._keep(("dev",), json.loads(dev.out.splitlines()[0]))
            dev.signal(signal.SIGINT)
            self._left("polos dev", "Ctrl-C", dev.wait())

    # --- what was seen ---

    def surfaces(self) -> dict[str, Surface]:
        return {
            "outputs": {command: shape(values) for command, values in self.printed.items()},
            "exit_codes": dict(self.codes),
            "events": self._events(),
            "logs": self._logs(),
        }

    def _events(self) -> Surface:
        """The fields of each type of event; `KEY` stands for a step key."""
        found: defaultdict[str, list[Any]] = defaultdict(list)
        for event in self.events:
            kind, data = event["event_type"], event["data"]
            if kind.startswith(OF_KEYS):
                kind = f"{kind.partition('_')[0]}_KEY"
            if kind == "suspend_KEY":  # what the workflow shows, with fields of ours
                data = (
                    {name: value for name, value in data.items() if name[0] == "_"}
                    if isinstance(data, dict)
                    else {}
                )
            found[kind].append(data)
        return {
            kind: shape(data, free=("arguments", "data", "progress", "result"))
            for kind, data in found.items()
        }

    def _logs(self) -> Surface:
        """The messages about executions: their levels, and the fields that each has besides those of all."""
        found: defaultdict[str, list[Any]] = defaultdict(list)
        for record in self.logged:
            if record["logger"] == "polos.execution":
                found[record["message"]].append({name: record[name] for name in record.keys() - COMMON})
        levels = {record["message"]: record["level"] for record in self.logged}
        every = shape({name: record[name] for name in COMMON} for record in self.logged)
        return {
            "every line": every,
            **{message: {**shape(fields), THING: levels[message]} for message, fields in found.items()},
        }
