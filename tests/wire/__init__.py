"""Connections to Redis: one server, sentinels, clusters, and every kind of trouble."""
