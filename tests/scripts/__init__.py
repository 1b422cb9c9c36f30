"""The Lua scripts, each alone, against the exact state of Redis."""
