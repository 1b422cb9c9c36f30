"""Answers checked by their JSON schema alone, in linear time for any input. With more than that, these
tests would not end."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from polos_redis.values import bounds, schema_errors, schemas


def errors_in(schema: dict[str, Any], answer: Any) -> list[dict[str, str]]:
    """The errors as in a process that has not imported the type."""
    return bounds.at_once(schema_errors.errors_in(schema, "", answer))


class Priced(BaseModel):
    amount: Decimal


class Named(BaseModel):
    name: Annotated[str, Field(pattern=r"^(\w+\s?)*$")]


class Tagged(BaseModel):
    tags: set[str | int]


class Keyed(BaseModel):
    prices: dict[Annotated[str, Field(pattern=r"^(a|aa)+$")], int]


@pytest.mark.parametrize(
    ("model", "answer", "field"),
    [
        (Priced, {"amount": "1" * 500_000 + "x"}, "amount"),
        (Named, {"name": "a" * 60 + "!"}, "name"),
        (Tagged, {"tags": [*map(str, range(50_000)), 5, "7"]}, "tags"),
        (Keyed, {"prices": {"a" * 60 + "!": 1, "aa": "one"}}, "prices"),
    ],
)
def test_checking_an_answer_takes_linear_time(model: type[BaseModel], answer: Any, field: str) -> None:
    schema, _ = schemas.describe("it", model)
    found = errors_in(schema, answer)
    assert {one["field"].partition(".")[0] for one in found} == {field}
    assert all(len(one["message"]) < 400 for one in found)


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (Priced, {"amount": "-12.50"}),
        (Priced, {"amount": ".5e3"}),
        (Named, {"name": "ann bob"}),
        (Tagged, {"tags": [1, "1", "two"]}),
        (Keyed, {"prices": {"aaa": 1}}),
    ],
)
def test_a_valid_answer_passes(model: type[BaseModel], answer: Any) -> None:
    schema, _ = schemas.describe("it", model)
    assert errors_in(schema, answer) == []


def test_an_unknown_pattern_is_left_to_the_type() -> None:
    schema = {"type": "string", "pattern": "^(?=x)x$"}
    assert errors_in(schema, "y") == []
