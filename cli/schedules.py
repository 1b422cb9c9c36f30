"""`polos schedules`: list, pause, resume and delete schedules."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polos_redis import schedules
from polos_redis.client import PolosClient
from polos_redis.schedules import Schedule

from . import commands, completion
from .options import ConnectionOptions, Json, OfWorkflow
from .output import Part, line, note, print_json
from .tables import table
from .times import ago, dated, iso

_ID = {"metavar": "SCHEDULE_ID", "help": "The schedule's id."}
ScheduleId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.schedule_ids)]
ActiveId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.active_schedule_ids)]
PausedId = Annotated[str, typer.Argument(**_ID, autocompletion=completion.paused_schedule_ids)]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Manage schedules.", context_settings=commands.CONTEXT)
    commands.add(group, list_schedules, "List schedules.", "list")
    commands.add(group, pause, "Pause a schedule.")
    commands.add(group, resume, "Resume a paused schedule.")
    commands.add(group, delete, "Delete a schedule.")
    app.add_typer(group, name="schedules", short_help="Manage schedules.")


def list_schedules(workflow: OfWorkflow = None, *, connection: ConnectionOptions, json: Json = False) -> None:
    """List schedules by workflow and key, with the cron expression, the last tick and the next one.

    \b
    Examples:
      polos schedules list
      polos schedules list --workflow report --json
    """
    found = connection.run(lambda client: schedules.list(client, workflow))
    if json:
        print_json({"schedules": [_plain(one) for one in found]})
    elif not found:
        note("no schedules")
    else:
        titles = ("ID", "NEXT", "LAST", "CRON", "TIMEZONE", "KEY", "WORKFLOW")
        table(titles, [_row(one) for one in found])


def pause(schedule_id: ActiveId, *, connection: ConnectionOptions, json: Json = False) -> None:
    """Pause a schedule: it starts nothing until it is resumed. Deploying the workflow does not resume it.

    \b
    Example:
      polos schedules pause schedule-3f2a...
    """
    _report(connection.run(lambda client: _changed(client, schedule_id, schedules.pause)), "paused", json)


def resume(schedule_id: PausedId, *, connection: ConnectionOptions, json: Json = False) -> None:
    """Resume a paused schedule at its next tick. Ticks missed while it was paused are not made up.

    \b
    Example:
      polos schedules resume schedule-3f2a...
    """
    _report(connection.run(lambda client: _changed(client, schedule_id, schedules.resume)), "resumed", json)


def delete(schedule_id: ScheduleId, *, connection: ConnectionOptions, json: Json = False) -> None:
    """Delete a schedule; executions that it started continue. If a workflow declares the schedule, the next
    worker to start creates it again: pause it instead.

    \b
    Example:
      polos schedules delete schedule-3f2a...
    """
    connection.run(lambda client: schedules.delete(client, schedule_id))
    if json:
        print_json({"id": schedule_id, "deleted": True})
    else:
        line("deleted ", (schedule_id, "bold"))


async def _changed(client: PolosClient, schedule_id: str, change: Any) -> Schedule:
    await change(client, schedule_id)
    return await schedules.get(client, schedule_id)


def _report(schedule: Schedule, done: str, json: bool) -> None:
    if json:
        print_json(_plain(schedule))
    else:
        next_tick = "" if schedule.next_at is None else f", next at {dated(schedule.next_at)}"
        line(f"{done} ", (schedule.id, "bold"), f" of {schedule.workflow_id}{next_tick}")


def _row(schedule: Schedule) -> tuple[Part, ...]:
    return (
        schedule.id,
        ("paused", "yellow") if schedule.paused else ago(schedule.next_at),
        ago(schedule.last_at),
        schedule.cron,
        schedule.timezone,
        schedule.key,
        schedule.workflow_id,
    )


def _plain(schedule: Schedule) -> dict[str, Any]:
    values = {name: getattr(schedule, name) for name in Schedule.__slots__}
    return {name: iso(value) if name.endswith("_at") else value for name, value in values.items()}
