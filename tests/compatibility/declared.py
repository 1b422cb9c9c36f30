"""The surfaces that the code declares: commands, REST, problems, metrics, settings."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

import polos_redis
from polos_redis import PolosClient
from polos_redis.metrics.prometheus import STATE, WORKER
from polos_redis.metrics.worker_stats import STEP_SECONDS, WAIT_SECONDS
from polos_redis.server import problems
from polos_redis.server.app import create_app
from polos_redis.settings import OPTIONS
from tests.compatibility.snapshots import REQUIRED, THING, Facts

Json = Mapping[str, Any]

PACKAGE = Path(polos_redis.__file__).parent
NO_SCHEMA_FACTS = ("title", "description", "examples")


# --- commands ---------------------------------------------------------------------------


def commands() -> Facts:
    app = import_module("polos_redis.cli.app").app
    return dict(_commands(typer.main.get_command(app), "polos"))


def _commands(command: Any, path: str) -> Iterator[tuple[str, dict[str, str]]]:
    found = {THING: "group" if hasattr(command, "commands") else "command"}
    position = 0
    for parameter in command.params:
        if parameter.name == "help" or parameter.name.endswith("_completion"):
            continue
        if parameter.param_type_name == "argument":
            position += 1
            name = f"argument {position}"
        else:
            name = " ".join((*parameter.opts, *parameter.secondary_opts))
        kind = parameter.type_descriptor.annotation
        found[name] = _parameter(parameter, kind)
        if issubclass(kind, Enum):
            found |= {f"{name} {one.value}": "value" for one in kind}
    yield path, found
    for name, one in getattr(command, "commands", {}).items():
        yield from _commands(one, f"{path} {name}")


def _parameter(parameter: Any, kind: type[Any]) -> str:
    """The type of an option or argument, its variable, and its default."""
    shown = "flag" if kind is bool else "word" if issubclass(kind, Enum) else kind.__name__
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    variable = f", or {parameter.envvar}" if parameter.envvar else ""
    default = getattr(parameter.default, "value", parameter.default)
    if parameter.required:
        end = REQUIRED
    else:
        end = "optional" if default is None or default is False else f"default {default}"
    return f"{shown}{', several' * several}{variable}, {end}"


# --- REST -------------------------------------------------------------------------------


def rest() -> Facts:
    document = create_app(PolosClient()).openapi()
    schemas = document["components"]["schemas"]
    sent: set[str] = set()
    found: dict[str, dict[str, str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            facts = {THING: "operation"}
            for one in operation.get("parameters", ()):
                needed = REQUIRED if one.get("required") else "optional"
                name = f"{one['in']} {one['name']}"
                facts[name] = f"{_schema(one['schema'])}, {needed}"
                facts |= {f"{name} = {json.dumps(word)}": "value" for word in _words(one["schema"])}
            body = operation.get("requestBody", {})
            for kind, content in body.get("content", {}).items():
                sent |= _names(content["schema"], schemas)
                needed = REQUIRED if body.get("required") else "optional"
                facts[f"body {kind}"] = f"{_schema(content['schema'])}, {needed}"
            for status, response in operation["responses"].items():
                facts[f"response {status}"] = "no content"
                for kind, content in response.get("content", {}).items():
                    is_problem = kind == problems.MEDIA_TYPE
                    shape = "problem" if is_problem else _schema(content.get("schema", {}))
                    facts[f"response {status}"] = f"{shape} as {kind}"
            found[f"{method.upper()} {path}"] = facts
    for name, schema in schemas.items():
        found[f"schema {name}"] = dict(_fields(schema, REQUIRED if name in sent else "always there"))
    problem = problems.DOCUMENTED["content"][problems.MEDIA_TYPE]["schema"]
    found["schema problem"] = dict(_fields(problem, "always there"))
    return found


def _fields(schema: Json, needed: str) -> Iterator[tuple[str, str]]:
    yield THING, str(schema.get("type", "schema"))
    for name, one in schema.get("properties", {}).items():
        is_needed = name in schema.get("required", ())
        yield name, f"{_schema(one)}, {needed if is_needed else 'optional'}"
        for word in _words(one):
            yield f"{name} = {json.dumps(word)}", "value"


def _schema(schema: Json) -> str:
    """A schema on one line: without what is for people, and without words, which are facts of their own."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_schema(one) for one in schema[key])
    if "enum" in schema or "const" in schema:
        return "word"
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {_schema(schema.get('items', {}))}"
    more = schema.get("additionalProperties")
    if kind == "object" and isinstance(more, dict):
        kind = f"object of {_schema(more)}"
    known = ("$defs", "type", "items", "additionalProperties", *NO_SCHEMA_FACTS)
    rest = {key: value for key, value in sorted(schema.items()) if key not in known}
    return " ".join((kind, *(f"{key}={json.dumps(value)}" for key, value in rest.items())))


def _words(schema: Json) -> Iterator[Any]:
    yield from schema.get("enum", ())
    if "const" in schema:
        yield schema["const"]
    for key in ("anyOf", "oneOf"):
        for one in schema.get(key, ()):
            yield from _words(one)
    if "items" in schema:
        yield from _words(schema["items"])


def _names(schema: Any, schemas: Json) -> set[str]:
    """The names of the schemas that a schema refers to, directly or not."""
    found: set[str] = set()
    left = [schema]
    while left:
        for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(left.pop())):
            if name not in found:
                found.add(name)
                left.append(schemas[name])
    return found


# --- problems ---------------------------------------------------------------------------


def problem_types() -> Facts:
    """Each kind with its HTTP statuses and further members: of the table of errors, and of `Problem(...)`."""
    found: dict[str, dict[str, str]] = {}
    for error, (status, _, names) in problems.REFUSALS.items():
        members = [problems.RENAMED.get(name, name) for name in names]
        _add_problem(found, problems.kind_of(error), status, members)
    for path in sorted((PACKAGE / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                named = {one.arg: one.value for one in node.keywords if one.arg}
                if isinstance(named.get("kind"), ast.Constant):
                    kind, status = ast.literal_eval(named["kind"]), ast.literal_eval(node.args[0])
                    _add_problem(found, kind, status, named.keys() - {"kind", "title", "headers"})
    return found


def _add_problem(found: dict[str, dict[str, str]], kind: str, status: int, members: Any) -> None:
    facts = found.setdefault(problems.KIND + kind, {THING: "problem"})
    facts[f"status {status}"] = "value"
    facts.update(dict.fromkeys(members, "member"))


# --- metrics ----------------------------------------------------------------------------


def metrics() -> Facts:
    found: dict[str, dict[str, str]] = {}
    for source, table in (("namespace", STATE), ("worker", WORKER)):
        for metric in table:
            labels = f" by {', '.join(metric.labels)}" if metric.labels else ""
            found[metric.name] = {THING: f"{metric.kind}{labels}, of the {source}"}
    for name, bounds in (("polos_step_seconds", STEP_SECONDS), ("polos_wait_seconds", WAIT_SECONDS)):
        found[name] |= {f"bucket {bound:g}": "value" for bound in bounds}
    return found


# --- settings ---------------------------------------------------------------------------


def settings() -> Facts:
    """The options of clients and workers, and whatever else the package reads from the environment."""
    found = {
        f"option {one.name}": {THING: one.environment, "default": str(one.default)}
        for one in OPTIONS.values()
    }
    known = {one.environment for one in OPTIONS.values()}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.fullmatch(r"POLOS_[A-Z_]+", name) and name not in known:
                found[f"environment {name}"] = {THING: "variable"}
    return found
