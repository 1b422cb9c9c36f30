"""The `polos` command."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `polos` command."""
    raise SystemExit("polos: no command is built yet")
