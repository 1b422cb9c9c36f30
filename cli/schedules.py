"""`polos schedules`: what the clock begins, and stopping it for a while."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polos_redis import schedules
from polos_redis.client import PolosClient
from polos_redis.schedules import Schedule

from .options import PATIENCE_SECONDS, Json, Namespace, Patience, Url, ask, client_of
from .output import line, moment, note, print_json, table

ScheduleId = Annotated[str, typer.Argument(metavar="SCHEDULE_ID", help="The schedule's id.")]

group = typer.Typer(
    no_args_is_help=True,
    help="See, pause, resume and delete what the clock begins.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="schedules", short_help="See, pause, resume and delete what the clock begins.")


@group.command("list", short_help="List schedules.")
def list_schedules(
    workflow: Annotated[
        str | None, typer.Option(metavar="WORKFLOW_ID", help="Only of this workflow.")
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """List schedules by workflow and key: the expression, the last tick and the next one.

    \b
    Examples:
      polos schedules list
      polos schedules list --workflow report --json
    """
    client = client_of(url, namespace, patience)
    found = ask(client, lambda: schedules.list(client, workflow))
    if json:
        print_json({"schedules": [_plain(one) for one in found]})
    elif not found:
        note("no schedules")
    else:
        titles = ("ID", "NEXT", "LAST", "CRON", "TIMEZONE", "KEY", "WORKFLOW")
        table(
            titles,
            [
                (
                    one.id,
                    ("paused", "yellow") if one.paused else moment(_iso(one.next_at)),
                    moment(_iso(one.last_at)),
                    one.cron,
                    one.timezone,
                    one.key,
                    one.workflow_id,
                )
                for one in found
            ],
        )


@group.command(short_help="Let a schedule rest.")
def pause(
    schedule_id: ScheduleId,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Let a schedule rest: it begins nothing until it is resumed, also after a deploy.

    \b
    Example:
      polos schedules pause schedule-3f2a...
    """
    client = client_of(url, namespace, patience)
    _tell(ask(client, lambda: _changed(client, schedule_id, schedules.pause)), "paused", json)


@group.command(short_help="Let a paused schedule go on.")
def resume(
    schedule_id: ScheduleId,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Let a paused schedule go on with its next tick; those in between are not made up for.

    \b
    Example:
      polos schedules resume schedule-3f2a...
    """
    client = client_of(url, namespace, patience)
    _tell(ask(client, lambda: _changed(client, schedule_id, schedules.resume)), "resumed", json)


@group.command(short_help="Delete a schedule.")
def delete(
    schedule_id: ScheduleId,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Delete a schedule; what it has begun goes on. One that a workflow declares comes back with the next
    start of a worker: pause it instead.

    \b
    Example:
      polos schedules delete schedule-3f2a...
    """
    client = client_of(url, namespace, patience)
    ask(client, lambda: schedules.delete(client, schedule_id))
    if json:
        print_json({"id": schedule_id, "deleted": True})
    else:
        line("deleted ", (schedule_id, "bold"))


async def _changed(client: PolosClient, schedule_id: str, change: Any) -> Schedule:
    await change(client, schedule_id)
    return await schedules.get(client, schedule_id)


def _tell(schedule: Schedule, done: str, json: bool) -> None:
    if json:
        print_json(_plain(schedule))
    else:
        coming = "" if schedule.next_at is None else f", next at {moment(_iso(schedule.next_at))}"
        line(f"{done} ", (schedule.id, "bold"), f" of {schedule.workflow_id}{coming}")


def _plain(schedule: Schedule) -> dict[str, Any]:
    found = {name: getattr(schedule, name) for name in Schedule.__slots__}
    return {name: _iso(value) if name.endswith("_at") else value for name, value in found.items()}


def _iso(when: Any) -> str | None:
    return None if when is None else when.isoformat(timespec="milliseconds")
