"""API keys without asyncio: the callers of the REST API and their permissions.

Each function is that of the same name in `polos_redis.apikeys`, and takes a `polos_redis.sync.PolosClient`.
"""

from polos_redis import apikeys
from polos_redis.apikeys import ApiKey
from polos_redis.sync.calls import blocking

__all__ = ["ApiKey", "create", "find", "get", "list_keys", "revoke"]

create = blocking(apikeys.create)
find = blocking(apikeys.find)
get = blocking(apikeys.get)
list_keys = blocking(apikeys.list_keys)
revoke = blocking(apikeys.revoke)
