"""The names that users import, in the places where users of Polos look for them."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

import polos_redis
from polos_redis import errors

COMPOSITION = (
    *("queue", "Queue", "BatchWorkflowInput", "BatchStepResult", "EventPayload", "BatchEventPayload"),
    *("SchedulePayload", "WorkflowState", "schedules", "Winner", "HookContext", "HookResult"),
)


@pytest.mark.parametrize("name", COMPOSITION)
def test_composition_names_are_at_top_level(name: str) -> None:
    assert name in polos_redis.__all__
    assert getattr(polos_redis, name) is not None


def test_a_star_import_brings_every_name() -> None:
    brought: dict[str, Any] = {}
    exec("from polos_redis import *", brought)
    assert set(polos_redis.__all__) <= brought.keys()
    assert polos_redis.__all__ == sorted(polos_redis.__all__, key=_as_ruff_sorts)


def _as_ruff_sorts(name: str) -> tuple[bool, str]:
    return not name[0].isupper(), name


def test_every_catchable_error_is_at_top_level() -> None:
    ours = {name for name, one in vars(errors).items() if inspect.isclass(one)}
    # base classes, and errors that never leave the library
    inner = {"ConnectionLostError", "StoredValueError"}
    assert {name for name in ours if name.endswith("Error")} - inner <= set(polos_redis.__all__)


@pytest.mark.parametrize("module", ["polos_redis.types", "polos_redis.features.events"])
def test_the_modules_match_the_package(module: str) -> None:
    found = import_module(module)
    public = vars(polos_redis.events) | {name: getattr(polos_redis, name) for name in polos_redis.__all__}
    for name in found.__all__:
        assert getattr(found, name) is public[name]


def test_the_modules_have_their_names() -> None:
    types, features = import_module("polos_redis.types"), import_module("polos_redis.features.events")
    assert {name for name in COMPOSITION if name[0].isupper()} <= set(types.__all__)
    assert {"publish", "stream_topic", "stream_workflow", "EventData"} <= set(features.__all__)


def test_a_workflow_state_validates_assignment() -> None:
    class Tally(polos_redis.WorkflowState):
        count: int = 0

    tally = Tally()
    tally.count += 1
    with pytest.raises(ValueError, match="valid integer"):
        tally.count = "many"  # type: ignore[assignment]
    assert tally == Tally(count=1)


@pytest.mark.parametrize(
    "error",
    [
        errors.WaitTimeoutError("key", "topic", 5.0),
        errors.SuspendTimeoutError("key", 5.0),
        errors.StepExecutionError("key", "ValueError", "no", 3),
        errors.StateConflictError(["one", "two"]),
        errors.HookFailedError("no"),
        errors.IdempotencyConflictError("workflow", "key", "id"),
        errors.NotFailedError("id", "waiting"),
        errors.ExecutionNotFoundError("id"),
        errors.ScheduleNotFoundError("id"),
        errors.WorkflowTimeoutError("late"),
        errors.InsideWorkflowError("run"),
    ],
)
def test_an_error_survives_pickling_unchanged(error: Exception) -> None:
    import pickle

    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
