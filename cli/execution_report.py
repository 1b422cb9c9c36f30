"""The report that `polos show` prints about an execution."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from shlex import join, quote
from typing import Any

from polos_redis import settings
from polos_redis.executions.statuses import attempt_details, details
from polos_redis.state.statuses import UNFINISHED

from .output import Long, Part, compact, line, lines, status
from .suspensions import not_reached, requirements, resume_command
from .times import dated, duration, in_words, since, until, utc

LABEL_WIDTH = 12


def print_report(execution: dict[str, Any], *, full: bool = False) -> None:
    """Prints everything about an execution, the most urgent facts first. Tracebacks have the frames of the
    user's own code, or all if `full`."""
    _print_summary(execution)
    _print_waits(execution)
    left_out = execution["left_out"]
    _print_section(
        "steps",
        execution["steps"],
        lambda one: _print_step(one, _set(execution, one) or _copied(execution, one["finished_at"]), full),
        left_out["steps"],
    )
    _print_section(
        "suspensions",
        execution["suspensions"],
        lambda one: _print_suspension(one, execution["id"], _copied(execution, one["decided_at"])),
        left_out["suspensions"],
    )
    _print_section("early answers", execution["early_answers"], _print_early_answer)
    _print_section("children", execution["children"], _print_child, left_out["children"])
    _print_section(
        "suspensions below",
        execution["open_suspensions_below"],
        lambda one: _print_suspension(one, one["execution_id"], f" of {one['execution_id']}"),
    )
    if execution["unreached_steps"]:
        line()
        names = ", ".join(execution["unreached_steps"])
        line(
            ("not reached", "bold yellow"),
            "  in the journal, but not reached by the last activation: ",
            names,
        )
    if error := execution["error"]:
        line()
        line(("error", "bold red"), "  ", Long(f"{error['type']}: {error['message']}"))
        _print_traceback(error, "  ", full)


def _print_summary(execution: dict[str, Any]) -> None:
    _field("execution", (execution["id"], "bold"))
    version = f", version {execution['version']}" if execution["version"] else ""
    _field("workflow", execution["workflow_id"], version)
    if execution["parent_execution_id"]:
        _field("child of", execution["parent_execution_id"])
    if execution["forked_from"]:
        by = f", by {execution['forked_by'][-1]}" if execution["forked_by"] else ""
        _field("forked from", execution["forked_from"], by)
    stuck = execution["stuck"]
    is_told_below = stuck or execution["status"] == "failed"
    more = "" if is_told_below else in_words(details(execution))
    _field("status", status(execution["status"]), f" {more}" if more else "")
    if stuck:
        _print_stuck(execution["id"], execution["status"], stuck)
    if execution["run"] > 1:
        error = execution["last_error"]
        after = f", after {error['type']}: {error['message']}" if error else ""
        _field("run", f"{execution['run']}{_continued(execution)}", Long(after))
    _field("created", dated(execution["created_at"]))
    for label in ("started", "finished"):
        if execution[f"{label}_at"]:
            _field(label, dated(execution[f"{label}_at"]))
    for one in execution["running_steps"][1:]:  # the status names the first
        _field("runs", (one["step_key"], "bold"), f", {in_words(attempt_details(one))}")
    for one in execution["running_steps"]:
        if one["progress_at"]:
            at = f" at {dated(one['progress_at'])}"
            _field("progress", (one["step_key"], "bold"), ": ", compact(one["progress"]), at)
    if block := execution["blocked_loop"]:
        _print_block(block)
    if execution["unserved"]:
        of = f"version {execution['version']} of " if execution["pinned"] else ""
        _field(
            "unserved",
            (f"no worker serves {of}this workflow", "bold yellow"),
            ": deploy its code, or cancel it",
        )
    if execution["lost_deliveries"]:
        _field("lost", f"{execution['lost_deliveries']} workers in a row while they ran it")
    if held := execution["held_back"]:
        times = "once" if held["times"] == 1 else f"{held['times']} times"
        _field("held back", f"{times}, until a worker can read it: ", Long(held["reason"]))
    _field("input", compact(execution["input"]))
    if execution["state"] is not None:
        _field("state", compact(execution["state"]))
    if execution["status"] == "completed":
        _field("result", compact(execution["result"]))
    if records := execution["records"]:
        _print_length(records, execution["status"] in UNFINISHED)
    if usage := execution["usage"]:
        tokens = f"{usage['input_tokens']} tokens in, {usage['output_tokens']} out"
        _field("models", f"{tokens}, {usage['requests']} requests")


