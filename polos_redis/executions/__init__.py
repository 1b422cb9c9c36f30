"""Executions: starting, reading, listing and awaiting them."""
