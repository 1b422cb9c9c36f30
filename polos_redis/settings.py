"""Table of all options of clients and workers, with their environment variables and defaults."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from polos_redis.definitions.queue import as_queue
from polos_redis.errors import ConfigurationError

T = TypeVar("T")

SHORTEST_SECRET = 32  # characters
DURABILITIES = ("server", "fsync", "replicated")
LONG_JOURNAL = 0.2  # of `max_journal_records`: from there on a journal is long
STUCK_SECONDS = 10.0  # without a use of ctx, while code has yet to reach an accepted decision


@dataclass(frozen=True, slots=True)
class Option:
    """An option of clients or workers.

    `parse` checks and converts a value and raises ValueError with the expected form. The value of a
    `private` option never appears in a message.
    """

    name: str
    environment: str
    default: Any
    parse: Callable[[Any], Any]
    meaning: str
    private: bool = False


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty string")
    return value


def _urls(value: Any) -> str:
    """The URL of a server, or of several: a list, or a text with commas between them."""
    urls = [value] if isinstance(value, str) else value
    if not isinstance(urls, (list, tuple)) or not urls or not all(isinstance(u, str) and u for u in urls):
        raise ValueError("the URL of a server, or a list with the URL of each server")
    return ",".join(urls)


def _positive(kind: type[int] | type[float]) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        expected = "a positive whole number" if kind is int else "a positive number of seconds"
        if isinstance(value, bool):
            raise ValueError(expected)
        try:
            number = kind(value)
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        if not 0 < number < 1e12 or (isinstance(value, float) and number != value):
            raise ValueError(expected)
        return number

    return parse


def _queue_names(value: Any) -> list[str]:
    """Queue names, from a list or a comma-separated string, without duplicates."""
    queues = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    try:
        names = {as_queue(queue, "").name for queue in queues}
    except (TypeError, ConfigurationError):
        names = set()
    if not names:
        raise ValueError("a list of at least one queue name")
    return sorted(names)


def _web_url(value: Any) -> str:
    """An http or https URL."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (TypeError, ValueError, AttributeError):
        valid = False
    if not valid or not value.isascii() or any(c.isspace() for c in value) or parts.fragment:
        raise ValueError("a URL like https://polos.example.com/path, without #")
    return str(value)


def _base_url(value: Any) -> str:
    """An http or https URL to append paths to."""
    if "?" in (url := _web_url(value)):
        raise ValueError("a URL like https://polos.example.com, without ?")
    return url.rstrip("/")


def _non_empty(value: Any) -> list[str]:
    """The non-empty items of a list or of a comma-separated string."""
    items = value.split(",") if isinstance(value, str) else value
    try:
        return [item.strip() for item in items if item.strip()]
    except (TypeError, AttributeError):
        return []


def _secrets(value: Any) -> list[str]:
    secrets = _non_empty(value)
    if not secrets or min(map(len, secrets)) < SHORTEST_SECRET:
        raise ValueError(f"one or more secrets of at least {SHORTEST_SECRET} characters, separated by commas")
    return secrets


def _webhook_secrets(value: Any) -> list[str]:
    """Secrets in the format of the Standard Webhooks specification."""
    secrets = _non_empty(value)
    try:
        sizes = [len(b64decode(secret.removeprefix("whsec_"), validate=True)) for secret in secrets]
    except ValueError:
        sizes = []
    if not sizes or not all(24 <= size <= 64 for size in sizes):
        raise ValueError("one or more secrets like whsec_<base64 of 24 to 64 bytes>, separated by commas")
    return secrets


def _durability(value: Any) -> str:
    if value not in DURABILITIES:
        raise ValueError("server, fsync or replicated")
    return str(value)


def _port(value: Any) -> int:
    """A TCP port, or 0 for any free one."""
    try:
        port = -1 if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        port = -1
    if not 0 <= port <= 65535:
        raise ValueError("a port from 1 to 65535, or 0 for any free port")
    return port


_count, _seconds = _positive(int), _positive(float)

