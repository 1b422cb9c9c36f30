"""A real Redis or Valkey server as a child of this process, for development and tests."""

from polos_redis.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
