"""Functions that take a client: another kind of client, or something else, is refused at the call."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from polos_redis import Agent, PolosClient, Workflow, WorkflowContext, sync
from polos_redis.connection.connection import Connection
from polos_redis.worker import Worker
from tests.compatibility.python_names import CREATED, MODULES

SYNC = sync.PolosClient("redis://127.0.0.1:1")
ASYNC = PolosClient("redis://127.0.0.1:1")
WITHOUT = CREATED | {"ExecutionHandle"}  # what clients make


async def _echo(ctx: WorkflowContext, input: Any) -> Any:
    return input


echo: Workflow[Any, Any] = Workflow(_echo, "arguments-echo")


def _taking_a_client() -> Iterator[tuple[str, Any]]:
    """Every public function, constructor and method whose first argument is a client."""
    for module in (*MODULES, "polos_redis.diagnosis", "polos_redis.server.app"):
        for name in getattr(import_module(module), "__all__", ["create_app"]):
            found = getattr(import_module(module), name)
            path = f"{module}.{name}"
            if inspect.isfunction(found) and _takes_a_client(found):
                yield path, found
            elif inspect.isclass(found) and name not in WITHOUT:
                for member, function in inspect.getmembers(found, inspect.isfunction):
                    if (member == "__init__" or member[0] != "_") and _takes_a_client(function):
                        yield f"{path}.{member}", function


def _takes_a_client(function: Any) -> bool:
    parameters = [one for name, one in inspect.signature(function).parameters.items() if name != "self"]
    return bool(parameters) and str(parameters[0].annotation) in ("PolosClient", "Connection")


FUNCTIONS = dict(_taking_a_client())
METHODS = {
    name: function for name, function in FUNCTIONS.items() if ".Workflow." in name or ".Agent." in name
}


def call(name: str, client: Any) -> Any:
    """Call a function with a client, and with as many other arguments as it needs."""
    function = FUNCTIONS[name]
    needed = [
        one
        for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self"
    ]
    if name in METHODS:
        owner: Any = echo if ".Workflow." in name else Agent(id="arguments-agent", model="gpt-4o")
        return function(owner, client, *["x" for _ in needed[1:]])
    if name.endswith(".__init__"):
        return Worker(client)
    return function(client, *["x" for _ in needed[1:]])


def test_there_are_functions() -> None:
    assert len(FUNCTIONS) > 20
    assert {name.rpartition(".")[2] for name in METHODS} == {"invoke", "run", "stream"}


@pytest.mark.usefixtures("empty_registry")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_client_of_the_other_kind_is_refused_at_once(name: str) -> None:
    wrong: Any = ASYNC if ".sync." in name else SYNC
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a coroutine that nobody awaits
        with pytest.raises(TypeError) as raised:
            call(name, wrong)
    said = str(raised.value)
    short = ".".join(name.removesuffix(".__init__").rsplit(".", 2)[-2:])
    if ".sync." in name:
        assert said == f"{name} takes a polos_redis.sync.PolosClient, not polos_redis.client.PolosClient"
    elif name.endswith(("create_app", "__init__")):
        assert said.endswith(" takes a polos_redis.PolosClient, not polos_redis.sync.PolosClient")
    else:
        how = "stream" if inspect.isasyncgenfunction(inspect.unwrap(FUNCTIONS[name])) else "call"
        assert " takes an asynchronous client: with a polos_redis.sync.PolosClient, use client." in said
        assert f"client.{how}({short[0].lower()}{short[1:]}, ...)" in said


@pytest.mark.usefixtures("empty_registry")
@pytest.mark.parametrize("wrong", [7, None, PolosClient, "redis://127.0.0.1:1"])
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if ".sync." not in name])
def test_what_is_no_client_is_refused_at_once(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError) as raised:
        call(name, wrong)
    assert str(raised.value).endswith(f" takes a polos_redis.PolosClient, not {type(wrong).__name__}")


def test_a_client_may_be_named_and_may_not_be_missing() -> None:
    run: Any = echo.run
    with pytest.raises(TypeError, match=r"^Workflow\.run takes an asynchronous client"):
        run(client=SYNC, input=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'client'"):
        run()


def test_a_synchronous_client_calls_asynchronous_functions(sync_client: sync.PolosClient) -> None:
    handle = sync_client.call(echo.invoke, 5)
    assert isinstance(handle._connection, Connection)
    sync_client.cancel(handle.id)
