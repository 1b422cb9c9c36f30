"""Tests of workflows: replays of recorded executions."""

from polos_redis.testing.histories import replay

__all__ = ["replay"]
