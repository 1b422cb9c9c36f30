"""What a client does: define, start, await, list, end, delete."""
