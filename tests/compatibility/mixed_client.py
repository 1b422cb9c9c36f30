"""A client of either release, in a process of its own: it reads calls and prints what they return, each as a
line of JSON.

Each release runs its own copy of this file, in a folder outside the repository, so it uses only what both
releases have.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from polos_redis import EventData
from polos_redis.errors import PolosError
from polos_redis.sync import PolosClient, events

TIMEOUT = 60.0
flows: Any = importlib.import_module("mixed_flows")  # the copy beside this file


def invoke(client: PolosClient, flow: str, **options: Any) -> str:
    """Returns the id."""
    return client.invoke(flows.FLOWS[flow], flows.INPUTS.get(flow), **options).id


def result(client: PolosClient, id: str) -> str:
    """Returns the result as Python shows it, types included."""
    return repr(client.get_handle(id).result(timeout=TIMEOUT))


def resume(client: PolosClient, id: str, step_key: str, data: Any, **options: Any) -> str:
    """Returns the outcome."""
    return client.resume(suspend_execution_id=id, suspend_step_key=step_key, data=data, **options).outcome


def retry(client: PolosClient, id: str, **options: Any) -> None:
    client.retry(id, **options)


def cancel(client: PolosClient, id: str, **options: Any) -> None:
    client.cancel(id, **options)


def publish(client: PolosClient, topic: str, data: Any) -> None:
    events.publish(client, topic, EventData("arrived", data))


def stream(client: PolosClient, id: str) -> list[Any]:
    """Returns the events of an execution that ends."""
    handle = client.get_handle(id).load()
    found = events.stream_workflow(client, handle.root_workflow_id, id)
    return [[one.id, one.sequence_id, one.topic, one.event_type, one.data] for one in found]


def execution(client: PolosClient, id: str) -> Any:
    return client.get_execution(id)


def executions(client: PolosClient) -> Any:
    return list(client.list_executions(limit=1000))


def suspensions(client: PolosClient) -> Any:
    return list(client.list_suspensions(limit=1000))


def audit(client: PolosClient, id: str) -> Any:
    return list(client.audit(id))


CALLS: dict[str, Callable[..., Any]] = {
    call.__name__: call
    for call in (
        *(invoke, result, resume, retry, cancel, publish, stream),
        *(execution, executions, suspensions, audit),
    )
}


def main() -> None:
    with PolosClient() as client:
        print("ready", flush=True)
        for line in sys.stdin:
            name, arguments, options = json.loads(line)
            try:
                reply = {"value": CALLS[name](client, *arguments, **options)}
            except PolosError as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(reply, default=str), flush=True)


if __name__ == "__main__":
    main()
