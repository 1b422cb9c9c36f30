"""The style of the Lua scripts, as the docstring of `polos_redis.state.scripts` describes it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import polos_redis.state.scripts
from polos_redis.state import scripts
from polos_redis.wire.transport import Script

FOLDER = Path(polos_redis.state.scripts.__path__[0])
FILES = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.glob("**/*.lua")}
EVERY = (*scripts.ALL, *scripts.OF_TESTS)
VARIANTS = tuple(map(scripts.skipping, EVERY))
SKIPPED_TIME = "skipped_time"  # the library that `skipping` puts before a script
SCRIPTS = {script.name: FILES[f"{script.name}.lua"] for script in EVERY}

INCLUDE = re.compile(r"^-- #include (\w+)$", re.MULTILINE)
HEADER = re.compile(
    r"#!lua( flags=[\w-]+)?\n"
    r"-- (?P<name>\w+): .+\n(-- .+\n)*?"
    r"-- KEYS  1 .+\n"
    r"-- ARGV  (?P<argv>1(\.\.)? .+\n(--       .+\n)*)"
    r"-- Returns .+\n(-- (?!#).+\n)*"
    r"(-- #include \w+\n)*"
)
BINDING = re.compile(r"local P, (?P<names>[\w, ]+) =\s+KEYS\[1\], unpack\(ARGV(, 1, (?P<last>\d+))?\)\n")
CONSTANT = re.compile(r"^local (\w+) <const> = (\d+)(?: -- .+)?$", re.MULTILINE)
HMGET = re.compile(r"([\w, ]+) = unpack\(redis\.call\('HMGET',(.+?)\)\)( end)?\n", re.DOTALL)


def code(text: str) -> str:
    """The text without its comments; no string in the scripts contains two dashes."""
    return re.sub(r" *--.*", "", text)


def with_includes(name: str) -> str:
    """A script and everything it includes, with comments."""
    found: list[str] = []
    left = [f"{name}.lua"]
    while left:
        file = left.pop()
        if file not in found:
            found.append(file)
            left += [
                f"lib/{library}.lua"
                for library in re.findall(r"^-- #include (\w+)$", FILES[file], re.MULTILINE)
            ]
    return "".join(FILES[file] for file in found)


def test_every_script_is_loaded_and_every_library_is_included() -> None:
    assert set(SCRIPTS) == {name.removesuffix(".lua") for name in FILES if "/" not in name}
    included = {
        library
        for text in FILES.values()
        for library in re.findall(r"^-- #include (\w+)$", text, re.MULTILINE)
    }
    assert SKIPPED_TIME not in included
    libraries = {f"lib/{library}.lua" for library in (*included, SKIPPED_TIME)}
    assert libraries == {name for name in FILES if "/" in name}


@pytest.mark.parametrize("name", FILES)
def test_no_line_is_longer_than_120_characters(name: str) -> None:
    assert not [line for line in FILES[name].splitlines() if len(line) > 120]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_a_header_and_names_all_its_arguments_first(name: str) -> None:
    header = HEADER.match(SCRIPTS[name])
    assert header and header["name"] == name
    binding = BINDING.match(SCRIPTS[name], header.end())
    assert binding, "the first statement names the arguments"

    # Numbers start the entries of the header, after two spaces.
    arguments = re.findall(r"(?:^|  )(\d+)(\.\.)?(?= )", re.sub(r"\n--     ", "", header["argv"]))
    assert [int(number) for number, _ in arguments] == list(range(1, len(arguments) + 1))
    tail = arguments.pop() if arguments[-1][1] else None
    assert not [number for number, more in arguments if more]
    assert len(binding["names"].split(", ")) == len(arguments)
    if tail is None:
        assert binding["last"] is None
    else:
        assert binding["last"] == str(len(arguments))
        assert tail[0] in {number for _, number in CONSTANT.findall(SCRIPTS[name])}

    rest = code(SCRIPTS[name][binding.end() :])
    assert not re.search(r"KEYS\[", rest)
    assert len(re.findall(r"ARGV", rest)) == len(
        re.findall(r"#ARGV|ARGV\[[a-z]|unpack\(ARGV, [A-Z]|, ARGV, [A-Z]", rest)
    )


@pytest.mark.parametrize("name", FILES)
def test_no_position_is_a_bare_number(name: str) -> None:
    text = BINDING.sub("", code(FILES[name]))
    assert not re.findall(r"\w\[\d.*", text)
    assert not re.findall(r"unpack\(\w+, \d.*", text)
    if "/" in name:
        assert "ARGV" not in text


@pytest.mark.parametrize("name", FILES)
def test_every_hmget_reply_is_unpacked_into_as_many_names(name: str) -> None:
    text = code(FILES[name])
    named = HMGET.findall(text)
    for names, arguments, _ in named:
        fields = re.findall(r"'(\w*)'|, (key|WRITER)\b", arguments)
        assert len(fields) == len(names.split(",")), names
    by_position = re.findall(r"'HMGET', [^\n]*(?:unpack\(ENDING_FIELDS\)|'stream', \.\.\.)\)", text)
    assert len(named) + len(by_position) == text.count("'HMGET'")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_constant_has_one_meaning_and_is_used(name: str) -> None:
    text = with_includes(name)
    constants = Counter(constant for constant, _ in CONSTANT.findall(text))
    assert len(re.findall("<const>", code(text))) == constants.total()
    assert not [constant for constant, count in constants.items() if count > 1]
    assert not [
        one for one, _ in CONSTANT.findall(SCRIPTS[name]) if len(re.findall(rf"\b{one}\b", SCRIPTS[name])) < 2
    ]


@pytest.mark.parametrize("script", [*EVERY, *VARIANTS], ids=lambda script: script.name)
def test_comments_constants_and_unused_functions_are_not_sent(script: Script) -> None:
    source = script.source.decode()
    assert source.startswith("#!lua")
    assert "--" not in source and "<const>" not in source
    bare = re.sub(r"'[^'\n]*'", "", source)
    assert not [
        one for one, _ in CONSTANT.findall(with_includes(script.name)) if re.search(rf"\b{one}\b", bare)
    ]
    functions = re.findall(r"^local function (\w+)", source, re.MULTILINE)
    assert not [function for function in functions if len(re.findall(rf"\b{function}\b", source)) == 1]


def test_strings_are_sent_as_written() -> None:
    for script in EVERY:
        sent = set(re.findall(r"'[^'\n]*'", script.source.decode()))
        assert sent <= set(re.findall(r"'[^'\n]*'", code(with_includes(script.name))))


GLOBALS = (
    "KEYS ARGV redis cmsgpack string math table unpack pairs ipairs tonumber tostring type next pcall error"
)
KEYWORDS = "and break do else elseif end false for function if in local nil not or return then true while"


@pytest.mark.parametrize("script", [*EVERY, *VARIANTS], ids=lambda script: script.name)
def test_every_name_is_declared(script: Script) -> None:
    """Redis finds a name that nothing declares only when the line that uses it runs."""
    code = re.sub(r"^#!.*\n", "", script.source.decode())
    code = re.sub(r"'[^'\n]*'|--.*", " ", code)
    declared = set(GLOBALS.split())
    for names in re.findall(r"\blocal (?!function)([\w, ]+)|\bfor ([\w, ]+?) (?:=|in\b)", code):
        declared.update(re.findall(r"\w+", " ".join(names)))
    for name, parameters in re.findall(r"\bfunction ?(\w*)\(([\w, ]*)", code):
        declared.update([name, *re.findall(r"\w+", parameters)])
    fields = r"(?<![\w.])([A-Za-z_]\w*)\b(?!\s*=[^=])"  # not behind a dot, and no key of a table
    used = {word for word in re.findall(fields, code) if word not in KEYWORDS.split()}
    assert used <= declared
