"""The `polos` command."""
