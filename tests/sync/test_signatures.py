"""`polos_redis.sync` has what `polos_redis` has for clients, with the same parameters."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import FunctionType
from typing import Any

import pytest

import polos_redis
from polos_redis import sync
from polos_redis.connection.connection import Connection

RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__", "__await__": "load"}
# The stored state below the client: for asynchronous code only.
INNER = {"session", "store", "acknowledging_store", "wait_for_end"}
CLASSES = [
    (polos_redis.PolosClient, sync.PolosClient),
    (Connection, sync.PolosClient),
    (polos_redis.ExecutionHandle, sync.ExecutionHandle),
]


def _public_methods(of: type) -> list[tuple[str, Any]]:
    return [
        (name, method)
        for name, method in vars(of).items()
        if isinstance(method, FunctionType) and (not name.startswith("_") or name in RENAMED)
        if name not in INNER
    ]


METHODS = [
    pytest.param(method, getattr(ours, RENAMED.get(name, name), None), id=f"{theirs.__name__}.{name}")
    for theirs, ours in CLASSES
    for name, method in _public_methods(theirs)
]
FUNCTIONS = [
    pytest.param(vars(theirs)[name], vars(ours).get(name), id=f"{theirs.__name__}.{name}")
    for theirs, ours in (
        (import_module(f"polos_redis.{name}"), import_module(f"polos_redis.sync.{name}"))
        for name in ("events", "schedules", "apikeys")
    )
    for name in theirs.__all__
]


def _parameters(function: Any) -> list[tuple[str, Any, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default, one.annotation) for one in found]


def test_there_are_methods_to_compare() -> None:
    assert len(METHODS) > 15
    assert len(FUNCTIONS) > 15


@pytest.mark.parametrize(("theirs", "ours"), METHODS)
def test_a_method_takes_what_the_asynchronous_one_takes(theirs: Any, ours: Any) -> None:
    assert ours is not None, f"polos_redis.sync lacks {theirs.__qualname__}"
    assert _parameters(ours) == _parameters(theirs)
    assert not inspect.iscoroutinefunction(ours)
    assert inspect.getdoc(ours) or theirs.__name__.startswith("__")


@pytest.mark.parametrize(("theirs", "ours"), FUNCTIONS)
def test_a_module_has_what_the_asynchronous_one_has(theirs: Any, ours: Any) -> None:
    if inspect.isclass(theirs):
        assert ours is theirs
        return
    assert ours is not None, f"polos_redis.sync lacks {theirs.__module__}.{theirs.__name__}"
    assert _parameters(ours) == _parameters(theirs)
    assert not inspect.iscoroutinefunction(ours)


def test_the_options_of_the_clients_are_the_same() -> None:
    assert _parameters(sync.PolosClient.__init__) == _parameters(Connection.__init__)
    assert polos_redis.PolosClient.__init__ is Connection.__init__


@pytest.mark.parametrize("name", ["id", "workflow_id", "root_workflow_id", "root_execution_id"])
def test_a_handle_has_the_attributes_of_the_asynchronous_one(name: str) -> None:
    client = sync.PolosClient("redis://127.0.0.1:1/0")
    handle = client.get_handle("abc")
    assert getattr(handle, name) == getattr(polos_redis.PolosClient().get_handle("abc"), name)
    assert set(vars(handle._handle)) - {"_connection"} <= set(dir(handle))
