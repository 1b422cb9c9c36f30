"""An execution told to a person: what `polos show` prints."""

from __future__ import annotations

from typing import Any

from polos_redis.decisions.answer_policy import verdict
from polos_redis.values import schemas

from .output import Part, compact, duration, line, lines, moment, since, status, until

LABEL = 12


def print_account(found: dict[str, Any]) -> None:
    """Print everything known of an execution, in the order in which people ask."""
    _field("execution", (found["id"], "bold"))
    _field("workflow", found["workflow_id"])
    if found["parent_execution_id"]:
        _field("child of", found["parent_execution_id"])
    _field("status", status(found["status"]), _ended_by(found))
    if found["run"] > 1:
        _field("run", f"{found['run']}{_last_error(found['last_error'])}")
    _field("created", moment(found["created_at"]))
    if found["started_at"]:
        _field("started", moment(found["started_at"]))
    if found["finished_at"]:
        _field("finished", moment(found["finished_at"]))
    if found["lost_deliveries"]:
        _field("lost", f"{found['lost_deliveries']} times in a row, with the worker that had it")
    _field("input", compact(found["input"]))
    if found["state"] is not None:
        _field("state", compact(found["state"]))
    if found["status"] == "completed":
        _field("result", compact(found["result"]))
    if usage := found["usage"]:
        tokens = f"{usage['input_tokens']} tokens in, {usage['output_tokens']} out"
        _field("models", f"{tokens}, {usage['requests']} requests")
    for one in found["open_suspensions"]:
        _field("waits for", (one["step_key"], "bold"), f", {until(one['expires_at'])}")
    for one in found["steps"]:
        if one["status"] == "backoff" and found["status"] == "waiting":
            _field("waits for", (one["step_key"], "bold"), ", to try it again")
    for one in found["waits"]:
        if one["status"] == "open":
            what = f", an event of {one['topic']}" if one["topic"] else ""
            _field("waits for", (one["step_key"], "bold"), f"{what}, {until(one['until'])}")
    for key, left in _children_to_come(found["children"]).items():
        _field("waits for", (key, "bold"), f", {left} {'child' if left == 1 else 'children'}")
    if found["steps"]:
        line()
        line(("steps", "bold"))
        for one in found["steps"]:
            _step(one)
    if found["suspensions"]:
        line()
        line(("suspensions", "bold"))
        for one in found["suspensions"]:
            _suspension(one, found["id"])
    if found["children"]:
        line()
        line(("children", "bold"))
        for one in found["children"]:
            _child(one)
    if found["open_suspensions_below"]:
        line()
        line(("suspensions below", "bold"))
        for one in found["open_suspensions_below"]:
            _suspension(one, one["execution_id"], f" of {one['execution_id']}")
    if found["unreached_steps"]:
        line()
        names = ", ".join(found["unreached_steps"])
        line(
            ("not reached", "bold yellow"),
            "  journaled, but the code that ended the execution never came to: ",
            names,
        )
    if found["error"]:
        line()
        line(("error", "bold red"), "  ", f"{found['error']['type']}: {found['error']['message']}")
        if found["error"].get("traceback"):
            lines(found["error"]["traceback"], "  ", "dim")


def _field(label: str, *parts: Part) -> None:
    line((label.ljust(LABEL), "dim"), *parts)


def _ended_by(found: dict[str, Any]) -> str:
    return f" by {found['cancelled_by']}" if found["cancelled_by"] else ""


def _step(one: dict[str, Any]) -> None:
    parts: list[Part] = ["  ", (one["step_key"], "bold"), "  ", status(one["status"])]
    if one["finished_at"]:
        parts.append(f"  at {moment(one['finished_at'])}")
    if one.get("took_ms") is not None:
        parts.append(f"  took {duration(one['took_ms'] / 1000)}")
    if one.get("attempts", 1) > 1:
        parts.append(f"  {one['attempts']} attempts")
    line(*parts)
    error = one.get("error")
    if error is None:
        line("      ", compact(one.get("value")))
    elif isinstance(error, str):  # the record itself can't be read
        line("      ", (error, "red"))
    else:
        line("      ", (f"{error['type']}: {error['message']}", "red"))
        if error.get("traceback"):
            lines(error["traceback"], "      ", "dim")


def _last_error(error: dict[str, str] | None) -> str:
    return f", after {error['type']}: {error['message']}" if error else ""


def _children_to_come(children: list[dict[str, Any]]) -> dict[str, int]:
    """How many of the children that a step waits for have not ended."""
    left: dict[str, int] = {}
    for one in children:
        if one["waited_for"] and one["status"] in ("queued", "waiting"):
            left[one["step_key"]] = left.get(one["step_key"], 0) + 1
    return left


def _child(one: dict[str, Any]) -> None:
    line(
        *("  ", (one["step_key"], "bold"), "  ", status(one["status"] or "forgotten")),
        *("  ", one["id"], f"  {one['workflow_id']}" if one["workflow_id"] else ""),
    )


def _suspension(one: dict[str, Any], execution_id: str, whose: str = "") -> None:
    parts: list[Part] = ["  ", (one["step_key"], "bold"), whose, "  ", status(one["status"])]
    if one["status"] == "open":
        parts.append(f"  {since(one['opened_at'])}, {until(one['expires_at'])}")
    elif one["status"] == "answered":
        by = f" by {one['resumed_by']}" if one["resumed_by"] else ""
        parts.append(f"{by} at {moment(one['decided_at'])} ({one['channel']})")
    else:
        parts.append(f"  at {moment(one['decided_at'])}, opened {moment(one['opened_at'])}")
    line(*parts)
    line("      shown   ", compact(one["data"]))
    if one["status"] == "answered":
        line("      answer  ", compact(one["answer"]))
    elif one["status"] == "expired" and one["on_timeout"]:
        line("      answer  ", compact(one["on_timeout"]["data"]), (" (nobody answered in time)", "dim"))
    for made in one["decisions"]:
        who, at = made["by"] or "somebody", moment(made["at"])
        line("      decided ", f"{compact(made['data'])} by {who} at {at} ({made['channel']})")
    if one["status"] == "open":
        if asks := asked_of(one):
            line("      asks    ", asks)
        line(
            ("      answer it with  ", "dim"),
            answer_line(execution_id, one["step_key"], schema=one["schema"]),
        )


def asked_of(one: dict[str, Any]) -> str:
    """What a suspension asks of its answers, on one line; "" for anything from anybody."""
    asks = []
    approvals = sum(verdict(made["data"]) is True for made in one["decisions"])
    if one["approvers"]:
        asks.append(f"of {', '.join(one['approvers'])}")
    if one["required"] > 1:
        asks.append(f"{one['required']} approvals, {approvals} so far")
    if one["rejections"] > 1:
        asks.append(f"or {one['rejections']} rejections, {len(one['decisions']) - approvals} so far")
    if not one["allow_self"]:
        asks.append("not of who has started it")
    if one["schema"]:
        fields = schemas.properties(one["schema"])
        asks.append("with " + ", ".join(fields) if fields else "of a type of its own")
    return "; ".join(asks)


def answer_line(execution_id: str, step_key: str, *options: str, schema: dict[str, Any] | None = None) -> str:
    """The command that answers a suspension, as a shell takes it."""
    import shlex

    answer = ["--approve"]
    if schema is not None and schemas.sample(schema) != {"approved": True}:
        answer = ["--data", compact(schemas.sample(schema))]
    return shlex.join(["polos", "resume", execution_id, step_key, *answer, *options])
