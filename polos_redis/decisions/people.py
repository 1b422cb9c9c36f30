"""Who decides: the names of people and of their groups, as keys and links carry them."""

from __future__ import annotations

from collections.abc import Iterable

from polos_redis.errors import ConfigurationError

GROUP = "group:"  # before a group's name, among approvers
LONGEST = 200  # characters


def check_name(what: str, name: str) -> str:
    """A person's or a group's name. Raises `ConfigurationError`, which begins with `what`."""
    fits = isinstance(name, str) and 0 < len(name) <= LONGEST and name.isprintable() and name == name.strip()
    if not fits or name.startswith(GROUP):
        raise ConfigurationError(
            f"{what} is 1 to {LONGEST} printable characters, with no blank at its ends and without "
            f"{GROUP!r} before them, not {name!r}"
        )
    return name


def check_groups(what: str, groups: Iterable[str]) -> tuple[str, ...]:
    """The names of groups, each once, in the order given. Raises `ConfigurationError`."""
    if isinstance(groups, str):
        raise ConfigurationError(f"{what}: groups is a list of names, not {groups!r}")
    return tuple(dict.fromkeys(check_name(f"{what}: a group's name", one) for one in groups))
