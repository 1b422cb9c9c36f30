"""The effective settings of this process, and what is wrong with them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from polos_redis import settings
from polos_redis.connection.connection import Connection
from polos_redis.diagnosis.finding import Finding, ok, problem, warning
from polos_redis.errors import ConfigurationError
from polos_redis.wire.urls import parse_all, split

# Variables that are read elsewhere: by `polos`, by `polos serve` and by the embedded server.
OTHERS = (
    *(
        "POLOS_CORS_ORIGINS",
        "POLOS_HOST",
        "POLOS_INSECURE_DEV",
        "POLOS_LOG_FORMAT",
        "POLOS_LOG_LEVEL",
        "POLOS_PORT",
    ),
    *("POLOS_RATE_LIMIT", "POLOS_REDIS_SERVER"),
)
ALIKE = 0.85  # of 1: two names that are probably meant to be the same
LOCAL = ("localhost", "127.0.0.1", "::1", None)


def effective_settings(connection: Connection) -> list[dict[str, Any]]:
    """Returns every option as JSON values: its name, environment variable, value and source ("argument",
    "environment" or "default"). Secrets are "set" or None; URLs come without passwords."""
    found = []
    for option in settings.OPTIONS.values():
        try:
            value = settings.resolve(option.name)
        except ConfigurationError:
            value = None  # `check_environment` reports it
        source = "environment" if os.environ.get(option.environment) else "default"
        if option.name in ("url", "namespace", "partitions", "durability", "replicas"):
            own = getattr(connection, option.name)
            source, value = ("argument" if own != value else source), own
        if option.name == "url":
            value = ",".join(one.address for one in parse_all(connection.url))
        elif option.private and value is not None:
            value = "set"
        found.append(
            {"name": option.name, "environment": option.environment, "value": value, "source": source}
        )
    return found


def check_environment(connection: Connection) -> Iterator[Finding]:
    """Yields what is wrong with the settings of this process."""
    fine = True
    for option in settings.OPTIONS.values():
        try:
            settings.resolve(option.name)
        except ConfigurationError as error:
            fine = False
            remedy = "set it to a valid value, or unset it"
            what = str(error).removeprefix(f"{option.environment} ")  # the finding begins with it
            yield problem("settings", option.environment, what, remedy)
    known = [*(option.environment for option in settings.OPTIONS.values()), *OTHERS]
    for name in sorted(os.environ):
        if not name.startswith("POLOS") or name in known:
            continue
        if alike := difflib.get_close_matches(name, known, 1, ALIKE):
            fine = False
            yield warning(
                "settings", name, "this variable is not one of polos-redis", f"did you mean {alike[0]}?"
            )
    if os.environ.get("POLOS_PUBLIC_URL") and not os.environ.get("POLOS_SECRET"):
        fine = False
        yield warning(
            "settings",
            "POLOS_SECRET",
            "POLOS_PUBLIC_URL is set and POLOS_SECRET is not: suspend events and notifications have no links",
            "set POLOS_SECRET to the value that workers and `polos serve` use",
        )
    for url in split(connection.url):
        parts = urlsplit(url)
        is_open = "@" not in parts.netloc and connection.credentials is None
        if is_open and parts.scheme != "unix" and parts.hostname not in LOCAL:
            fine = False
            yield warning(
                "settings",
                parse_all(url)[0].address,
                "the URL has no password: whoever reaches this server may read and answer everything",
                'create a user for polos-redis (the page "Redis settings" says how) and name it in the URL',
            )
    if fine:
        yield ok("settings", "", "every option that is set is valid")