def _print_block(block: dict[str, Any]) -> None:
    seconds = duration(block["seconds"])
    if not block["by_itself"]:
        _field(
            "held up",
            ("the event loop of its worker is blocked", "bold yellow"),
            f" for {seconds} by other code",
        )
        return
    where = f"step {block['step_key']}" if block["step_key"] is not None else "its code between steps"
    _field(
        "blocks",
        ("the event loop of its worker", "bold yellow"),
        f" for {seconds}: {where}, at {block['at']}; a plain function as a step runs in a thread",
    )


def _continued(execution: dict[str, Any]) -> str:
    """Returns in which run it has continued as new, if it has."""
    since = execution["continued_in"]
    if since is None:
        return ""
    return ", continued as new" + ("" if since == execution["run"] else f" in run {since}")


def _print_length(records: int, goes_on: bool) -> None:
    limit = settings.resolve("max_journal_records")
    long: list[Part] = []
    if goes_on and records > settings.long_journal(limit):
        long = [
            (f" of at most {limit:,}", "bold yellow"),
            ": call ctx.continue_as_new, or let children do parts of the work",
        ]
    _field("journal", f"{records:,} {'record' if records == 1 else 'records'}", *long)


def _print_stuck(execution_id: str, word: str, stuck: dict[str, Any]) -> None:
    _field(word, (Long(stuck["message"]), "bold red"))
    if word == "paused":
        _field("go on with", join(["polos", "retry", execution_id]), ", once the cause is fixed")
        return
    decisions = [one for one in stuck["passed_over"] if one["at"] is not None]
    for one in decisions:
        by = f" by {one['by']}" if one["by"] else ""
        at = f" at {utc(one['at'])} ({one['channel']})"
        _field("decided", (one["step_key"], "bold"), ": ", compact(one["data"]), f"{by}{at}")
    _field("go on with", join(["polos", "retry", execution_id]), ", once code that reaches it is deployed")
    if decisions:
        skip = [part for one in decisions for part in ("--skip", one["step_key"])]
        _field(
            "or with", join(["polos", "retry", execution_id, *skip, "--reason", "TEXT"]), ", to pass it over"
        )


def _print_waits(execution: dict[str, Any]) -> None:
    for one in execution["open_suspensions"]:
        _field("waits for", (one["step_key"], "bold"), f", {until(one['expires_at'])}{not_reached(one)}")
    for one in execution["steps"]:
        if one["status"] == "backoff" and execution["status"] == "waiting":
            _field("waits for", (one["step_key"], "bold"), ", to retry it")
    for one in execution["waits"]:
        if one["status"] == "open":
            event = f", an event of {one['topic']}" if one["topic"] else ""
            _field("waits for", (one["step_key"], "bold"), f"{event}, {until(one['until'])}")
    for key, count in _unfinished_children(execution["children"]).items():
        _field("waits for", (key, "bold"), f", {count} {'child' if count == 1 else 'children'}")


def _field(label: str, *parts: Part) -> None:
    line((label.ljust(LABEL_WIDTH), "dim"), *parts)


def _print_section(
    title: str, rows: list[dict[str, Any]], print_row: Callable[[dict[str, Any]], None], left_out: int = 0
) -> None:
    if rows:
        line()
        line((title, "bold"))
        if left_out:
            line(f"  {left_out:,} older ones are not shown")
        for row in rows:
            print_row(row)


def _copied(execution: dict[str, Any], at: str | None) -> str:
    """Returns a remark about what a fork has from the execution that it was forked from: it ended before."""
    if not execution["forked_from"] or at is None:
        return ""
    return "  copied" if datetime.fromisoformat(at) < datetime.fromisoformat(execution["created_at"]) else ""


def _set(execution: dict[str, Any], step: dict[str, Any]) -> str:
    """Returns a remark about a step whose result a fork has set."""
    if step["step_key"] not in execution["results_set"]:
        return ""
    return "  set" + (
        f" by {execution['forked_by'][-1]}" if len(execution["forked_by"]) == 1 else " by a fork"
    )


