"""Forms of the approval page: from a schema or a `_form` to fields, and from typed text to an answer."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, HttpUrl, TypeAdapter, create_model

from polos_redis.server.pages import forms
from polos_redis.server.pages.draft import MAX_ROWS, Draft
from polos_redis.server.pages.field_builder import FieldBuilder
from polos_redis.server.pages.fields import MISSING, Checkbox, Choice, Choices, Input
from polos_redis.server.pages.nested_fields import Group, Rows, Variants
from polos_redis.values import schemas


class Risk(StrEnum):
    low = "low"
    high = "high"


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Bank(BaseModel):
    kind: Literal["bank"] = "bank"
    iban: str


class Item(BaseModel):
    what: str
    price: Decimal = Field(ge=0)
    count: int = 1


class Node(BaseModel):
    name: str
    below: list[Node] = []
    next: Node | None = None


Email = Annotated[str, Field(json_schema_extra={"format": "email"})]


def of_type(annotation: Any) -> forms.Form:
    """The form of a type, as a suspension declares it."""
    return forms.of_schema(schemas.describe("a test", annotation)[0])


def form_of(annotation: Any, default: Any = ...) -> forms.Form:
    """The form of a model with one field, `it`."""
    model: type[BaseModel] = create_model(
        "Answer", it=(type(None) if annotation is None else annotation, default)
    )
    return of_type(model)


def only(form: forms.Form) -> Any:
    assert isinstance(form.root, Group)
    return form.root.fields["it"]


def typed(**texts: Any) -> Draft:
    """A draft: `it` is the field itself, `it__0` the row below it."""
    pairs = []
    for name, values in texts.items():
        html = "answer/" + name.replace("__", "/").replace("_is", "=").replace("_n", "#").replace("_q", "?")
        pairs += [(html, one) for one in ([values] if isinstance(values, str) else values)]
    return Draft(pairs)


@pytest.mark.parametrize(
    ("annotation", "draft", "answer"),
    [
        (str, typed(it="hello"), "hello"),
        (str, typed(it=" two\r\nlines "), " two\nlines "),
        (int, typed(it=" 42 "), 42),
        (int, typed(it="-7"), -7),
        (int, typed(it="123456789012345678901234567890"), 123456789012345678901234567890),
        (float, typed(it="12.5"), 12.5),
        (float, typed(it="5"), 5),
        (float, typed(it="1e3"), 1000.0),
        (Decimal, typed(it="12.50"), "12.50"),
        (Annotated[Decimal, Field(gt=0)], typed(it="0.1"), "0.1"),
        (bool, typed(it="true"), True),
        (bool, typed(it="false"), False),
        (date, typed(it="2026-03-31"), "2026-03-31"),
        (time, typed(it="14:30"), "14:30"),
        (datetime, typed(it="2026-03-31T14:30"), "2026-03-31T14:30:00Z"),
        (HttpUrl, typed(it="https://example.com/a"), "https://example.com/a"),
        (Email, typed(it="ann@example.com"), "ann@example.com"),
        (Risk, typed(it='"high"'), "high"),
        (Literal[1, "1", True], typed(it='"1"'), "1"),
        (Literal["a", "b", "c", "d", "e", "f", "g"], typed(it='"g"'), "g"),
        (list[str], typed(it_n=["0", "2"], it__0="x", it__2="y"), ["x", "y"]),
        (list[str], typed(), []),
        (list[Literal["a", "b"]], typed(it=['"b"']), ["b"]),
        (set[Risk], typed(it=['"high"', '"low"']), ["low", "high"]),
        (dict[str, int], typed(it_n="0", it__0_is="eur", it__0="3"), {"eur": 3}),
        (
            Item,
            typed(it__what="pen", it__price="2.50", it__count="4"),
            {"what": "pen", "price": "2.50", "count": 4},
        ),
        (Card | Bank, typed(it_q="1", **{"it__1~__iban": "DE1"}), {"kind": "bank", "iban": "DE1"}),
        (int | str, typed(it_q="1", **{"it__1~": "7"}), "7"),
        (int | str, typed(it_q="0", **{"it__0~": "7"}), 7),
        (Any, typed(it='{"a": [1, null]}'), {"a": [1, None]}),
        (tuple[int, str], typed(it='[1, "x"]'), [1, "x"]),
        (int | None, typed(it=""), None),
        (Item | None, typed(it_q="1"), None),
        (bool | None, typed(it=""), None),
        (None, typed(), None),
    ],
)
def test_typed_text_becomes_the_answer(annotation: Any, draft: Draft, answer: Any) -> None:
    form = form_of(annotation)
    found = form.read(draft)
    assert draft.errors == {}
    assert found == {"it": answer}
    assert type(found["it"]) is type(answer)
    TypeAdapter(annotation).validate_python(found["it"])  # the type accepts it


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "12.5"),
        (int, "1,000"),
        (int, "twelve"),
        (float, "nan"),
        (float, "1e999"),
        (float, "1_000"),
        (Decimal, "ten"),
        (date, "31.3.2026"),
        (time, "half past two"),
        (datetime, "tomorrow"),
        (HttpUrl, "javascript:alert(1)"),
        (HttpUrl, "example.com"),
        (Email, "ann"),
        (Any, "{broken"),
        (Any, "NaN"),
        (Any, "[" * 100_000),
        (float, "1" * 200_000 + "x"),
        (Risk, '"extreme"'),
        (Risk, "high"),
        (bool, "yes"),
        (bool, "1"),
        (Literal[1, 2], "true"),
    ],
)
def test_unreadable_text_gets_an_error_and_is_kept(annotation: Any, text: str) -> None:
    form = form_of(annotation)
    draft = typed(it=text)
    assert "it" not in form.read(draft)
    assert set(draft.errors) == {"it"}
    assert draft.get("answer/it") == text


@pytest.mark.parametrize(
    "annotation", [str, int, float, Decimal, bool, date, datetime, Risk, Item, Card | Bank]
)
def test_an_empty_field_is_no_answer(annotation: Any) -> None:
    form = form_of(annotation)
    draft = form.blank()
    form.read(draft)
    assert draft.errors


def test_empty_optional_fields_are_left_out() -> None:
    for annotation in (int | None, str | None, date | None, bool | None, Item | None, list[str] | None):
        form = form_of(annotation, None)
        draft = form.blank()
        found = form.read(draft)
        assert found in ({}, {"it": None}) and draft.errors == {}


def test_a_cleared_default_does_not_come_back() -> None:
    form = form_of(int, 5)
    assert form.blank().get("answer/it") == "5"
    draft = typed(it="")
    form.read(draft)
    assert "it" in draft.errors
    text = form_of(str, "EUR")
    assert text.read(typed(it="")) == {"it": ""}


class TestDecision:
    def test_a_boolean_approved_becomes_the_buttons(self) -> None:
        form = forms.of_schema({"type": "object", "properties": {"approved": {"type": "boolean"}}})
        assert form.decides
        assert form.read(Draft([("answer/approved", "true")])) == {"approved": True}
        assert form.read(Draft([("answer/approved", "false")])) == {"approved": False}

    @pytest.mark.parametrize("schema", [{"type": "boolean"}, {"type": "boolean", "default": True}])
    @pytest.mark.parametrize("text", ["", "yes", "True", "1", "on", None])
    def test_only_true_approves(self, schema: Any, text: str | None) -> None:
        form = forms.of_schema({"type": "object", "properties": {"approved": schema}})
        draft = Draft([] if text is None else [("answer/approved", text)])
        assert form.read(draft) == {} and "approved" in draft.errors

    def test_without_schema_or_form_there_are_buttons_and_a_reason(self) -> None:
        form = forms.of_suspension({"schema": None, "data": {"amount": 5}})
        assert form.decides
        draft = Draft([("answer/approved", "false"), ("answer/reason", "too much")])
        assert form.read(draft) == {"approved": False, "reason": "too much"}
        assert form.read(Draft([("answer/approved", "true"), ("answer/reason", "")])) == {"approved": True}

    def test_a_schema_wins_over_a_form(self) -> None:
        data = {"_form": {"fields": [{"name": "a", "type": "text"}]}}
        schema = {"type": "object", "properties": {"b": {"type": "string"}}}
        form = forms.of_suspension({"schema": schema, "data": data})
        assert isinstance(form.root, Group) and list(form.root.fields) == ["b"]

    @pytest.mark.failure(49)
    @pytest.mark.threat(20)
    @pytest.mark.parametrize(
        "field",
        [
            {"type": "checkbox", "label": "Refuse and report"},
            {
                "type": "select",
                "options": [{"value": True, "label": "Refuse"}, {"value": False, "label": "Go on"}],
            },
            {"type": "text", "default": "true", "required": False},
            {"type": ["odd"], "options": 5},
            {},
        ],
    )
    def test_a_field_approved_is_nothing_but_the_buttons(self, field: dict[str, Any]) -> None:
        note = {"name": "note", "required": True}
        declared = {"fields": [{**field, "name": "approved"}, note]}
        for suspension in ({"data": {"_form": declared}}, {"form": declared, "data": {}}):
            form = forms.of_suspension(suspension)
            assert form.decides and isinstance(form.root, Group)
            approved = form.root.fields["approved"]
            assert (approved.kind, approved.shown, approved.label) == ("verdict", False, "Decision")
            assert form.blank().get("answer/approved") == ""
            for text, answer in (("true", {"approved": True, "note": "n"}), ("false", {"approved": False})):
                draft = Draft([("answer/approved", text), ("answer/note", "n")])
                assert form.read(draft) == answer and draft.errors == {}
            for text in ("", "True", "1", "on", '"true"'):
                draft = Draft([("answer/approved", text), ("answer/note", "n")])
                form.read(draft)
                assert draft.errors == {"approved": "Press Approve or Reject."}

    @pytest.mark.parametrize(
        "annotation", [bool, Literal[True], bool | None, Literal["yes", "no"], str, list[bool], Risk, Any]
    )
    def test_a_property_approved_is_nothing_but_the_buttons(self, annotation: Any) -> None:
        form = of_type(create_model("Answer", approved=(annotation, ...), x=(int, 5)))
        assert form.decides and isinstance(form.root, Group)
        assert form.root.fields["approved"].kind == "verdict"

    def test_variants_that_all_approve_or_reject_have_the_buttons(self) -> None:
        yes: Any = create_model("Refuse", approved=(Literal[True], ...), amount=(int, ...))
        no: Any = create_model("Pay", approved=(Literal[False], ...), why=(str, ...))
        form = of_type(yes | no)
        assert form.decides
        draft = Draft([("answer?", "1"), ("answer/1~/why", "late"), ("answer/approved", "false")])
        assert form.read(draft) == {"approved": False, "why": "late"} and draft.errors == {}
        other: Any = create_model("Other", text=(str, ...))
        mixed = of_type(yes | other)
        assert not mixed.decides and mixed.json is forms.BOX_ONLY

    def test_rejecting_needs_no_other_field(self) -> None:
        form = of_type(create_model("Answer", approved=(bool, ...), amount=(float, ...), reason=(str, ...)))
        sent = [("answer/approved", "false"), ("answer/amount", "much"), ("json", "{broken")]
        draft = Draft(sent)
        assert form.read(draft) == {"approved": False} and draft.errors == {}
        draft = Draft([*sent, ("answer/reason", "no budget")])
        assert form.read(draft) == {"approved": False, "reason": "no budget"} and draft.errors == {}

    def test_several_approvals_need_the_buttons(self) -> None:
        data = {"_form": {"fields": [{"name": "note"}]}}
        assert not forms.of_suspension({"data": data, "required": 1}).decides
        assert forms.of_suspension({"data": data, "required": 2}).decides


class TestDeclaredForm:
    def form(self, **field: Any) -> forms.Form:
        return forms.of_suspension({"data": {"_form": {"fields": [{"name": "it", **field}]}}})

    @pytest.mark.parametrize(
        ("kind", "text", "answer"),
        [
            ("text", "a", "a"),
            ("textarea", "a\nb", "a\nb"),
            ("number", "1.5", 1.5),
            ("integer", "3", 3),
            ("checkbox", "true", True),
            ("date", "2026-01-31", "2026-01-31"),
            ("datetime", "2026-01-31T10:00", "2026-01-31T10:00:00Z"),
            ("email", "a@b.example", "a@b.example"),
            ("url", "https://b.example", "https://b.example"),
            ("something else", "a", "a"),
        ],
    )
    def test_each_type_has_a_field(self, kind: str, text: str, answer: Any) -> None:
        form = self.form(type=kind, label="It", description="What it is", required=True)
        field = only(form)
        assert (field.label, field.help) == ("It", "What it is")
        draft = typed(it=text)
        assert form.read(draft) == {"it": answer} and not draft.errors
        empty = Draft()
        form.read(empty)
        assert "it" in empty.errors

    def test_an_option_may_have_a_label(self) -> None:
        form = self.form(type="select", options=["a", {"value": 2, "label": "Two"}], default=2)
        field = only(form)
        assert isinstance(field, Choice)
        assert [(one.value, one.label) for one in field.options] == [("a", "a"), (2, "Two")]
        assert form.read(form.blank()) == {"it": 2}

    def test_empty_optional_fields_are_left_out(self) -> None:
        form = self.form(type="number")
        draft = form.blank()
        assert form.read(draft) == {} and not draft.errors

    def test_a_default_is_filled_in_and_may_be_cleared(self) -> None:
        form = self.form(type="integer", default=10)
        assert form.read(form.blank()) == {"it": 10}
        assert form.read(typed(it="")) == {"it": None}


class TestRows:
    form = form_of(list[Item])

    def test_rows_are_added_and_removed(self) -> None:
        draft = self.form.blank()
        draft.put("_add", "answer/it")
        assert self.form.change_rows(draft)
        assert draft.rows("answer/it") == [0]
        assert draft.get("answer/it/0/count") == "1"  # a new row has its defaults
        assert draft.focus == "answer/it/0"
        draft.put("answer/it/0/what", "pen")
        self.form.change_rows(draft)
        draft.texts.pop("_add")
        draft.put("_remove", "answer/it/0")
        assert self.form.change_rows(draft)
        assert draft.rows("answer/it") == [1]
        draft.texts.pop("_remove")
        assert not self.form.change_rows(draft)

    def test_an_error_has_its_place_in_the_answer_and_shows_at_its_row(self) -> None:
        draft = typed(it_n=["3", "5"], it__3__what="a", it__3__price="1", it__5__what="b", it__5__price="x")
        self.form.read(draft)
        assert set(draft.errors) == {"it.1.price", "it.0.count", "it.1.count"}
        field, _ = self.form.errors(draft)[1]
        assert field is not None and field.name == "answer/it/5/price"

    def test_the_number_of_rows_is_limited(self) -> None:
        draft = Draft(("answer/it#", str(number)) for number in range(10 * MAX_ROWS))
        assert len(draft.rows("answer/it")) == MAX_ROWS
        draft.put("_add", "answer/it")
        self.form.change_rows(draft)
        assert len(draft.rows("answer/it")) == MAX_ROWS

    def test_duplicate_and_empty_keys_get_an_error(self) -> None:
        form = form_of(dict[str, int])
        draft = typed(
            it_n=["0", "1", "2"], it__0_is="a", it__0="1", it__1_is="a", it__1="2", it__2_is="", it__2="3"
        )
        form.read(draft)
        assert len(draft.errors) == 2


def test_a_foreign_error_shows_at_its_field_or_above_it() -> None:
    form = form_of(list[Item])
    draft = typed(it_n="0", it__0__what="a", it__0__price="1", it__0__count="1")
    errors = [
        {"field": "it.0.price", "message": "too dear"},
        {"field": "it.0.nothing.like.it", "message": "odd"},
        {"field": "elsewhere", "message": "hm"},
    ]
    form.add_errors(draft, errors)
    assert draft.errors == {"it.0.price": "too dear", "it.0": "odd", "": "hm"}
    assert [words for _, words in form.errors(draft)] == ["hm", "odd", "too dear"]


def test_times_are_in_the_writers_zone() -> None:
    form = form_of(datetime)
    draft = typed(it="2026-07-01T10:00")
    draft.put("zone", "Europe/Berlin")
    assert form.read(draft) == {"it": "2026-07-01T10:00:00+02:00"}
    draft.put("zone", "../../etc/passwd")
    assert form.read(draft) == {"it": "2026-07-01T10:00:00Z"}


ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Tokyo")


@pytest.mark.threat(17)
@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()),
    st.sampled_from(ZONES),
    st.sampled_from((1, 1000, 1_000_000)),
)
@example(datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Berlin", 1)  # 02:30 for the second time
def test_a_time_that_nobody_changed_is_sent_as_the_same_time(
    value: datetime, zone: str, microseconds: int
) -> None:
    value = value.replace(microsecond=value.microsecond // microseconds * microseconds)
    field = Input(type="datetime", name="answer/it", path="it", label="It", required=True)
    assert field.accepts(value.isoformat())
    draft = Draft([("zone", zone)])
    field.fill(draft, value.isoformat())
    shown = draft.get("answer/it")
    assert (field.html_type(shown) == "text") == (datetime.fromisoformat(shown).tzinfo is not None)
    assert datetime.fromisoformat(field.read(draft)).astimezone(UTC) == value.astimezone(UTC)
    assert not field.accepts(value.replace(tzinfo=None).isoformat())  # it would get the reader's zone


def test_json_beyond_the_bounds_is_an_error_of_its_field() -> None:
    form = form_of(Any)
    draft = Draft([("answer/it", "[" * 300 + "]" * 300)])
    form.read(draft)
    assert draft.errors == {"it": "Enter a smaller value: the value is nested deeper than 100 levels."}


def test_recursive_types_have_forms() -> None:
    form = of_type(Node)
    draft = form.blank()
    draft.put("answer/name", "root")
    draft.put("_add", "answer/below")
    form.change_rows(draft)
    draft.put("answer/below/0/name", "leaf")
    found = form.read(draft)
    assert Node.model_validate(found) == Node(name="root", below=[Node(name="leaf")])


def test_a_recursive_form_has_a_limited_size() -> None:
    child = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
    form = forms.of_schema({"type": "object", "properties": dict.fromkeys("abcdefgh", child)})
    draft = form.blank()
    assert len(list(form.fields(draft))) < 500
    assert set(form.read(draft).values()) <= {None} and not draft.errors


@pytest.mark.parametrize("name", ["a/b", "a~b", "a.b", "", " ", "ä ö", "#", "a=", "x?", "</script>"])
def test_a_property_may_have_any_name(name: str) -> None:
    form = forms.of_schema({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]})
    assert isinstance(form.root, Group)
    draft = Draft([(form.root.fields[name].name, "x")])
    assert form.read(draft) == {name: "x"}
    empty = Draft()
    form.read(empty)
    assert form.errors(empty) != []


@pytest.mark.parametrize("annotation", [bool, int, list[int], Literal["a", "b"], Card | Bank, dict[str, str]])
def test_an_answer_need_not_be_an_object(annotation: Any) -> None:
    form = forms.of_schema(TypeAdapter(annotation).json_schema())
    draft = form.blank()
    form.read(draft)
    kinds = (Choice, Input, Rows, Variants)
    assert isinstance(form.root, kinds) and not form.decides


def test_labels_are_words() -> None:
    class Model(BaseModel):
        estimatedCost: int
        due_on: date = Field(title="Pay until")
        item: Item
        risk: Risk

    fields = forms.of_schema(Model.model_json_schema()).root.fields  # type: ignore[attr-defined]
    assert [one.label for one in fields.values()] == ["Estimated cost", "Pay until", "Item", "Risk"]


class TestJson:
    form = of_type(create_model("Answer", approved=(bool, ...), names=(list[str], ...)))

    def test_the_whole_answer_may_be_json(self) -> None:
        names = ["", "a\rb", *("x" * 300)]
        draft = Draft([("json", json.dumps({"names": names})), ("answer/approved", "true")])
        assert self.form.read(draft) == {"approved": True, "names": names}
        assert draft.errors == {}

    @pytest.mark.parametrize("approved", ["false", '"true"', "1", "null"])
    def test_only_the_buttons_decide(self, approved: str) -> None:
        draft = Draft([("json", f'{{"names": [], "approved": {approved}}}'), ("answer/approved", "true")])
        assert self.form.read(draft) is None
        assert [words for _, words in self.form.errors(draft)] == [
            "Leave out “approved”: only the buttons decide."
        ]

    @pytest.mark.parametrize(
        "text", ["[]", "5", "{", "[" * 100_000, '{"names": [1e999]}', '{"names": [NaN]}']
    )
    def test_odd_json_gets_an_error_at_its_box(self, text: str) -> None:
        draft = Draft([("json", text), ("answer/approved", "true")])
        assert self.form.read(draft) is None
        ((field, _),) = self.form.errors(draft)
        assert field is self.form.json

    def test_errors_of_an_answer_in_json_stand_at_its_box(self) -> None:
        draft = Draft([("json", '{"names": 5}'), ("answer/approved", "true")])
        assert self.form.read(draft) == {"approved": True, "names": 5}
        self.form.add_errors(draft, [{"field": "names", "message": "not a list"}, {"message": "odd"}])
        assert self.form.errors(draft) == [(self.form.json, "names: not a list\nodd")]

    def test_what_fields_can_not_hold_is_json_only(self) -> None:
        fields: Any = {f"f{number}": (int, number) for number in range(2000)}
        many: Any = create_model("Many", approved=(bool, ...), **fields)
        form = of_type(many)
        assert form.decides and form.json is forms.BOX_ONLY
        draft = Draft([("json", '{"f1": 2}'), ("answer/approved", "true")])
        assert form.read(draft) == {"approved": True, "f1": 2}
        empty = Draft([("answer/approved", "true")])
        assert form.read(empty) is None and form.errors(empty)


class TestSize:
    def test_a_form_with_too_many_rows_is_too_large(self) -> None:
        fields: Any = {f"f{number}": (int, 0) for number in range(50)}
        form = form_of(list[create_model("Row", **fields)])  # type: ignore[misc]
        draft = form.blank()
        assert not form.is_too_large(draft)
        for _ in range(MAX_ROWS):
            draft.put("_add", "answer/it")
            form.change_rows(draft)
        rows = len(draft.rows("answer/it"))
        assert 1 < rows < MAX_ROWS and not form.is_too_large(draft)
        assert draft.errors == {"it": "The form can't hold another row. Enter the answer as JSON instead."}
        assert len(form.read(draft)["it"]) == rows
        hostile = Draft(("answer/it#", str(number)) for number in range(MAX_ROWS))
        assert form.is_too_large(hostile, texts=False)

    def test_counting_builds_no_more_rows_than_a_page_could_show(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built = 0
        build = FieldBuilder.field

        def counted(self: FieldBuilder, *args: Any, **options: Any) -> Any:
            nonlocal built
            built += 1
            return build(self, *args, **options)

        form = of_type(Node)
        monkeypatch.setattr(FieldBuilder, "field", counted)
        pairs = [("answer/below#", str(one)) for one in range(MAX_ROWS)]
        pairs += [(f"answer/below/{one}/below#", str(two)) for one in range(MAX_ROWS) for two in range(20)]
        assert form.is_too_large(Draft(pairs), texts=False)
        assert built < 5000

    def test_long_texts_are_too_large_to_be_shown_again_but_may_be_sent(self) -> None:
        form = form_of(str)
        draft = typed(it="x" * 600_000)
        assert form.is_too_large(draft) and not form.is_too_large(draft, texts=False)
        assert form.read(draft) == {"it": "x" * 600_000}

    @pytest.mark.parametrize("long", ["label", "description", "default", "name"])
    def test_texts_of_data_are_bounded(self, long: str) -> None:
        field = {"name": "it", "label": "L", long: "x" * 1_000_000}
        form = forms.of_suspension({"data": {"_form": {"fields": [field, {"name": "other"}]}}})
        assert not form.is_too_large(form.blank())


@pytest.mark.parametrize(
    "limit", [10**5000, -(10**5000), 1e400, 10**400], ids=["huge", "low", "inf", "large"]
)
def test_odd_limits_have_a_form(limit: float) -> None:
    number = {"type": "number", "minimum": limit, "maximum": limit}
    text = {"type": "string", "minLength": limit, "maxLength": limit}
    for schema in (number, text, {"type": "integer", "exclusiveMinimum": limit}):
        assert forms.of_schema({"type": "object", "properties": {"a": schema}}).read(Draft()) == {}


@pytest.mark.parametrize("number", ["1" * 5000, "٣", "-1", "1e5", "0x1"])
def test_odd_numbers_of_rows_and_variants_are_ignored(number: str) -> None:
    form = form_of(list[int])
    assert form.read(typed(it_n=number)) == {"it": []}
    either = form_of(int | str)
    draft = typed(it_q=number)
    either.read(draft)
    assert set(draft.errors) == {"it"}


def test_limits_are_shown() -> None:
    class Model(BaseModel):
        a: int = Field(ge=1, le=9, description="A number.")
        b: float = Field(gt=0)
        c: str = Field(max_length=20)

    fields = forms.of_schema(Model.model_json_schema()).root.fields  # type: ignore[attr-defined]
    assert [one.help for one in fields.values()] == [
        "A number. From 1 to 9.",
        "More than 0.",
        "At most 20 characters.",
    ]


class Everything(BaseModel):
    text: str
    number: float
    whole: int
    exact: Decimal
    yes: bool
    ticked: bool = False
    day: date
    moment: datetime
    risk: Risk
    risks: list[Risk] = []
    perhaps: int | None = None
    item: Item
    items: list[Item] = []
    names: list[str] = []
    limits: dict[str, float] = {}
    payment: Card | Bank = Field(discriminator="kind")
    maybe: Item | None = None
    anything: Any = None


words = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8).filter(
    str.strip
)
items = st.builds(Item, what=words, price=st.decimals(0, 1000, places=2), count=st.integers())
everything = st.builds(
    Everything,
    text=words,
    number=st.floats(allow_nan=False, allow_infinity=False),
    exact=st.decimals(-1000, 1000, places=3),
    day=st.dates(min_value=date(1000, 1, 1)),
    moment=st.datetimes(min_value=datetime(1000, 1, 2)).map(lambda one: one.astimezone()),
    risks=st.lists(st.sampled_from(Risk), unique=True).map(sorted),
    perhaps=st.none() | st.integers(),
    item=items,
    items=st.lists(items, max_size=2),
    names=st.lists(words, max_size=3),
    limits=st.dictionaries(words.map(str.strip), st.floats(-10, 10), max_size=2),
    payment=st.builds(Card, number=words) | st.builds(Bank, iban=words),
    maybe=st.none() | items,
    anything=st.recursive(st.booleans() | st.integers() | words, st.lists, max_leaves=3),
)


@given(everything)
@settings(max_examples=50, deadline=None)
def test_a_filled_in_form_is_read_back(value: Everything) -> None:
    form = of_type(Everything)
    draft = Draft()
    form.root.fill(draft, value.model_dump(mode="json"))
    copy = Draft((name, text) for name, texts in draft.texts.items() for text in texts)
    found = form.read(copy)
    assert copy.errors == {}
    read = Everything.model_validate(found)
    assert read.risks == sorted(value.risks, key=list(Risk).index)
    assert read.model_copy(update={"risks": []}) == value.model_copy(update={"risks": []})


keys_of_schemas = st.sampled_from(
    [
        *(
            "type",
            "properties",
            "items",
            "required",
            "enum",
            "const",
            "anyOf",
            "oneOf",
            "allOf",
            "$ref",
            "$defs",
        ),
        *("title", "description", "default", "format", "minimum", "minLength", "additionalProperties"),
        *("fields", "name", "options", "label", "value", "a", "b"),
    ]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        [
            "object",
            "array",
            "string",
            "number",
            "boolean",
            "null",
            "#",
            "#/$defs/a",
            "date-time",
            "textarea",
            "",
        ]
    )
)
junk = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys_of_schemas, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(keys_of_schemas, junk, max_size=5))
@settings(max_examples=100, deadline=None)
def test_any_schema_has_a_form(schema: dict[str, Any]) -> None:
    form = forms.of_schema(schema)
    draft = form.blank()
    form.read(draft)
    form.errors(draft)


@given(junk)
@settings(max_examples=100, deadline=None)
def test_any_declared_form_has_a_form(declared: Any) -> None:
    form = forms.of_suspension({"data": {"_form": {"fields": declared}}})
    form.read(form.blank())
    form = forms.of_suspension({"data": {"_form": declared}})
    form.read(form.blank())


def test_each_type_has_its_kind_of_field() -> None:
    assert isinstance(only(form_of(bool, False)), Checkbox)
    assert isinstance(only(form_of(bool)), Choice)
    assert isinstance(only(form_of(list[Risk])), Choices)
    assert only(form_of(Literal[True])).must
    assert only(form_of(str)).default is MISSING
    assert only(form_of(Annotated[str, Field(max_length=1000)])).type == "textarea"
