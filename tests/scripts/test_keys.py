"""Names of keys: defined once in keys.py, repeated literally by the scripts, and never colliding."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import polos_redis.state.scripts
from polos_redis.errors import ConfigurationError
from polos_redis.state import keys

SOURCES = {
    path.name: path.read_text() for path in Path(polos_redis.state.scripts.__path__[0]).glob("**/*.lua")
}
NAMES = {
    value
    for name, value in vars(keys).items()
    if name.isupper() and isinstance(value, str) and name not in ("GROUP", "DEFAULT_QUEUE")
}
NOT_IN_SCRIPTS = {keys.META, keys.KEYS, keys.SESSION}  # read and set by Python alone


def names_in_scripts() -> set[str]:
    """What the scripts append to a prefix."""
    found = {
        name for source in SOURCES.values() for name in re.findall(r"(?:P|KEYS\[1\]) \.\. '([^']*)'", source)
    }
    return {name[: name.index(":") + 1] if ":" in name else name for name in found}


def test_the_scripts_use_exactly_the_names_of_keys_py() -> None:
    assert names_in_scripts() | NOT_IN_SCRIPTS == NAMES


def test_a_script_has_one_key_and_spells_out_no_prefix() -> None:
    for name, source in SOURCES.items():
        assert not re.search(r"KEYS\[[^1]|polos:", source), name


def test_the_scripts_use_the_group_and_the_default_queue_of_keys_py() -> None:
    literals = {word for source in SOURCES.values() for word in re.findall(r"'(workers|default)'", source)}
    assert literals == {keys.GROUP, keys.DEFAULT_QUEUE}


def test_no_name_is_the_prefix_of_another() -> None:
    for one in NAMES:
        assert not [other for other in NAMES if other != one and other.startswith(one) and one.endswith(":")]


PARTS = st.lists(st.text(alphabet="a\0 1", max_size=6), min_size=2, max_size=3)


@given(PARTS, PARTS, st.sampled_from(["tick", "trigger"]))
def test_no_name_that_callers_choose_gives_the_id_of_something_else(
    one: list[str], other: list[str], kind: str
) -> None:
    """Whoever starts an execution under the id of a tick or a trigger would take its place."""
    ours = keys.derived_id(one[0], one[1])
    assert ours != keys.id_in(0, 1, kind, *other)
    assert (ours == keys.derived_id(other[0], other[1])) == (one[:2] == other[:2])
    assert (keys.id_in(0, 1, kind, *one) == keys.id_in(0, 1, kind, *other)) == (one == other)
    assert (keys.schedule_id(*one[:2]) == keys.schedule_id(*other[:2])) == (one[:2] == other[:2])
    child, another = keys.child_id("f" * 32, one[0], 1), keys.child_id("f" * 32, other[0], 1)
    assert (child == another) == (one[0] == other[0])


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "a b", "a\nb", "x" * 201])
def test_a_namespace_cannot_leave_its_braces(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        keys.check_namespace(namespace)


@pytest.mark.failure(21)
@pytest.mark.parametrize("step_key", ["ok", "a/b", "a b", "{x}", "a:b", "ä\n", "a" * 32, "0" * 32])
def test_a_suspensions_topic_yields_its_key_and_its_execution(step_key: str) -> None:
    for execution_id in ("0" * 32, "0" * 32 + ".abc"):
        topic = keys.suspension_topic(step_key, execution_id)
        assert keys.parse_topic(topic) == (step_key, execution_id)


def test_other_topics_belong_to_no_execution() -> None:
    for topic in ("news", "approval/x", "a/" + "0" * 31, "a/" + "0" * 32 + ".xyz", "0" * 32 + "/a"):
        assert keys.parse_topic(topic) == (None, None)
    assert keys.parse_topic("0" * 32) == (None, "0" * 32)


def test_a_child_lives_in_its_roots_partition() -> None:
    root = "0123456789abcdef" * 2
    assert keys.partition_of(keys.root_of(root + ".77"), 16) == keys.partition_of(root, 16)
    assert {keys.partition_of(f"{n:032x}", 16) for n in range(1000)} == set(range(16))