def _print_step(one: dict[str, Any], remark: str, full: bool) -> None:
    parts: list[Part] = ["  ", (one["step_key"], "bold"), "  ", status(one["status"])]
    if one["finished_at"]:
        parts.append(f"  at {utc(one['finished_at'])}")
    if one.get("took_ms") is not None:
        parts.append(f"  took {duration(one['took_ms'] / 1000)}")
    if one.get("attempts", 1) > 1:
        parts.append(f"  {one['attempts']} attempts")
    line(*parts, remark)
    error = one.get("error")
    if error is None:
        line("      ", compact(one.get("value")))
    elif isinstance(error, str):  # the journal entry is unreadable
        line("      ", (Long(error), "red"))
    else:
        line("      ", (Long(f"{error['type']}: {error['message']}"), "red"))
        _print_traceback(error, "      ", full)


def _print_traceback(error: dict[str, Any], indent: str, full: bool) -> None:
    trace = error["traceback" if full else "own_traceback"]
    if trace:
        lines(trace, indent, "dim")


def _unfinished_children(children: list[dict[str, Any]]) -> dict[str, int]:
    """Returns, per step that waits for children, the number of them still running."""
    counts: dict[str, int] = {}
    for one in children:
        if one["waited_for"] and one["status"] in UNFINISHED:
            counts[one["step_key"]] = counts.get(one["step_key"], 0) + 1
    return counts


def _print_child(one: dict[str, Any]) -> None:
    line(
        *("  ", (one["step_key"], "bold"), "  ", status(one["status"] or "deleted")),
        *("  ", one["id"], f"  {one['workflow_id']}" if one["workflow_id"] else ""),
    )


def _why_marked(mark: dict[str, Any]) -> str:
    """Returns why code need not reach an accepted answer."""
    if mark["kind"] == "left":
        return "by the code, which cancelled the task that asked"
    if mark["kind"] == "optional":
        return "since it was asked after something that a retry ran again"
    by = f"by {mark['by']} " if mark["by"] else ""
    return f"{by}at {utc(mark['at'])}: {mark['reason']}"


def _print_early_answer(one: dict[str, Any]) -> None:
    by = f" by {one['resumed_by']}" if one["resumed_by"] else ""
    line("  ", (one["step_key"], "bold"), f"  came before its suspension{by} ({one['channel'] or 'damaged'})")
    if failed := one["errand"]:
        if failed["status"] == "running":
            line("      ", f"is being checked, attempt {failed['attempts']}")
            return
        attempts = f"{failed['attempts']} {'attempt' if failed['attempts'] == 1 else 'attempts'}"
        line("      ", (f"could not be checked, after {attempts}: ", "red"), (Long(failed["error"]), "red"))
        if failed["status"] == "set aside":
            line("      ", "set aside; try again: ", f"polos errands retry {quote(failed['errand'])}")


def _print_suspension(one: dict[str, Any], execution_id: str, suffix: str = "") -> None:
    parts: list[Part] = ["  ", (one["step_key"], "bold"), suffix, "  ", status(one["status"])]
    if one["status"] == "open":
        parts.append(f"  {since(one['opened_at'])}, {until(one['expires_at'])}{not_reached(one)}")
    elif one["status"] == "answered":
        by = f" by {one['resumed_by']}" if one["resumed_by"] else ""
        parts.append(f"{by} at {utc(one['decided_at'])} ({one['channel']})")
    else:
        parts.append(f"  at {utc(one['decided_at'])}, opened {utc(one['opened_at'])}")
    line(*parts)
    line("      shown   ", compact(one["data"]))
    if one["status"] == "answered":
        line("      answer  ", compact(one["answer"]))
        if mark := one["mark"]:
            line("      ", mark["kind"].ljust(7), " ", _why_marked(mark))
    elif one["status"] == "expired" and one["on_timeout"]:
        line(
            "      answer  ",
            compact(one["on_timeout"]["data"]),
            (" (the default: nobody answered in time)", "dim"),
        )
    for decision in one["decisions"]:
        by, at = decision["by"] or "an anonymous user", utc(decision["at"])
        line("      decided ", compact(decision["data"]), f" by {by} at {at} ({decision['channel']})")
    if one["status"] == "open":
        if needed := requirements(one):
            line("      needs   ", needed)
        command = resume_command(execution_id, one["step_key"], schema=one["schema"])
        line(("      answer it with  ", "dim"), command)
