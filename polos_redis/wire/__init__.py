"""Connections to Redis: URLs, transports, and the multiplexed wire that carries all calls."""
