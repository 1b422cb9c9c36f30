"""The commands that polos-redis needs: those of its scripts, and those it sends without a script."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgpack

from polos_redis.state import keys, scripts
from polos_redis.wire.routing import AnyWire

# A key of the partition, one of its channels, and the words of commands that don't take keys only.
_KEY, _CHANNEL = "*key*", "*channel*"
_WORDS: dict[str, tuple[str, ...]] = {
    "BGREWRITEAOF": (),
    "CLIENT ID": (),
    "CLIENT SETNAME": ("polos",),
    "CLIENT UNBLOCK": ("1",),
    "CONFIG GET": ("appendonly",),
    "EVAL": ("return 1", "1", _KEY),
    "EVALSHA": ("0" * 40, "1", _KEY),
    "INFO": (),
    "PING": (),
    "SCRIPT LOAD": ("return 1",),
    "SPUBLISH": (_CHANNEL, ""),
    "SSUBSCRIBE": (_CHANNEL,),
    "TIME": (),
    "WAIT": ("1", "1"),
    "WAITAOF": ("1", "1", "1"),
    "XACKDEL": (_KEY, "g", "IDS", "1", "0-1"),
    "XGROUP CREATE": (_KEY, "g", "0"),
    "XGROUP CREATECONSUMER": (_KEY, "g", "c"),
    "XGROUP DELCONSUMER": (_KEY, "g", "c"),
    "XINFO CONSUMERS": (_KEY, "g"),
    "XINFO GROUPS": (_KEY,),
    "XREAD": ("STREAMS", _KEY, "0"),
    "XREADGROUP": ("GROUP", "g", "c", "STREAMS", _KEY, ">"),
}
_CALL = re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?")
_KEYS = (_KEY, _KEY, _KEY)  # of all others: enough for those that take two
_WITH_SUBCOMMANDS = {"XGROUP", "XINFO"}
_WHERE_KNOWN = {"XACKDEL"}  # used by scripts where the server has it

# What clients and workers send themselves. They can do without CLIENT, CONFIG, INFO and SCRIPT LOAD.
SENT = (
    *(
        "DEL",
        "EVAL",
        "EVALSHA",
        "EXISTS",
        "GET",
        "HDEL",
        "HGET",
        "HGETALL",
        "HMGET",
        "HSCAN",
        "HSET",
        "HSETNX",
    ),
    *("HVALS", "PING", "SET", "SMEMBERS", "SSCAN", "SSUBSCRIBE", "TIME", "XINFO CONSUMERS", "XPENDING"),
    *("XRANGE", "XREAD", "XREADGROUP", "XREVRANGE", "ZCARD", "ZMSCORE", "ZRANGE", "ZSCAN", "ZSCORE"),
)


def needed() -> list[str]:
    """The names of all commands, with their subcommands, in alphabetical order."""
    found = set(SENT)
    for script in scripts.ALL:
        for name, word in _CALL.findall(script.source.decode()):
            found.add(f"{name} {word}" if name in _WITH_SUBCOMMANDS else name)
    return sorted(found)


async def find_missing(
    wire: AnyWire, prefix: bytes, patience: float | None
) -> tuple[list[str], list[str]] | None:
    """Ask a partition's server which commands it does not know, and which ones this user may not run on the
    partition's keys and channels. None if it can't say: it is neither Redis 7 nor Valkey, or newer."""
    found = await _ask(wire, prefix, needed(), patience)
    if found is None:
        return None
    unknown, denied = found
    return [name for name in unknown if name not in _WHERE_KNOWN], denied


async def find_denied(
    wire: AnyWire, prefix: bytes, names: Sequence[str], patience: float | None
) -> list[str]:
    """Returns those of some commands that this user can't run on a partition's server."""
    found = await _ask(wire, prefix, names, patience)
    return [] if found is None else [name for name in names if name in (*found[0], *found[1])]


async def _ask(
    wire: AnyWire, prefix: bytes, names: Sequence[str], patience: float | None
) -> tuple[list[str], list[str]] | None:
    places = {_KEY: prefix + b"exec:", _CHANNEL: prefix + keys.REPLY.encode()}
    commands = [
        [*name.split(), *(places.get(word, word) for word in _WORDS.get(name, _KEYS))] for name in names
    ]
    packed = msgpack.packb(commands, use_bin_type=False)  # Redis' cmsgpack knows the old format only
    reply = await wire.call_script(scripts.CHECK_COMMANDS, prefix, packed, patience=patience)
    if reply is None:
        return None
    unknown, denied = ([names[position - 1] for position in positions] for positions in reply)
    return unknown, denied
