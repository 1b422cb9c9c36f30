"""Checks of what the user of a server may do there."""

from __future__ import annotations

from polos_redis.diagnosis.finding import Finding, ok, problem, unknown, warning
from polos_redis.errors import RedisRefusedError
from polos_redis.state.needed_commands import find_denied, find_missing
from polos_redis.state.store import Store
from polos_redis.values.text import text
from polos_redis.worker.server_checks import NEEDED

# What clients and workers can do without, and what is lost then.
USEFUL = {
    "INFO": "workers can't check the server's version",
    "CONFIG GET": "workers can't check eviction and persistence",
    "BGREWRITEAOF": "workers can't have the log rewritten after a crash",
    "SCRIPT LOAD": "each script is sent once with its source",
    "CLIENT SETNAME": "CLIENT LIST does not show which connections are whose",
    "CLIENT ID": "a stop, or a new reader of events, may take two seconds longer",
    "CLIENT UNBLOCK": "a stop, or a new reader of events, may take two seconds longer",
}
CONFIRMING = {"WAIT": "replicated", "WAITAOF": "fsync"}


async def check_rights(store: Store, prefix: bytes, address: str, durability: str) -> list[Finding]:
    """Returns what the user may not do on the server that has a partition."""
    check, patience = "rights", store.partitions.patience
    try:
        missing = await find_missing(store.wire, prefix, patience)
    except RedisRefusedError as error:
        remedy = 'grant what the page "Redis settings" lists under "An ACL user"'
        return [problem(check, address, str(error), remedy)]
    if missing is None:
        return [problem(check, address, "this server can't run the scripts of polos-redis", f"use {NEEDED}")]
    lacking, denied = missing
    found: list[Finding] = []
    if lacking:
        found.append(
            problem(
                check,
                address,
                f"the server does not know {', '.join(lacking)}",
                f"use {NEEDED}, with its commands under their own names",
            )
        )
    if denied:
        rules = " ".join(f"+{name.lower().replace(' ', '|')}" for name in denied)
        found.append(
            problem(
                check,
                address,
                f"the user may not run {', '.join(denied)} on the keys {text(prefix)}*",
                f"grant the ACL user ~polos:* &polos:* {rules}",
            )
        )
    names = [*USEFUL, *(name for name, promise in CONFIRMING.items() if promise == durability)]
    try:
        not_useful = await find_denied(store.wire, prefix, names, patience)
    except RedisRefusedError as error:
        return [*found, unknown(check, address, str(error), "run it again")]
    by_loss: dict[str, list[str]] = {}
    for name in not_useful:
        by_loss.setdefault(USEFUL.get(name, f"durability={durability!r} can't be had"), []).append(name)
    for loss, names in by_loss.items():
        rules = " ".join(f"+{name.lower().replace(' ', '|')}" for name in names)
        level = warning if names[0] in USEFUL else problem
        found.append(
            level(
                check,
                address,
                f"the user may not run {' and '.join(names)}: {loss}",
                f"grant the ACL user {rules}",
            )
        )
    return found or [ok(check, address, "the user may run every command that is needed")]
