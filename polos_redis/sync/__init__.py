"""polos-redis without asyncio, for Flask, Django and scripts.

Everything has the name it has in `polos_redis`, and returns its result instead of an awaitable. Calls run on
one event loop in a background thread of the process, which all clients and threads share.
"""

from polos_redis.sync import apikeys, events, schedules
from polos_redis.sync.client import PolosClient
from polos_redis.sync.handle import ExecutionHandle
from polos_redis.sync.stream import Stream

__all__ = ["ExecutionHandle", "PolosClient", "Stream", "apikeys", "events", "schedules"]
