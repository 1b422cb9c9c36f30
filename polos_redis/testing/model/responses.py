"""OpenAI's responses, as a scripted model speaks them."""

from __future__ import annotations

import json

from polos_redis.testing.model.api import StreamedAnswer, pieces
from polos_redis.testing.model.refusals import RefusedRequest, check_name, check_string
from polos_redis.testing.model.replies import Json, Say
from polos_redis.testing.model.requests import ModelRequest


class ResponsesApi:
    tool_param = "tools[{}]"
    format_param = "text.format"

    def check(self, request: ModelRequest) -> None:
        calls: dict[str, bool] = {}  # answered?
        for index, item in enumerate(request.items):
            param = f"input[{index}]"
            if item.get("type") == "function_call":
                check_name(item["name"], f"{param}.name")
                check_string(item["arguments"], f"{param}.arguments")
                calls[item["call_id"]] = False
            elif item.get("type") == "function_call_output":
                if calls.get(item["call_id"], True):
                    raise RefusedRequest(f"there is no open function call {item['call_id']}", "input")
                calls[item["call_id"]] = True
        if owed := [call for call, answered in calls.items() if not answered]:
            raise RefusedRequest(f"there is no output for the function calls {', '.join(owed)}", "input")

    def whole(self, request: ModelRequest, say: Say) -> Json:
        incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(say.finish)
        status = "incomplete" if incomplete else "completed"
        read, written = say.usage
        return {
            **self._created(request),
            "status": status,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "output": self._output(request, say, status),
            "usage": {
                "input_tokens": read,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + written,
            },
        }

    def stream(self, request: ModelRequest, say: Say) -> StreamedAnswer:
        created, whole = self._created(request), self.whole(request, say)
        chunks: list[list[Json]] = []
        for index, item in enumerate(whole["output"]):
            of_item = {"output_index": index, "item_id": item["id"]}
            if item["type"] == "message":
                events = self._message_events(item, say, of_item)
            else:
                events = self._call_events(item, say, of_item)
            opened = {**item, "status": "in_progress", **({"content": []} if "content" in item else {})}
            if "arguments" in item:
                opened["arguments"] = ""
            added = {"type": "response.output_item.added", "output_index": index, "item": opened}
            done = {"type": "response.output_item.done", "output_index": index, "item": item}
            events[0].insert(0, added)
            events[-1].append(done)
            chunks += events
        opening = [{"type": f"response.{kind}", "response": created} for kind in ("created", "in_progress")]
        message = "the model failed in the middle of its answer"
        failed = {**created, "status": "failed", "error": {"code": "server_error", "message": message}}
        return StreamedAnswer(
            opening,
            chunks,
            closing=[{"type": f"response.{whole['status']}", "response": whole}],
            failure=[{"type": "response.failed", "response": failed}],
        )

    def frames(self, events: list[Json], sent: int, last: bool) -> bytes:
        return b"".join(
            f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
            for number, event in enumerate(events, sent)
        )

    def _created(self, request: ModelRequest) -> Json:
        body = request.body
        return {
            "id": f"resp_{request.id}",
            "object": "response",
            "created_at": int(request.began),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": body["model"],
            "output": [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": body.get("previous_response_id"),
            "store": body.get("store", True),
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None,
        }

    def _output(self, request: ModelRequest, say: Say, status: str) -> list[Json]:
        output: list[Json] = []
        if say.refusal is not None:
            part: Json = {"type": "refusal", "refusal": say.refusal}
        else:
            part = {"type": "output_text", "text": say.content, "annotations": [], "logprobs": []}
        if say.refusal is not None or say.content or not say.tool_calls:
            message = {"id": f"msg_{request.id}", "type": "message", "role": "assistant", "content": [part]}
            output.append({**message, "status": status})
        for number, call in enumerate(say.tool_calls):
            item = {"id": f"fc_{request.id}_{number}", "type": "function_call", "call_id": call.id}
            output.append({**item, "name": call.name, "arguments": call.json, "status": status})
        return output

    def _message_events(self, item: Json, say: Say, of_item: Json) -> list[list[Json]]:
        (part,) = item["content"]
        word = "refusal" if part["type"] == "refusal" else "text"
        kind = "refusal" if word == "refusal" else "output_text"
        of_part = {**of_item, "content_index": 0, **({"logprobs": []} if word == "text" else {})}
        where = {**of_item, "content_index": 0}
        chunks = [
            [{"type": f"response.{kind}.delta", **of_part, "delta": piece}]
            for piece in pieces(part[word], say.chunks)
        ]
        chunks[0].insert(0, {"type": "response.content_part.added", **where, "part": {**part, word: ""}})
        chunks[-1].append({"type": f"response.{kind}.done", **of_part, word: part[word]})
        chunks[-1].append({"type": "response.content_part.done", **where, "part": part})
        return chunks

    def _call_events(self, item: Json, say: Say, of_item: Json) -> list[list[Json]]:
        kind = "response.function_call_arguments"
        chunks = [
            [{"type": f"{kind}.delta", **of_item, "delta": piece}]
            for piece in pieces(item["arguments"], say.chunks)
        ]
        chunks[-1].append({"type": f"{kind}.done", **of_item, "arguments": item["arguments"]})
        return chunks
