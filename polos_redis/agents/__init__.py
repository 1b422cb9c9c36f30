"""Agents: models with instructions and tools, run as workflows.

Importing this package imports no provider's package.
"""

from polos_redis.agents.agent import Agent, AgentCall
from polos_redis.agents.asking import ask_user
from polos_redis.agents.conversation import AgentInput, AgentResult, RunSoFar, ToolResult, Usage
from polos_redis.agents.options import StopCondition
from polos_redis.agents.stream import AgentStream, Restarted
from polos_redis.agents.tools import Tool, tool

__all__ = [
    "Agent",
    "AgentCall",
    "AgentInput",
    "AgentResult",
    "AgentStream",
    "Restarted",
    "RunSoFar",
    "StopCondition",
    "Tool",
    "ToolResult",
    "Usage",
    "ask_user",
    "tool",
]
