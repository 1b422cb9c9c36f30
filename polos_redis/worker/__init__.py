"""Workers: processes that read the queues and run activations."""

from polos_redis.worker.worker import Worker

__all__ = ["Worker"]
