"""Executions: start, await, query, cancel, retry and delete them."""
