"""The Lua scripts, one by one, against the exact state of Redis."""
