"""`polos demo`: a workflow that asks a person, from beginning to end in one terminal."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from polos_redis.errors import PolosError

from .options import SERVER_NEEDS, By, who
from .output import line, panel, print_json, until
from .values import UsageError

if TYPE_CHECKING:
    from polos_redis.events import Event
    from polos_redis.polos import Polos

NAMESPACE = "demo"  # whatever this shell's POLOS_NAMESPACE says: the other terminal may say something else
SUSPENSION = "high_value_approval"


def add_to(app: typer.Typer) -> None:
    app.command(short_help="See it work, in one terminal.")(demo)


def demo(
    approve: Annotated[bool, typer.Option("--approve", help="Approve instead of being asked.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Reject instead of being asked.")] = False,
    by: By = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the end as JSON; the story goes to stderr.")
    ] = False,
) -> None:
    """See a workflow stop for a person's approval and go on: a $5,000 charge, on a Redis of its own.

    Nothing needs to be installed or running, and nothing is left behind. While it asks, another terminal may
    answer instead, with the `polos resume` line that is shown, or a browser, on the page whose address is.

    \b
    Examples:
      polos demo
      polos demo --approve
      polos demo --reject --json
    """
    if approve and reject:
        raise UsageError("--approve and --reject contradict each other: give one of them")
    decision = True if approve else False if reject else None
    if decision is None and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on: give --approve or --reject")
    try:
        asyncio.run(_Demo(decision, who(by), sys.stderr if json else sys.stdout, json).run())
    except KeyboardInterrupt:
        line("", stream=sys.stderr)
        line("stopped; nothing is left behind", stream=sys.stderr)
        raise typer.Exit(130) from None


class _Demo:
    """One run of the demo."""

    def __init__(self, decision: bool | None, by: str | None, out: TextIO, json: bool) -> None:
        self.decision, self.by, self.out, self.json = decision, by, out, json
        self.asking: asyncio.Task[None] | None = None
        self.prompting = False
        self.pages: str | None = None

    async def run(self) -> None:
        from polos_redis.events import stream_workflow
        from polos_redis.polos import Polos

        from .demo_charge import ChargeRequest, charge_customer

        self.say(("starting a Redis server and a worker", "dim"))
        async with (
            Polos(embedded=True, namespace=NAMESPACE, workflows=[charge_customer]) as polos,
            _pages(polos, wanted=self.decision is None) as self.pages,
        ):
            request = ChargeRequest(
                customer_id="cust_123", amount=5000.00, description="Enterprise annual subscription"
            )
            handle = await charge_customer.invoke(polos, request)
            self.say("workflow ", (charge_customer.id, "bold"), f" started: {handle.id}")
            try:
                async for event in stream_workflow(polos, handle.root_workflow_id, handle.id):
                    await self.tell(polos, handle.id, event)
            finally:
                await self.stop_asking()
            result = await handle.result()
            if self.json:
                print_json({"id": handle.id, "status": "completed", "result": result.model_dump(mode="json")})
        if result.status == "completed":
            self.say(("Charge completed", "bold green"), f": {result.charge_id}")
        else:
            self.say((f"Charge {result.status}", "bold red"), f": {result.reason}")

    # --- telling ------------------------------------------------------------------------

    def say(self, *parts: Any) -> None:
        line(*parts, stream=self.out)

    async def tell(self, polos: Polos, execution_id: str, event: Event) -> None:
        """Tell one event as it happens; a suspension is put before the person."""
        kind, data = event.event_type, event.data
        if kind == "step_finish":
            self.say(
                "  ",
                ("done  ", "green") if data["status"] == "ok" else ("failed", "red"),
                f"  {data['step_key']}",
            )
        elif kind == f"suspend_{SUSPENSION}":
            await self.show(polos, execution_id)
            self.asking = asyncio.create_task(self.answer(polos, execution_id))
        elif kind == f"resume_{SUSPENSION}":
            elsewhere = self.prompting
            await self.stop_asking()
            if elsewhere:
                line("", stream=self.out)  # the prompt's line is not finished
            self.say(
                "  ",
                ("answer", "cyan"),
                f"  {_answer(data['data'])}",
                _by(data),
                " (elsewhere)" if elsewhere else "",
            )
        elif kind == f"timeout_{SUSPENSION}":
            await self.stop_asking()
            self.say("  nobody answered in time")

    async def show(self, polos: Polos, execution_id: str) -> None:
        (waits,) = (await polos.get_execution(execution_id))["open_suspensions"]
        shown = waits["data"]
        panel(
            "A high-value charge requires approval",
            {
                "Customer": shown["customer_id"],
                "Amount": f"${shown['amount']:,.2f}",
                "Description": shown["description"],
                "Waits": until(waits["expires_at"]),
            },
            self.out,
        )
        command = ["polos", "resume", execution_id, SUSPENSION, "--approve"]
        self.say("The workflow holds no task and no connection now. Another terminal could answer, too:")
        self.say("  ", (shlex.join([*command, "--url", polos.url, "--namespace", NAMESPACE]), "cyan"))
        if self.pages:
            self.say("Or a browser:")
            self.say("  ", (f"{self.pages}/approve/{execution_id}", "cyan"))

    # --- asking -------------------------------------------------------------------------

    async def answer(self, polos: Polos, execution_id: str) -> None:
        approved = await self.ask() if self.decision is None else self.decision
        data = {"approved": True} if approved else {"approved": False, "reason": "Rejected in the demo"}
        try:
            await polos.resume(
                suspend_execution_id=execution_id,
                suspend_step_key=SUSPENSION,
                data=data,
                resumed_by=self.by,
                channel="cli",
            )
        except PolosError as error:  # somebody else was quicker, say
            self.say("  ", (str(error), "yellow"))

    async def ask(self) -> bool:
        """Ask until there is a yes or a no; the end of the input is a no."""
        while True:
            self.out.write("approve? y/N ")
            self.out.flush()
            self.prompting = True
            typed = await _read_line()
            self.prompting = False
            if typed is None:
                line("", stream=self.out)
                self.say("no answer (the input has ended), which is a no")
                return False
            word = typed.strip().lower()
            if word in ("y", "yes"):
                return True
            if word in ("", "n", "no"):
                return False
            self.say("please answer y or n")

    async def stop_asking(self) -> None:
        self.prompting = False
        if self.asking is not None:
            self.asking.cancel()
            await asyncio.wait([self.asking])
            self.asking = None


@asynccontextmanager
async def _pages(polos: Polos, *, wanted: bool) -> AsyncIterator[str | None]:
    """The approval page and the inbox of this run, where what they need is installed: their address."""
    if not wanted or any(importlib.util.find_spec(name) is None for name in SERVER_NEEDS):
        yield None
        return
    from polos_redis.server.listening import serving

    async with serving(polos, insecure_dev=True) as url:
        yield url


async def _read_line() -> str | None:
    """A line typed on the terminal, None at its end. Holds up nothing, and can be cancelled."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[bytes] = loop.create_future()
    stdin = sys.stdin.fileno()

    def readable() -> None:
        loop.remove_reader(stdin)
        try:
            data = os.read(stdin, 4096)
        except OSError:  # the terminal is gone
            data = b""
        if not typed.done():
            typed.set_result(data)

    loop.add_reader(stdin, readable)
    try:
        data = await typed
    finally:
        loop.remove_reader(stdin)
    return data.decode(errors="replace") if data else None


def _answer(data: Any) -> str:
    return "approved" if isinstance(data, dict) and data.get("approved") is True else "not approved"


def _by(data: dict[str, Any]) -> str:
    return f" by {data['resumed_by']}" if data["resumed_by"] else ""
