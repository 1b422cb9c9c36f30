"""The client: define, start, await, list, end and delete workflows."""
