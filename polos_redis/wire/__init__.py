"""Connections to Redis: URLs, transports, and the multiplexed wire that every call uses."""
