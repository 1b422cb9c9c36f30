"""How plain values, times and executions are displayed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polos_redis.redaction import LINK_PREFIX
from polos_redis.server.pages import times as page_times
from polos_redis.server.pages.labels import label_of
from polos_redis.server.pages.rendering import ENVIRONMENT
from polos_redis.server.pages.shown_values import MAX_PARTS, ShownValue, as_json, show
from polos_redis.server.pages.suspension_summary import gist, summary
from polos_redis.server.pages.timeline import MAX_BARS, timeline
from polos_redis.values.preview import PartialText


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("estimated_cost", "Estimated cost"),
        ("estimatedCost", "Estimated cost"),
        ("high-value-approval", "High value approval"),
        ("customer_id", "Customer ID"),
        ("URLOfPage", "URL of page"),
        ("step2", "Step 2"),
        ("größe", "Größe"),
        ("Already a label", "Already a label"),
        ("a/b", "a/b"),
        ("_", "_"),
        ("", ""),
        ("<b>", "<b>"),
        ("a_" * 50_000 + "!", "a_" * 50_000 + "!"),  # must not backtrack
    ],
)
def test_labels_are_words(key: str, label: str) -> None:
    assert label_of(key) == label


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0042, "4.2 ms"),
        (0.42, "420 ms"),
        (3.2, "3.2 s"),
        (5, "5 s"),
        (59.97, "1 min"),
        (310, "5 min 10 s"),
        (7500, "2 h 5 min"),
        (7199.9, "2 h"),
        (86400, "1 d"),
        (270000, "3 d 3 h"),
        (-5, "0 ms"),
    ],
)
def test_durations_have_readable_units(seconds: float, text: str) -> None:
    assert page_times.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "key", "kind", "text"),
    [
        (5000.0, "amount", "number", "5,000"),
        (12345.67, "total", "number", "12,345.67"),
        (1200345, "rows", "number", "1,200,345"),
        (2026, "since", "number", "2026"),
        (48211, "customer_id", "number", "48211"),
        (True, "urgent", "text", "Yes"),
        (False, "urgent", "text", "No"),
        (None, "x", "none", "none"),
        ("", "x", "none", "empty"),
        ([], "x", "none", "none"),
        ({}, "x", "none", "nothing"),
        ("2026-03-01", "x", "date", "1 March 2026"),
        ("2026-13-01", "x", "text", "2026-13-01"),
        ("2026-03-01T22:00:00Z", "x", "time", "1 Mar 2026, 22:00 UTC"),
        ("2026-03-01T22:00:00", "x", "text", "2026-03-01T22:00:00"),
        ("https://example.com/a?b=c", "x", "link", "https://example.com/a?b=c"),
        ("http://[broken", "x", "text", "http://[broken"),
        ("https://good.example@evil.example/", "x", "text", "https://good.example@evil.example/"),
        ("javascript:alert(1)", "x", "text", "javascript:alert(1)"),
    ],
)
def test_single_values_have_a_kind_and_a_text(value: Any, key: str, kind: str, text: str) -> None:
    found = show(value, key)
    assert (found.kind, found.text) == (kind, text)


def test_similar_objects_form_a_table_and_others_a_list() -> None:
    table = show([{"what": "pen", "price": 2}, {"what": "ink"}])
    assert table.columns == ["What", "Price"] and [one.text for one in table.rows[1]] == [
        "ink",
        "\N{EN DASH}",
    ]
    assert show([{"a": 1}, {"b": 2}, {"c": 3}]).kind == "list"
    assert show([{"a": [1]}, {"a": [2]}]).kind == "list"
    assert show(["one", "two"], "steps").ordered


def test_long_values_are_folded() -> None:
    assert show("x" * 1000).folded and show("a\n" * 20).folded and not show("x" * 100).folded
    deep: Any = "end"
    for _ in range(50):
        deep = {"a": deep}
    inner = show(deep)
    while inner.kind == "map":
        inner = inner.pairs[0][1]
    assert inner.kind == "code" and "end" in inner.text


def parts(shown: ShownValue) -> int:
    below = [*shown.items, *(one for _, one in shown.pairs), *(one for row in shown.rows for one in row)]
    return 1 + sum(parts(one) for one in below)


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(leaves, lambda one: st.lists(one) | st.dictionaries(st.text(), one), max_leaves=40)


@pytest.mark.threat(19)
@given(values)
@settings(max_examples=100, deadline=None)
def test_any_value_can_be_shown(value: Any) -> None:
    html = rendered('{% from "values.html" import value with context %}{{ value(one) }}', one=show(value))
    assert "<script" not in html.lower()
    assert as_json(value)


wide = {f"k{number}": [[number] * 50] * 50 for number in range(50)}


@pytest.mark.parametrize(
    "value",
    [
        wide,
        {f"k{number}": number for number in range(100_000)},
        list(range(100_000)),
        [{"a": 1, "b": 2}] * 50_000,
        {"a": {f"k{number}": {} for number in range(100_000)}},
    ],
    ids=["deep", "dict", "list", "table", "inner"],
)
def test_a_large_value_is_shown_within_bounds(value: Any) -> None:
    found = show(value)
    assert 100 < parts(found) <= 2 * MAX_PARTS
    assert left(found) > 0 and as_json(value) == ""


def left(shown: ShownValue) -> int:
    below = [*shown.items, *(one for _, one in shown.pairs), *(one for row in shown.rows for one in row)]
    return shown.left + sum(map(left, below))


def rendered(template: str, **values: Any) -> str:
    return ENVIRONMENT.from_string(template).render(complete="/all?format=json", **values)


def test_what_is_left_out_is_counted_beside_a_way_to_it() -> None:
    value = '{% from "values.html" import value with context %}{{ value(one | show) }}'
    html = rendered(value, one={f"k{number}": number for number in range(5000)})
    assert "3,001 values more not shown" in html and 'href="/all?format=json"' in html
    text = PartialText("x" * 600)
    text.left = 1400
    assert "1,400 characters more not shown" in rendered(value, one=text)
    assert "not shown" not in rendered(value, one={"a": [1, 2, {"b": "x" * 5000}]})


def test_everything_that_is_printed_shows_what_it_hides() -> None:
    hostile = "a\u202eb\x00c\u200bd\u3164"
    html = rendered("<p title='{{ one }}'>{{ one }}</p>", one=hostile)
    assert html == "<p title='{0}'>{0}</p>".format(r"a\u202eb\x00c\u200bd\u3164")
    assert rendered("{{ one | as_typed }}", one="a\u202e<") == "a\u202e&lt;"


def test_tokens_and_secrets_are_printed_nowhere() -> None:
    token, secret = LINK_PREFIX + "x" * 60, f"polos_{'0' * 16}_{'s' * 43}"
    value = '{% from "values.html" import value, raw with context %}{{ value(one | show) }}{{ raw(json) }}'
    data = {"url": f"https://a.example/approve/1/ok?token={token}&x=1", secret: [token, {"k": secret}]}
    html = rendered(value, one=data, json=as_json(data))
    assert token not in html and secret not in html and "https://a.example/approve/1/ok?x=1" in html


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("check_invoice", "Check invoice"),
        ("Session expired. Log in at x.example", "“Session expired. Log in at x.example”"),
        ("x" * 300, "X" + "x" * 199 + "…"),
    ],
)
def test_a_name_that_could_be_a_sentence_is_quoted(name: str, heading: str) -> None:
    assert rendered("{{ one | heading }}", one=name) == heading


def asked(data: Any, **fields: Any) -> dict[str, Any]:
    return {"step_key": "key", "data": data, "schema": None, "form": None, **fields}


class TestAsked:
    def test_a_sentence_in_the_data_leads(self) -> None:
        found = summary(asked({"description": "Delete it?", "rows": 5}))
        assert (found.title, found.lead) == ("", "Delete it?")
        assert found.facts is not None and [label for label, _ in found.facts.pairs] == ["Rows"]

    def test_the_texts_of_a_form_in_the_data_are_data(self) -> None:
        form = {"title": "T", "description": "D", "context": {"a": 1}, "fields": []}
        found = summary(asked({"_form": form, "description": "stays"}))
        assert (found.title, found.description, found.data_title, found.lead) == ("", "", "T", "D")
        assert found.context is not None and found.facts is not None
        assert [label for label, _ in found.facts.pairs] == ["Description"]

    @pytest.mark.parametrize(
        "form",
        [
            {"title": "t" * 300 + "!"},
            {"title": ["!"], "fields": []},
            {"description": "d" * 4000 + "!"},
            {"fields": {"!": 1}},
            {"fields": [], "note": "!"},
            {"fields": [], "context": {}, "": {"a": "!"}},
        ],
    )
    def test_whatever_of_a_form_in_the_data_has_no_place_of_its_own_is_shown_as_data(self, form: Any) -> None:
        found = summary(asked({"_form": form, "_approval_url": "the workflow's own", "a": 1}))
        assert (found.data_title, found.lead) == ("", "")
        assert found.facts is not None
        shown = dict(found.facts.pairs)
        assert list(shown) == ["Form", "Approval URL", "A"] or list(shown) == ["Approval URL", "A", "Form"]
        assert "!" in repr(shown["Form"]) and shown["Approval URL"].text == "the workflow's own"

    @pytest.mark.parametrize(
        "declared", [{"form": {}}, {"form": {"title": "Mine"}}, {"schema": {"type": "object"}}]
    )
    def test_a_form_in_the_data_is_data_like_any_other_beside_a_declared_one(self, declared: Any) -> None:
        found = summary(asked({"_form": {"title": "T", "description": "D"}}, **declared))
        assert found.title == (declared.get("form") or {}).get("title", "")
        assert (found.data_title, found.lead) == ("", "")
        assert found.facts is not None and [label for label, _ in found.facts.pairs] == ["Form"]

    @pytest.mark.parametrize(
        "data", [None, {}, 5, "text", ["a"], {"_form": 5}, {"_form": {"title": 5, "context": ""}}]
    )
    def test_data_may_be_anything(self, data: Any) -> None:
        found = summary(asked(data))
        assert (found.title, found.data_title) == ("", "")
        assert isinstance(gist(found), list)

    def test_the_gist_is_short(self) -> None:
        data = {"note": "x" * 200, "a": 1, "b": {"c": 2}, "d": "e", "f": 3, "g": 4}
        assert [label for label, _ in gist(summary(asked(data)))] == ["A", "D", "F"]


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def after(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


def execution(**fields: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"steps": [], "running_steps": [], "suspensions": [], "waits": [], "children": []}
    plain = {"created_at": after(0), "finished_at": None, "status": "waiting", "forked_from": None}
    return {**plain, **empty, **fields}


def step(name: str, start: float, seconds: float) -> dict[str, Any]:
    times = {"started_at": after(start), "finished_at": after(start + seconds), "took_ms": seconds * 1000}
    return {"step_key": name, "status": "ok", "attempts": 1, **times}


def waited(name: str, start: float, end: float | None, status: str) -> dict[str, Any]:
    decided = None if end is None else after(end)
    return {
        "step_key": name,
        "status": status,
        "opened_at": after(start),
        "decided_at": decided,
        "expires_at": None,
        "resumed_by": None,
        "answer": {"approved": True} if status == "answered" else None,
    }


class TestTimeline:
    def test_bars_are_to_scale(self) -> None:
        found = timeline(
            execution(
                steps=[step("b", 50, 25), step("a", 0, 50)],
                suspensions=[waited("ok", 75, None, "open")],
            ),
            NOW + timedelta(seconds=100),
        )
        assert [(one.name, one.x, one.width, one.open) for one in found.bars] == [
            ("a", 0, 50, False),
            ("b", 50, 25, False),
            ("ok", 75, 25, True),
        ]
        assert [(tick.x, tick.text) for tick in found.ticks] == [
            (x, text)
            for x, text in zip(
                (0, 20, 40, 60, 80, 100),
                ("0 ms", "20 s", "40 s", "1 min", "1 min 20 s", "1 min 40 s"),
                strict=True,
            )
        ]

    def test_a_finished_wait_ends_where_it_ended(self) -> None:
        finished = execution(
            status="completed", finished_at=after(10), suspensions=[waited("ok", 2, 8, "answered")]
        )
        (bar,) = timeline(finished, NOW + timedelta(days=9)).bars
        assert (bar.x, bar.width, bar.note) == (20, 60, "approved")

    def test_the_shortest_step_is_visible(self) -> None:
        (bar,) = timeline(execution(steps=[step("a", 86400, 0)]), NOW + timedelta(days=1)).bars
        assert bar.width > 0 and bar.x + bar.width <= 100

    def test_an_empty_execution_has_no_bars(self) -> None:
        assert timeline(execution(), NOW).bars == []

    def test_of_many_steps_the_newest_and_the_open_ones_are_shown(self) -> None:
        steps = [step(f"s{number}", 1 + number, 1) for number in range(MAX_BARS + 3)]
        crowded = execution(steps=steps, suspensions=[waited("first of all", 0, None, "open")])
        found = timeline(crowded, NOW + timedelta(seconds=2 * MAX_BARS))
        names = [f"s{number}" for number in range(4, MAX_BARS + 3)]
        assert [bar.name for bar in found.bars] == ["first of all", *names]
        assert found.hidden == 4
        assert (found.seconds, found.bars[1].start) == (2 * MAX_BARS, 5), (
            "the scale covers the whole execution"
        )

    @given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e7)), max_size=8), st.floats(0, 1e8))
    @settings(max_examples=50, deadline=None)
    def test_nothing_is_drawn_outside(self, spans: list[tuple[float, float]], now: float) -> None:
        steps = [step(f"s{number}", *one) for number, one in enumerate(spans)]
        found = timeline(execution(steps=steps), NOW + timedelta(seconds=now))
        assert all(bar.x >= 0 and bar.x + bar.width <= 100.01 for bar in found.bars)
        assert all(0 <= tick.x <= 100.001 for tick in found.ticks) and len(found.ticks) <= 6


def test_times_are_relative_to_now() -> None:
    now = datetime.now(UTC)
    assert "5 minutes ago" in page_times.ago((now - timedelta(minutes=5, seconds=1)).isoformat())
    assert "just now" in page_times.ago(now.isoformat())
    assert "in 1 h 59 min" in page_times.left((now + timedelta(hours=1, minutes=59, seconds=30)).isoformat())
    assert "1 hour ago" in page_times.left((now - timedelta(hours=1, seconds=1)).isoformat())
    assert page_times.when(None) == "&ndash;"
    assert "<b>" not in page_times.when("<b>")
