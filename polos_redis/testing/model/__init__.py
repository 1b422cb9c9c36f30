"""A model whose replies a test scripts, spoken to over HTTP as the real one is."""

from polos_redis.testing.model.replies import Call, Fail, Hang, Reply, Say
from polos_redis.testing.model.requests import ModelRequest, read_log, repeated
from polos_redis.testing.model.script import ScriptedReplies, When
from polos_redis.testing.model.server import Answering, ScriptedModel

__all__ = [
    "Answering",
    "Call",
    "Fail",
    "Hang",
    "ModelRequest",
    "Reply",
    "Say",
    "ScriptedModel",
    "ScriptedReplies",
    "When",
    "read_log",
    "repeated",
]
