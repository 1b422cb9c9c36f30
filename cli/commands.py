"""Registers commands with typer: their help texts and the options they share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter
from typing import Any, get_type_hints

import typer

from .ids import SHORTEST, full_id, is_beginning, is_too_short
from .options import ConnectionOptions
from .usage import UsageError

CONTEXT = {"help_option_names": ["-h", "--help"]}


def add(app: typer.Typer, command: Callable[..., None], short_help: str, name: str | None = None) -> None:
    """Adds a command whose help is its docstring. A parameter `connection: ConnectionOptions` becomes the
    options --url, --namespace and --patience, and `connection: DurableOptions` --durability and --replicas as
    well. With a connection, a parameter `execution_id` gets the whole id if a beginning was given."""
    text = flowing(inspect.getdoc(command) or "")
    app.command(name, short_help=short_help, help=text)(_expanded(command))


def flowing(text: str) -> str:
    """Joins the lines of each paragraph so that the terminal wraps them. Keeps paragraphs marked with \\b."""
    return "\n\n".join(
        part if part.startswith("\b") else part.replace("\n", " ") for part in text.split("\n\n")
    )


def _expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Typer reads one option per parameter, so `connection` is replaced by its fields."""
    parameters = inspect.signature(command).parameters
    if "connection" not in parameters:
        return command
    hints = get_type_hints(command, include_extras=True)
    options: type[ConnectionOptions] = hints["connection"]
    option_hints = get_type_hints(options, include_extras=True)
    expanded: list[Parameter] = []
    for one in parameters.values():
        if one.name == "connection":
            expanded += [
                Parameter(
                    option.name,
                    Parameter.KEYWORD_ONLY,
                    default=option.default,
                    annotation=option_hints[option.name],
                )
                for option in fields(options)
            ]
        else:
            expanded.append(one.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[one.name]))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        connection = options(**{option.name: values.pop(option.name) for option in fields(options)})
        given = values.get("execution_id")
        if given is not None and is_too_short(given):
            raise UsageError(f"{given!r} is too short for an id: type at least {SHORTEST} digits of it")
        if given is not None and is_beginning(given):
            values["execution_id"] = connection.run(lambda client: full_id(client, given))
        command(connection=connection, **values)

    run.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in expanded}
    return run
