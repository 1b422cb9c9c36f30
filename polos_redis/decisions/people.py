"""People: the names of those who decide and of their groups, as API keys and links carry them."""

from __future__ import annotations

from collections.abc import Iterable

from polos_redis.errors import ConfigurationError

GROUP = "group:"  # before a group's name, among approvers
LONGEST = 200  # characters


def check_name(what: str, name: str) -> str:
    """Returns a valid name of a person or a group. Raises `ConfigurationError` about `what`."""
    fits = isinstance(name, str) and 0 < len(name) <= LONGEST and name.isprintable() and name == name.strip()
    if not fits or name.startswith(GROUP):
        raise ConfigurationError(
            f"{what} must be 1 to {LONGEST} printable characters, without spaces around them or "
            f"{GROUP!r} before them, not {name!r}"
        )
    return name


def check_groups(what: str, groups: Iterable[str]) -> tuple[str, ...]:
    """Returns valid group names, each once, in order. Raises `ConfigurationError` about `what`."""
    if isinstance(groups, str):
        raise ConfigurationError(f"{what}: groups must be a list of names, not {groups!r}")
    return tuple(dict.fromkeys(check_name(f"{what}: a group's name", one) for one in groups))
