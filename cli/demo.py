"""`polos demo`: a workflow that asks for approval, from start to finish in one terminal."""

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

from . import commands
from .options import SERVER_NEEDS, By, person
from .output import Part, line, panel, print_json
from .times import until
from .usage import UsageError

if TYPE_CHECKING:
    from polos_redis.events import Event
    from polos_redis.polos import Polos

NAMESPACE = "demo"  # fixed: POLOS_NAMESPACE may differ in the other terminal
SUSPENSION = "high_value_approval"


def add_to(app: typer.Typer) -> None:
    commands.add(app, demo, "Watch an approval workflow in one terminal.")


def demo(
    approve: Annotated[bool, typer.Option("--approve", help="Approve without asking.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Reject without asking.")] = False,
    by: By = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON and the progress to stderr.")
    ] = False,
) -> None:
    """Watch a workflow stop for approval and continue: a $5,000 charge, on a temporary Redis server.

    Nothing needs to be installed or running, and nothing is left behind. While it asks, you can also answer
    from another terminal, with the `polos resume` command shown, or in a browser, at the address shown.

    \b
    Examples:
      polos demo
      polos demo --approve
      polos demo --reject --json
    """
    if approve and reject:
        raise UsageError("--approve and --reject contradict each other: pass one of them")
    decision = True if approve else False if reject else None
    if decision is None and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on: pass --approve or --reject")
    try:
        asyncio.run(_Demo(decision, person(by), sys.stderr if json else sys.stdout, json).run())
    except KeyboardInterrupt:
        line("", stream=sys.stderr)
        line("stopped; nothing was left behind", stream=sys.stderr)
        raise typer.Exit(130) from None


class _Demo:
    """One run of the demo, and the prompt on its terminal."""

    def __init__(self, decision: bool | None, by: str | None, out: TextIO, json: bool) -> None:
        self.decision, self.by, self.out, self.json = decision, by, out, json
        self.prompt: asyncio.Task[None] | None = None
        self.prompt_open = False
        self.pages: str | None = None

    async def run(self) -> None:
        from polos_redis.events import stream_workflow
        from polos_redis.polos import Polos

        from .demo_charge import ChargeRequest, charge_customer

        self.say(("starting a Redis server and a worker", "dim"))
        async with (
            Polos(embedded=True, namespace=NAMESPACE, workflows=[charge_customer]) as polos,
            _pages(polos, needed=self.decision is None) as self.pages,
        ):
            request = ChargeRequest(
                customer_id="cust_123", amount=5000.00, description="Enterprise annual subscription"
            )
            handle = await charge_customer.invoke(polos, request)
            self.say("workflow ", (charge_customer.id, "bold"), f" started: {handle.id}")
            try:
                async for event in stream_workflow(polos, handle.root_workflow_id, handle.id):
                    await self.report(polos, handle.id, event)
            finally:
                await self.stop_asking()
            result = await handle.result()
            if self.json:
                print_json({"id": handle.id, "status": "completed", "result": result.model_dump(mode="json")})
        if result.status == "completed":
            self.say(("Charge completed", "bold green"), f": {result.charge_id}")
        else:
            self.say((f"Charge {result.status}", "bold red"), f": {result.reason}")

    # --- reporting ----------------------------------------------------------------------

    def say(self, *parts: Part) -> None:
        line(*parts, stream=self.out)

    async def report(self, polos: Polos, execution_id: str, event: Event) -> None:
        """Prints one event. Shows a suspension and asks for its answer."""
        kind, data = event.event_type, event.data
        if kind == "step_finish":
            self.say(
                "  ",
                ("done  ", "green") if data["status"] == "ok" else ("failed", "red"),
                f"  {data['step_key']}",
            )
        elif kind == f"suspend_{SUSPENSION}":
            await self.show(polos, execution_id)
            self.prompt = asyncio.create_task(self.answer(polos, execution_id))
        elif kind == f"resume_{SUSPENSION}":
            was_open = self.prompt_open
            await self.stop_asking()
            if was_open:
                line("", stream=self.out)  # finish the prompt's line
            self.say(
                "  ",
                ("answer", "cyan"),
                f"  {_answer(data['data'])}",
                _by(data),
                " (elsewhere)" if was_open else "",
            )
        elif kind == f"timeout_{SUSPENSION}":
            await self.stop_asking()
            self.say("  nobody answered in time")

    async def show(self, polos: Polos, execution_id: str) -> None:
        (suspension,) = (await polos.get_execution(execution_id))["open_suspensions"]
        data = suspension["data"]
        panel(
            "A high-value charge requires approval",
            {
                "Customer": data["customer_id"],
                "Amount": f"${data['amount']:,.2f}",
                "Description": data["description"],
                "Waits": until(suspension["expires_at"]),
            },
            self.out,
        )
        command = ["polos", "resume", execution_id, SUSPENSION, "--approve"]
        self.say(
            "The workflow now holds no task and no connection. You can also answer from another terminal:"
        )
        self.say("  ", (shlex.join([*command, "--url", polos.url, "--namespace", NAMESPACE]), "cyan"))
        if self.pages:
            self.say("Or in a browser:")
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
        except PolosError as error:  # for example, someone else was faster
            self.say("  ", (str(error), "yellow"))

    async def ask(self) -> bool:
        """Asks until the answer is yes or no. The end of the input counts as no."""
        while True:
            self.out.write("approve? y/N ")
            self.out.flush()
            self.prompt_open = True
            typed = await _read_line()
            self.prompt_open = False
            if typed is None:
                line("", stream=self.out)
                self.say("end of input: this counts as no")
                return False
            word = typed.strip().lower()
            if word in ("y", "yes"):
                return True
            if word in ("", "n", "no"):
                return False
            self.say("please answer y or n")

    async def stop_asking(self) -> None:
        self.prompt_open = False
        if self.prompt is not None:
            self.prompt.cancel()
            await asyncio.wait([self.prompt])
            self.prompt = None


@asynccontextmanager
async def _pages(polos: Polos, *, needed: bool) -> AsyncIterator[str | None]:
    """Serves the approval page and the inbox if their packages are installed; yields the address."""
    if not needed or any(importlib.util.find_spec(name) is None for name in SERVER_NEEDS):
        yield None
        return
    from polos_redis.server.listening import serving

    async with serving(polos, insecure_dev=True) as url:
        yield url


async def _read_line() -> str | None:
    """Returns a line typed on the terminal, None at the end of the input. Can be cancelled."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[bytes] = loop.create_future()
    stdin = sys.stdin.fileno()

    def readable() -> None:
        loop.remove_reader(stdin)
        try:
            data = os.read(stdin, 4096)
        except OSError:  # the terminal was closed
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
