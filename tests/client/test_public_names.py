"""The names that users import, and where users of Polos look for them."""

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
def test_what_composition_needs_is_at_top_level(name: str) -> None:
    assert name in polos_redis.__all__
    assert getattr(polos_redis, name) is not None


def test_a_star_import_brings_all_of_them() -> None:
    brought: dict[str, Any] = {}
    exec("from polos_redis import *", brought)
    assert set(polos_redis.__all__) <= brought.keys()
    assert polos_redis.__all__ == sorted(polos_redis.__all__, key=_as_ruff_sorts)


def _as_ruff_sorts(name: str) -> tuple[bool, str]:
    return not name[0].isupper(), name


def test_every_error_that_users_may_catch_is_at_top_level() -> None:
    ours = {name for name, one in vars(errors).items() if inspect.isclass(one)}
    # bases, and what never leaves the library
    inner = {"ConnectionLostError", "StoredValueError"}
    assert {name for name in ours if name.endswith("Error")} - inner <= set(polos_redis.__all__)


@pytest.mark.parametrize("module", ["polos_redis.types", "polos_redis.features.events"])
def test_the_modules_have_what_the_package_has(module: str) -> None:
    found = import_module(module)
    public = vars(polos_redis.events) | {name: getattr(polos_redis, name) for name in polos_redis.__all__}
    for name in found.__all__:
        assert getattr(found, name) is public[name]


def test_what_they_have() -> None:
    types, features = import_module("polos_redis.types"), import_module("polos_redis.features.events")
    assert {name for name in COMPOSITION if name[0].isupper()} <= set(types.__all__)
    assert {"publish", "stream_topic", "stream_workflow", "EventData"} <= set(features.__all__)


def test_a_workflow_state_checks_what_it_is_assigned() -> None:
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
def test_an_error_survives_pickling_and_says_the_same(error: Exception) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
