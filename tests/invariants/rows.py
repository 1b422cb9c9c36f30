"""The rows of open waits in a namespace, read without our client."""

from __future__ import annotations

from tests.invariants.state import read_all


def rows(url: str, namespace: str) -> set[str]:
    """Timers, suspensions and subscriptions (each with its step key at the end), and errands other than the
    checks of subscriptions."""
    found: set[str] = set()
    for partition in read_all(url, namespace):
        found |= {f"timer {_key(member)}" for member in partition.timers}
        found |= {f"suspension {_key(member)}" for member in partition.suspensions}
        found |= {f"errand {one.decode()}" for one in partition.errands if one[:1] != b"s"}
        for topic, members in partition.subs.items():
            found |= {f"{topic.decode()} {member.decode().split(' ', 2)[2]}" for member in members}
    return found


def _key(member: bytes) -> str:
    return member.decode().partition(" ")[2]
