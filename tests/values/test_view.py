"""Results are frozen dataclasses, and dicts of the same fields."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import results
from polos_redis.values import codec
from polos_redis.values.view import View

VIEWS: list[type[View]] = [getattr(results, name) for name in results.__all__]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)


def names_of(cls: type[View]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def filled(cls: type[View]) -> st.SearchStrategy[View]:
    """Any instance, also with other views in it."""
    parts = JSON.map(lambda value: results.HeldBack(times=1, reason=value))  # type: ignore[arg-type]
    values = JSON | parts | st.lists(parts, max_size=2)
    return st.fixed_dictionaries(dict.fromkeys(names_of(cls), values)).map(lambda one: cls(**one))


views = st.sampled_from(VIEWS).flatmap(filled)


@given(views)
def test_a_view_reads_like_the_dict_of_its_fields(one: View) -> None:
    fields = {name: getattr(one, name) for name in names_of(type(one))}
    assert one == fields
    assert fields == one
    assert one != {**fields, "more": 1}
    assert list(one) == list(fields) == list(one.keys())
    assert list(one.items()) == list(fields.items())
    assert {**one} == fields
    assert len(one) == len(fields)
    for name, value in fields.items():
        assert one[name] == value
        assert one.get(name) == value
        assert name in one
    assert "more" not in one
    assert one.get("more", 1) == 1
    with pytest.raises(KeyError):
        one["more"]
    assert type(dict(one)) is dict
    assert type(one.copy()) is dict


@given(views)
def test_a_view_is_json(one: View) -> None:
    written = json.dumps(one)
    assert json.loads(written) == one
    assert json.dumps(dict(one)) == written


@given(views)
def test_a_view_is_copied_pickled_and_stored_as_what_it_is(one: View) -> None:
    for same in (
        copy.copy(one),
        copy.deepcopy(one),
        pickle.loads(pickle.dumps(one)),
        codec.decode(codec.encode(one)),
        dataclasses.replace(one),
    ):
        assert type(same) is type(one)
        assert same == one
        assert {name: getattr(same, name) for name in names_of(type(one))} == one
        assert repr(same) == repr(one)
    assert codec.plain(one) == json.loads(json.dumps(one))
    assert dataclasses.asdict(one) == one


@given(views)
def test_a_view_cannot_be_changed(one: View) -> None:
    before = dict(one)
    name = next(iter(one))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, name, 1)
    view: Any = one
    changes: list[Any] = [
        lambda: view.__setitem__(name, 1),
        lambda: view.__delitem__(name),
        lambda: view.pop(name),
        lambda: view.popitem(),
        lambda: view.clear(),
        lambda: view.update({name: 1}),
        lambda: view.setdefault("more", 1),
        lambda: view.__ior__({name: 1}),
    ]
    for change in changes:
        with pytest.raises(TypeError, match=r"can't be changed: change a copy of it, dict\(\.\.\.\)"):
            change()
    assert one == before
    assert dataclasses.replace(one, **{name: 1})[name] == 1


@pytest.mark.parametrize("cls", VIEWS, ids=lambda cls: cls.__name__)
def test_every_result_is_a_frozen_dataclass_without_names_of_dict(cls: type[View]) -> None:
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not set(names_of(cls)) & set(dir(dict)), "x.keys would be the field, not the method"
    assert not hasattr(cls(**dict.fromkeys(names_of(cls))), "__dict__")


@given(st.sampled_from(VIEWS), st.data())
def test_a_stored_view_of_another_version_is_read(cls: type[View], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.sampled_from(names_of(cls)), unique=True))
    fields = {**dict.fromkeys(kept, 1), "added_later": 2}
    whole = msgpack.unpackb(codec.encode(cls(**dict.fromkeys(names_of(cls)))))
    name = msgpack.unpackb(whole.data)[0].partition("#")[0]
    stored = msgpack.packb(msgpack.ExtType(whole.code, msgpack.packb([f"{name}#other", fields])))
    assert codec.decode(stored) == {name: 1 if name in kept else None for name in names_of(cls)}
