"""Every option of clients and workers, its environment variable and its default: one table."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from polos_redis.errors import ConfigurationError
from polos_redis.queues import as_queue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: what it is called, where else it can come from, and what it means."""

    name: str
    environment: str
    default: Any
    parse: Callable[[Any], Any]
    meaning: str


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def _positive(kind: type[int] | type[float]) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        word = "a positive whole number" if kind is int else "a positive number of seconds"
        if isinstance(value, bool):
            raise ValueError(word)
        try:
            number = kind(value)
        except (TypeError, ValueError):
            raise ValueError(word) from None
        if not 0 < number < 1e12 or (isinstance(value, float) and number != value):
            raise ValueError(word)
        return number

    return parse


def _names(value: Any) -> list[str]:
    """Names of queues, as a list or separated by commas; each once."""
    given = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    try:
        names = {as_queue(name, "").name for name in given}
    except (TypeError, ConfigurationError):
        names = set()
    if not names:
        raise ValueError("names of queues, one at least")
    return sorted(names)


_count, _seconds = _positive(int), _positive(float)

OPTIONS = {
    option.name: option
    for option in (
        Option("url", "POLOS_REDIS_URL", "redis://127.0.0.1:6379/0", _text, "where Redis is"),
        Option("namespace", "POLOS_NAMESPACE", "default", _text, "keeps installations on one Redis apart"),
        Option(
            "partitions",
            "POLOS_PARTITIONS",
            1,
            _count,
            "hash slots the state is spread over; fixed per namespace",
        ),
        Option(
            "retention_seconds",
            "POLOS_RETENTION_SECONDS",
            604800.0,
            _seconds,
            "how long a finished execution is kept",
        ),
        Option(
            "max_value_bytes",
            "POLOS_MAX_VALUE_BYTES",
            1_048_576,
            _count,
            "largest stored input, result or answer",
        ),
        Option(
            "patience_seconds",
            "POLOS_PATIENCE_SECONDS",
            30.0,
            _seconds,
            "how long a client's call waits for Redis to come back",
        ),
        Option("concurrency", "POLOS_CONCURRENCY", 100, _count, "activations a worker runs at once"),
        Option(
            "lease_seconds",
            "POLOS_LEASE_SECONDS",
            15.0,
            _seconds,
            "a worker silent for so long is held for dead",
        ),
        Option(
            "max_deliveries",
            "POLOS_MAX_DELIVERIES",
            5,
            _count,
            "workers an execution may lose in a row before it fails",
        ),
        Option(
            "grace_seconds",
            "POLOS_GRACE_SECONDS",
            25.0,
            _seconds,
            "how long running steps may go on after SIGTERM",
        ),
        Option(
            "put_back_seconds",
            "POLOS_PUT_BACK_SECONDS",
            2.0,
            _seconds,
            "pause before an unknown workflow is offered again",
        ),
        Option(
            "queues",
            "POLOS_QUEUES",
            None,
            _names,
            "queues a worker reads, with commas between; when left out, those of its workflows and `default`",
        ),
    )
}


def resolve(name: str, given: Any = None) -> Any:
    """An option's value: what was given, else its environment variable, else its default."""
    option = OPTIONS[name]
    value, source = given, f"{name}="
    if value is None:
        value, source = os.environ.get(option.environment), option.environment
        if value is None or value == "":
            return option.default
    try:
        return option.parse(value)
    except ValueError as wanted:
        shown = "it" if name == "url" else repr(value)
        raise ConfigurationError(f"{source} takes {wanted}, not {shown}") from None