OPTIONS = {
    option.name: option
    for option in (
        Option(
            "url",
            "POLOS_REDIS_URL",
            "redis://127.0.0.1:6379/0",
            _urls,
            "URL of Redis; of several servers, a list or comma-separated",
            private=True,
        ),
        Option(
            "namespace", "POLOS_NAMESPACE", "default", _text, "separates installations that share a Redis"
        ),
        Option(
            "partitions",
            "POLOS_PARTITIONS",
            1,
            _count,
            "number of hash slots the state is spread over; fixed per namespace",
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
            "largest stored input, result or answer, in bytes",
        ),
        Option(
            "patience_seconds",
            "POLOS_PATIENCE_SECONDS",
            30.0,
            _seconds,
            "how long a client's call waits for Redis to come back",
        ),
        Option(
            "durability",
            "POLOS_DURABILITY",
            "server",
            _durability,
            "what a client's call has confirmed before it returns: `server`, `fsync` or `replicated`",
        ),
        Option(
            "replicas",
            "POLOS_REPLICAS",
            1,
            _count,
            "how many replicas must have received a call that is to be `replicated`",
        ),
        Option(
            "audit_seconds",
            "POLOS_AUDIT_SECONDS",
            31_536_000.0,
            _seconds,
            "how long the audit trail of a suspension is kept",
        ),
        Option("concurrency", "POLOS_CONCURRENCY", 100, _count, "activations a worker runs at once"),
        Option(
            "lease_seconds",
            "POLOS_LEASE_SECONDS",
            15.0,
            _seconds,
            "a worker silent this long is presumed dead",
        ),
        Option(
            "blocked_seconds",
            "POLOS_BLOCKED_SECONDS",
            1.0,
            _seconds,
            "an event loop blocked this long is reported, with the code that blocks it",
        ),
        Option(
            "max_blocked_seconds",
            "POLOS_MAX_BLOCKED_SECONDS",
            300.0,
            _seconds,
            "a worker whose event loop is blocked this long gives its executions up; `polos worker` exits",
        ),
        Option(
            "max_deliveries",
            "POLOS_MAX_DELIVERIES",
            5,
            _count,
            "an execution fails after losing this many workers in a row",
        ),
        Option(
            "max_journal_records",
            "POLOS_MAX_JOURNAL_RECORDS",
            50_000,
            _count,
            "most records of one execution's journal; from a fifth of it on, the worker warns",
        ),
        Option(
            "grace_seconds",
            "POLOS_GRACE_SECONDS",
            25.0,
            _seconds,
            "how long running steps may continue after SIGTERM",
        ),
        Option(
            "put_back_seconds",
            "POLOS_PUT_BACK_SECONDS",
            2.0,
            _seconds,
            "delay before an execution that a worker can't load or read is offered again",
        ),
        Option(
            "queues",
            "POLOS_QUEUES",
            None,
            _queue_names,
            "comma-separated queues a worker reads; by default those of its workflows and `default`",
        ),
        Option(
            "metrics_port",
            "POLOS_METRICS_PORT",
            None,
            _port,
            "port on which a worker serves its metrics; by default it serves none",
        ),
        Option(
            "metrics_host",
            "POLOS_METRICS_HOST",
            "127.0.0.1",
            _text,
            "address that port is bound to; `0.0.0.0` in a container",
        ),
        Option(
            "public_url",
            "POLOS_PUBLIC_URL",
            None,
            _base_url,
            "base URL of the approval page; suspend events and notifications then link to it",
        ),
        Option(
            "secret",
            "POLOS_SECRET",
            None,
            _secrets,
            "comma-separated secrets for approval links: the first signs, all verify",
            private=True,
        ),
        Option("link_seconds", "POLOS_LINK_SECONDS", 604800.0, _seconds, "how long a signed link is valid"),
        Option(
            "webhook_url",
            "POLOS_WEBHOOK_URL",
            None,
            _web_url,
            "URL to which workers send a notification of every suspension",
            private=True,
        ),
        Option(
            "webhook_secret",
            "POLOS_WEBHOOK_SECRET",
            None,
            _webhook_secrets,
            "comma-separated secrets (`whsec_...`); all of them sign each notification",
            private=True,
        ),
    )
}


def long_journal(max_records: int) -> int:
    """The number of records from which on a journal is long."""
    return int(max_records * LONG_JOURNAL)


def resolve(name: str, argument: Any = None) -> Any:
    """The value of an option: the argument, else the environment variable, else the default.

    Raises `ConfigurationError` if the value is invalid.
    """
    option = OPTIONS[name]
    value, source = argument, f"{name}="
    if value is None:
        value, source = os.environ.get(option.environment), option.environment
        if value is None or value == "":
            return option.default
    try:
        return option.parse(value)
    except ValueError as expected:
        but = "" if option.private else f", not {value!r}"
        raise ConfigurationError(f"{source} must be {expected}{but}") from None
