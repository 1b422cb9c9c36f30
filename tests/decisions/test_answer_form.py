"""Forms that a workflow declares: what is wrong in one is refused where it is declared."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, Field, create_model

from polos_redis import ConfigurationError
from polos_redis.decisions.answer_form import MAX_FIELDS, MAX_OPTIONS, check_form
from polos_redis.decisions.answer_types import AnswerTypes
from polos_redis.server.pages import forms
from polos_redis.server.pages.nested_fields import Group


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (5, "form must be a dict of title, description, fields, not 5"),
        ({"titel": "x"}, "form has the unexpected key 'titel'; expected one of title, description, fields"),
        ({"title": 5}, "form.title must be a text of at most 10,000 characters"),
        ({"description": "x" * 10_001}, "form.description must be a text of at most 10,000 characters"),
        ({"fields": {}}, "form.fields must be a list of at most 400 fields"),
        ({"fields": [{"name": "a"}] * (MAX_FIELDS + 1)}, "form.fields must be a list of at most 400 fields"),
        ({"fields": ["a"]}, "form.fields[0] must be a dict of name, type, label, "),
        ({"fields": [{"label": "a"}]}, "form.fields[0] needs a name of 1 to 200 characters"),
        ({"fields": [{"name": "a" * 201}]}, "form.fields[0] needs a name of 1 to 200 characters"),
        ({"fields": [{"name": "a"}, {"name": "a"}]}, "form.fields has two fields named 'a'"),
        ({"fields": [{"name": "a", "type": "selct"}]}, "form.fields[0].type must be one of text, textarea, "),
        ({"fields": [{"name": "a", "type": ["x"]}]}, "form.fields[0].type must be one of text, textarea, "),
        ({"fields": [{"name": "a", "type": "select"}]}, "form.fields[0] is a select and needs options"),
        (
            {"fields": [{"name": "a", "options": [1] * (MAX_OPTIONS + 1)}]},
            "form.fields[0].options must be a list",
        ),
        ({"fields": [{"name": "a", "required": "yes"}]}, "form.fields[0].required must be True or False"),
        ({"fields": [{"name": "a", "label": 5}]}, "form.fields[0].label must be a text"),
        (
            {"fields": [{"name": "a", "label": "x" * 301}]},
            "form.fields[0].label must be a text of at most 300 characters",
        ),
        (
            {"fields": [{"name": "a", "description": "x" * 2001}]},
            "form.fields[0].description must be a text of at most 2,000 characters",
        ),
        (
            {"fields": [{"name": "a", "options": ["x", "x" * 301]}]},
            "form.fields[0].options[1] must have a label of at most 300 characters",
        ),
        (
            {"fields": [{"name": "a", "options": [{"value": 1, "label": "x" * 301}]}]},
            "form.fields[0].options[0] must have a label of at most 300 characters",
        ),
        ({"fields": [{"name": "a", "help": "x"}]}, "form.fields[0] has the unexpected key 'help'"),
    ],
)
def test_a_wrong_form_is_refused_with_the_place(form: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_form("suspension 'ok'", form, typed=False)
    assert str(caught.value).startswith(f"suspension 'ok': {message}")


def test_a_schema_has_the_fields() -> None:
    assert check_form("it", {"title": "T"}, typed=True) == {"title": "T"}
    with pytest.raises(ConfigurationError, match="it: schema= has the fields: omit fields from form="):
        check_form("it", {"fields": [{"name": "a"}]}, typed=True)


anything: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["name", "type", "label", "description", "required", "default", "options", "other"])
fields = st.lists(st.dictionaries(names, anything | st.sampled_from(["a", "text", "select"])), max_size=3)


@given(st.dictionaries(st.sampled_from(["title", "description", "fields"]), anything | fields, max_size=3))
@settings(max_examples=200, deadline=None)
def test_a_form_is_refused_or_becomes_the_fields_it_declares(form: Any) -> None:
    try:
        checked = check_form("it", form, typed=False)
    except ConfigurationError:
        return
    found = forms.of_suspension({"form": checked, "data": {}})
    assert isinstance(found.root, Group)
    declared = [one["name"] for one in checked.get("fields") or ()]
    assert list(found.root.fields) == (declared or ["approved", "reason"])
    draft = found.blank()
    found.read(draft)


@pytest.mark.parametrize("annotation", [str, int, list[bool], dict[str, bool]])
def test_approved_must_be_a_bool(annotation: Any) -> None:
    model: Any = create_model("Answer", approved=(annotation, ...))
    with pytest.raises(ConfigurationError, match="the field `approved` of schema= must be a bool"):
        AnswerTypes(model).describe("it")
    AnswerTypes(create_model("Answer", approved=(bool | None, None))).describe("it")


class _Renamed(BaseModel):
    approved: bool = Field(alias="yes")


class _Taken(BaseModel):
    approved_by_law: bool = Field(validation_alias=AliasChoices("lawful", "approved"))
    amount: int


class _Plain(BaseModel):
    approved: bool = Field(alias="approved")
    amount: int = Field(alias="cents")


@pytest.mark.threat(20)
@pytest.mark.parametrize("annotation", [_Renamed, _Taken, _Plain | _Renamed, _Plain | None])
def test_approved_is_one_field_in_python_and_in_json(annotation: Any) -> None:
    types = AnswerTypes(annotation)
    if annotation == _Plain | None:
        types.describe("it")
        return
    with pytest.raises(ConfigurationError, match="`approved` must be the same field"):
        types.describe("it")
