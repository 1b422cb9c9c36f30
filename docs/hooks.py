"""MkDocs hooks: generated reference pages and diagrams.

The command line's page comes from its help, REST's from its OpenAPI document. Mermaid diagrams are drawn as
SVG at build time: the site loads no script from another host, and a broken diagram fails the build.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import mermaidx
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pymdownx.superfences import SuperFencesException
from typer.cli import get_docs_for_click

Json = dict[str, Any]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    fence = {"name": "mermaid", "class": "diagram", "format": diagram}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def diagram(source: str, language: str, css_class: str, options: Json, md: Any, **rest: Any) -> str:
    try:
        svg = mermaidx.render(source).svg()
    except Exception as error:
        raise SuperFencesException(f"a diagram can't be drawn: {error}\n{source}") from error
    # Unique ids: a page may have several diagrams, and each styles itself by its id.
    svg = svg.replace("my-svg", f"diagram-{hashlib.sha256(source.encode()).hexdigest()[:8]}")
    style = "background: white; padding: 1em; text-align: center"
    return f'<figure class="{css_class}" style="{style}">{svg}</figure>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, content in (("reference/cli.md", cli_page()), ("reference/rest.md", rest_page())):
        files.append(File.generated(config, name, content=content))
    return files


# --- the command line ---


def cli_page() -> str:
    app = import_module("polos_redis.cli.app").app
    command: Any = typer.main.get_command(app)
    _fence_examples(command)
    with command.make_context("polos", [], resilient_parsing=True) as context:
        page = get_docs_for_click(obj=command, ctx=context, name="polos", title="The `polos` command")
    # Drop the prompt, and the angle brackets of types.
    page = page.replace("```console\n$ ", "```\n")
    return re.sub(r"^(\* `[^`]*) <([^`]*)>`", r"\1 \2`", page, flags=re.MULTILINE)


def _fence_examples(command: Any) -> None:
    """Turn preformatted paragraphs (marked with \\b) into code blocks."""
    paragraphs = []
    for part in (command.help or "").split("\n\n"):
        if part.startswith("\b"):
            title, _, rest = part.removeprefix("\b\n").partition("\n")
            if title.startswith(" "):
                title, rest = "", f"{title}\n{rest}"
            lines = [line.removeprefix("  ") for line in rest.splitlines()]
            part = "\n".join([title, "", "```", *lines, "```"])
        paragraphs.append(part)
    command.help = "\n\n".join(paragraphs)
    for one in getattr(command, "commands", {}).values():
        _fence_examples(one)


# --- REST ---


def rest_page() -> str:
    from polos_redis import PolosClient
    from polos_redis.server.app import create_app

    document = create_app(PolosClient()).openapi()
    return "\n".join(_rest_lines(document)) + "\n"


def _rest_lines(document: Json) -> Iterator[str]:
    yield from ("# REST", "", document["info"]["description"], "")
    yield from ("`polos serve` serves this as OpenAPI at `/openapi.json`.", "")
    yield from ("[The guide](../guides/rest-api.md) covers keys, scopes, signed links and event streams.", "")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _operation(method, path, operation)
    yield from ("## Bodies", "")
    for name, schema in document["components"]["schemas"].items():
        yield from (f"### {name}", "", schema.get("description", ""), "")
        yield from _fields(schema)


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield from (f"## `{method.upper()} {path}`", "", operation.get("description", ""), "")
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"`{one['name']}`",
                one["in"],
                _type(one["schema"]),
                "yes" if one.get("required") else "no",
                one.get("description") or one["schema"].get("description", ""),
            )
            for one in parameters
        ]
        yield from _table(("parameter", "in", "type", "required", "meaning"), rows)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body: {_type(content['schema'])} as `{kind}`.", "")
    answers = []
    for status, response in operation["responses"].items():
        bodies = [f"{_type(one['schema'])} as `{kind}`" for kind, one in _contents(response)]
        shown = "otherwise" if status == "default" else status
        answers.append((shown, " or ".join(bodies), response["description"]))
    yield from _table(("status", "body", "meaning"), answers)


def _contents(response: Json) -> Iterable[tuple[str, Json]]:
    return [(kind, one) for kind, one in response.get("content", {}).items() if "schema" in one]


def _fields(schema: Json) -> Iterator[str]:
    required = schema.get("required", [])
    rows = [
        (f"`{name}`", _type(one), "yes" if name in required else "no", one.get("description", ""))
        for name, one in schema.get("properties", {}).items()
    ]
    if rows:
        yield from _table(("field", "type", "required", "meaning"), rows)


def _type(schema: Json) -> str:
    """A schema in one phrase; named schemas become links."""
    if ref := schema.get("$ref"):
        name = ref.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key] if one != {"type": "null"})
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(more := schema.get("additionalProperties"), dict):
        return f"object of {_type(more)}"
    if kind == "object" and "title" in schema:
        return str(schema["title"])
    limits = [
        f"{sign} {schema[name]:g}"
        for name, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if name in schema
    ]
    return " ".join([str(schema.get("format", kind)), *limits])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in row) + " |"
    yield ""
