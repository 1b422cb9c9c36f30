"""Every option of clients and workers, its environment variable and its default: one table."""

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


@dataclass(frozen=True, slots=True)
class Option:
    """One option: what it is called, where else it can come from, and what it means."""

    name: str
    environment: str
    default: Any
    parse: Callable[[Any], Any]
    meaning: str
    private: bool = False  # not to be repeated by a message


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


def _web_address(value: Any) -> str:
    """An http or https URL."""
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (TypeError, ValueError, AttributeError):
        fits = False
    if not fits or not value.isascii() or any(c.isspace() for c in value) or parts.fragment:
        raise ValueError("an address as https://polos.example.com/path, without #")
    return str(value)


def _web_folder(value: Any) -> str:
    """An http or https URL to put paths behind."""
    if "?" in (found := _web_address(value)):
        raise ValueError("an address as https://polos.example.com, without ?")
    return found.rstrip("/")


def _texts(value: Any) -> list[str]:
    """Texts that are not empty, as a list or separated by commas."""
    given = value.split(",") if isinstance(value, str) else value
    try:
        return [one.strip() for one in given if one.strip()]
    except (TypeError, AttributeError):
        return []


def _secrets(value: Any) -> list[str]:
    found = _texts(value)
    if not found or min(map(len, found)) < SHORTEST_SECRET:
        raise ValueError(
            f"secrets of {SHORTEST_SECRET} characters at least, with commas between (the first signs)"
        )
    return found


def _webhook_secrets(value: Any) -> list[str]:
    """Secrets as the Standard Webhooks specification writes them."""
    found = _texts(value)
    try:
        sizes = [len(b64decode(one.removeprefix("whsec_"), validate=True)) for one in found]
    except ValueError:
        sizes = []
    if not sizes or not all(24 <= size <= 64 for size in sizes):
        raise ValueError("secrets as whsec_<base64 of 24 to 64 bytes>, with commas between")
    return found


def _port(value: Any) -> int:
    """A TCP port; 0 means any free one."""
    try:
        port = -1 if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        port = -1
    if not 0 <= port <= 65535:
        raise ValueError("a port, 1 to 65535 (0 for any that is free)")
    return port


_count, _seconds = _positive(int), _positive(float)

OPTIONS = {
    option.name: option
    for option in (
        Option("url", "POLOS_REDIS_URL", "redis://127.0.0.1:6379/0", _text, "where Redis is", private=True),
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
        Option(
            "audit_seconds",
            "POLOS_AUDIT_SECONDS",
            31_536_000.0,
            _seconds,
            "how long the audit of a suspension is kept",
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
        Option(
            "metrics_port",
            "POLOS_METRICS_PORT",
            None,
            _port,
            "the port at which a worker shows its metrics; when left out, it shows none",
        ),
        Option(
            "metrics_host",
            "POLOS_METRICS_HOST",
            "127.0.0.1",
            _text,
            "the address for that; `0.0.0.0` in a container",
        ),
        Option(
            "public_url",
            "POLOS_PUBLIC_URL",
            None,
            _web_folder,
            "where people reach the approval page; suspend events and notifications then have its address",
        ),
        Option(
            "secret",
            "POLOS_SECRET",
            None,
            _secrets,
            "signs approval links; several with commas between: the first signs, all verify",
            private=True,
        ),
        Option("link_seconds", "POLOS_LINK_SECONDS", 604800.0, _seconds, "how long a signed link holds"),
        Option(
            "webhook_url",
            "POLOS_WEBHOOK_URL",
            None,
            _web_address,
            "where workers send a notification of every suspension",
            private=True,
        ),
        Option(
            "webhook_secret",
            "POLOS_WEBHOOK_SECRET",
            None,
            _webhook_secrets,
            "signs notifications, as `whsec_...`; several with commas between: all sign",
            private=True,
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
        shown = "what it was given" if option.private else repr(value)
        raise ConfigurationError(f"{source} takes {wanted}, not {shown}") from None
