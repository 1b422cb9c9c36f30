"""Embedded Redis or Valkey server, for development and tests."""

from polos_redis.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
