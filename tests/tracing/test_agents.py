"""The spans of agents: runs, model calls and tools, with the attributes of the GenAI conventions."""

from __future__ import annotations

from pathlib import Path

import pytest

from polos_redis.testing.model import Call, Fail, Say, ScriptedModel
from tests.harness.collector import collecting
from tests.harness.command import Command
from tests.tracing.test_workers import CONFIGURED

AGENTS = """
from dataclasses import dataclass
from polos_redis import Agent, tool

@dataclass
class City:
    name: str

@tool
def weather(city: City) -> str:
    "The weather in a city."
    return f"4 degrees in {city.name}"

@tool
async def tide(city: City) -> str:
    "The tide in a city."
    return "high"

agent = Agent(id="forecaster", model="gpt-4o", provider="PROVIDER", tools=[weather, tide], temperature=0.5,
              max_output_tokens=500)
"""
REPLIES = [
    Say(tool_calls=[Call("weather", {"name": "Riga"}), Call("tide", {"name": "Riga"})], usage=(100, 20)),
    Say("Cold.", usage=(150, 30)),
]


@pytest.mark.parametrize("provider", ["openai", "openai-responses"])
async def test_an_agent(redis_url: str, namespace: str, tmp_path: Path, provider: str) -> None:
    (tmp_path / "app.py").write_text(CONFIGURED + AGENTS.replace("PROVIDER", provider))
    async with ScriptedModel(REPLIES) as model:
        with collecting() as collector:
            polos = Command(redis_url, namespace, tmp_path)
            polos.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
            with polos.worker("app.py"):
                done = await polos("invoke", "forecaster", "--input", '"Weather?"', "--wait")
                assert done.code == 0, done.err
    assert len(model.log) == 2
    (run,) = collector.named("activation forecaster")
    assert run.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert run.attributes["gen_ai.agent.name"] == "forecaster"
    assert run.attributes["gen_ai.usage.input_tokens"] == 250
    assert run.attributes["gen_ai.usage.output_tokens"] == 50
    calls = collector.named("chat gpt-4o")
    steps = [collector.named(f"step model_{number}")[0] for number in (1, 2)]
    assert [call.parent_id for call in calls] == [step.id for step in steps]
    for call, (tokens_in, tokens_out) in zip(calls, [(100, 20), (150, 30)], strict=True):
        assert call.kind == 3 and not call.is_error  # CLIENT
        expected = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.max_tokens": 500,
            "gen_ai.agent.name": "forecaster",
            "gen_ai.usage.input_tokens": tokens_in,
            "gen_ai.usage.output_tokens": tokens_out,
        }
        assert expected.items() <= call.attributes.items()
        assert len(call.attributes["gen_ai.response.finish_reasons"]) == 1
    for name in ("weather", "tide"):
        (tool,) = [one for one in collector.spans if one.attributes.get("gen_ai.tool.name") == name]
        assert tool.name.startswith("step tool_1.") and tool.parent_id == run.id
        assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
        assert tool.attributes["gen_ai.tool.call.id"]
    texts = str([one.attributes for one in collector.spans])
    assert "Riga" not in texts and "Cold" not in texts  # neither arguments nor answers


async def test_a_model_call_that_fails(redis_url: str, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CONFIGURED + AGENTS.replace("PROVIDER", "openai"))
    async with ScriptedModel([Fail(400)]):
        with collecting() as collector:
            polos = Command(redis_url, namespace, tmp_path)
            polos.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
            with polos.worker("app.py"):
                done = await polos("invoke", "forecaster", "--input", '"Weather?"', "--wait")
                assert done.code != 0
    (call,) = collector.named("chat gpt-4o")
    assert call.is_error and call.attributes["error.type"] == "NoRetryError"
    (step,) = collector.named("step model_1")
    (run,) = collector.named("activation forecaster")
    assert step.is_error and run.is_error and call.parent_id == step.id
