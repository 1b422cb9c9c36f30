"""polos_redis.testing: what users test their workflows with."""
