"""The `polos` command: one file per command group."""

from __future__ import annotations


def main() -> None:
    """Runs the `polos` command."""
    from .app import run_app

    run_app()
