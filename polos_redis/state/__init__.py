"""State in Redis: its keys, its records, and the scripts that change it."""
