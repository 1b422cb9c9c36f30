"""People: the names of those who start, decide and answer, and of their groups."""

from __future__ import annotations

from collections.abc import Iterable

from polos_redis.errors import ConfigurationError, PolosError
from polos_redis.values.names import LONGEST, canonical, fault_in

GROUP = "group:"  # before a group's name, among approvers


def check_name(what: str, name: str, error: type[PolosError] = ConfigurationError) -> str:
    """Returns a valid name of a person or a group. Raises `error` about `what`."""
    if not isinstance(name, str):
        raise error(f"{what} must be a name of 1 to {LONGEST} characters, not {name!r}")
    fault = fault_in(name)
    if fault is None and canonical(name).startswith(GROUP):
        fault = f"it begins with {GROUP!r}, which marks a group among approvers"
    if fault is not None:
        shown = ascii(name if len(name) <= LONGEST else f"{name[:20]}...")
        raise error(f"{what} can't be {shown}: {fault}")
    return name


def check_groups(
    what: str, groups: Iterable[str], error: type[PolosError] = ConfigurationError
) -> tuple[str, ...]:
    """Returns valid group names, each once, in order. Raises `error` about `what`."""
    if isinstance(groups, str):
        raise error(f"{what}: groups must be a list of names, not {groups!r}")
    found: dict[str, str] = {}
    for one in groups:
        found.setdefault(canonical(check_name(f"{what}: a group's name", one, error)), one)
    return tuple(found.values())
