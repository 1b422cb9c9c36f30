"""The pages in a real Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AnyUrl, BaseModel, Field, SecretStr, field_serializer

from polos_redis import ExecutionHandle, Rejection, Workflow, WorkflowContext, apikeys
from polos_redis.links import Links
from tests.harness.chromium import (
    ARGS,
    CHROMIUM,
    SECRET,
    Browser,
    ConsoleMessage,
    Page,
    Route,
    async_playwright,
    chromium,
    expect,
)
from tests.harness.running import Running, created_at, running, until
from tests.harness.serving import serving

__all__ = ["chromium"]  # the fixture that skips, or fails, without a browser
EXPECTED = (
    "status of 422",
    "status of 409",
    "status of 403",
)  # what a browser's console reports of these answers


class ChargeRequest(BaseModel):
    customer_id: str
    amount: float
    description: str


class ChargeResponse(BaseModel):
    status: str
    reason: str | None = None
    charge_id: str | None = None


async def charge(ctx: WorkflowContext, input: ChargeRequest) -> ChargeResponse:
    await ctx.step.run("validate_charge", lambda: True)
    if input.amount > 1000:
        resumed = await ctx.step.suspend(
            "high_value_approval",
            data={
                "customer_id": input.customer_id,
                "amount": input.amount,
                "description": input.description,
                "threshold_exceeded": True,
            },
            timeout=7200,
        )
        decision = resumed.get("data", {})
        if not decision.get("approved"):
            return ChargeResponse(status="rejected", reason=decision.get("reason", "Not approved"))
    charge_id = await ctx.step.run("execute_charge", lambda: "ch_1")
    return ChargeResponse(status="completed", charge_id=charge_id)


class Line(BaseModel):
    what: str
    price: float


class Decision(BaseModel):
    approved: bool
    amount: float = Field(gt=0, le=100)
    pay_by: date
    way: Literal["mail", "phone"]
    urgent: bool = False
    lines: list[Line] = []
    payment: Literal["a", "b", "c", "d", "e", "f"] = "a"
    call: Line | None = None
    reason: str | None = None


async def decides(ctx: WorkflowContext, input: None) -> Decision | Rejection:
    return await ctx.step.suspend("decide", data={"of": "an invoice"}, schema=Decision)


class Carrier(Enum):
    VAN = "van"
    SHIP = "ship"


class Address(BaseModel):
    street: str
    house: int


class Card(BaseModel):
    holder: str
    digits: str


class Transfer(BaseModel):
    iban: str


class Order(BaseModel):
    """One field of every type that `Decision` lacks."""

    approved: bool
    seats: int
    price: Decimal
    opens: time
    leaves: datetime
    contact: Annotated[str, Field(json_schema_extra={"format": "email"})]
    site: AnyUrl
    pin: SecretStr
    comment: str
    essay: str = Field(max_length=1000)
    colours: set[Literal["red", "green", "blue"]]
    names: set[str]
    rates: dict[str, float]
    payment: Card | Transfer
    code: int | str
    extras: Any
    address: Address
    carrier: Carrier
    level: Literal["low", "high"]

    @field_serializer("pin", when_used="json")
    def _kept(self, pin: SecretStr) -> str:
        return pin.get_secret_value()


async def orders(ctx: WorkflowContext, input: None) -> str:
    found = await ctx.step.suspend("order", schema=Order)
    assert isinstance(found, Order)
    return found.model_dump_json()


async def twice(ctx: WorkflowContext, input: None) -> None:
    await ctx.step.suspend("first")
    await ctx.step.suspend("second")


async def shows(ctx: WorkflowContext, input: None) -> Any:
    fields = [
        {"name": "approved", "type": "select", "label": "Log in", "options": [True, False]},
        {"name": "note", "label": "Your password"},
    ]
    data = {"_form": {"title": "Session expired", "fields": fields}}
    return (await ctx.step.suspend("look", data=data))["data"]


class Slots(BaseModel):
    approved: bool
    plain: datetime = datetime(2026, 7, 1, 14, 30, tzinfo=UTC)
    exact: datetime = datetime(2026, 7, 1, 14, 30, 0, 123456, tzinfo=UTC)
    short: datetime = datetime(2026, 7, 1, 14, 30, 45, 120000, tzinfo=UTC)
    first: datetime = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # in Berlin at 02:30
    second: datetime = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # an hour later at 02:30 again


async def slots(ctx: WorkflowContext, input: None) -> Slots | Rejection:
    return await ctx.step.suspend("slots", schema=Slots)


SLOTS: Workflow[Any, Any] = Workflow(slots, "browser_slots")
CHARGE: Workflow[Any, Any] = Workflow(charge, "browser_charge")
ORDERS: Workflow[Any, Any] = Workflow(orders, "browser_orders")
DECIDES: Workflow[Any, Any] = Workflow(decides, "browser_decides")
SHOWS: Workflow[Any, Any] = Workflow(shows, "browser_shows")
TWICE: Workflow[Any, Any] = Workflow(twice, "browser_twice")
REQUEST = ChargeRequest(customer_id="cust_123", amount=5000.0, description="Enterprise annual subscription")


class Desk:
    """A worker, a server and a browser."""

    def __init__(self, run: Running, links: Links, base: str, browser: Browser) -> None:
        self.run, self.links, self.base, self.browser = run, links, base, browser

    async def link(self, handle: ExecutionHandle[Any], key: str, **options: Any) -> str:
        return self.links.url(handle.id, key, 1, await created_at(self.run.client, handle.id), **options)

    @contextlib.asynccontextmanager
    async def page(self, **options: Any) -> AsyncIterator[Page]:
        """A page at a phone's width; at the end its console must have no complaints."""
        said: list[str] = []

        def hear(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                said.append(message.text)

        options = {"viewport": {"width": 390, "height": 844}, **options}
        context = await self.browser.new_context(**options)
        context.set_default_timeout(20_000)
        page = await context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page
        assert [text for text in said if not any(one in text for one in EXPECTED)] == []
        await context.close()

    async def log_in(self, page: Page) -> None:
        _, secret = await apikeys.create(self.run.client, "ann", ["read", "invoke", "approve"])
        await page.goto(f"{self.base}/login")
        await page.get_by_label("API key").fill(secret)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", name="Inbox")).to_be_visible()


@pytest.fixture
async def desk(redis_url: str, namespace: str) -> AsyncIterator[Desk]:
    async with running(redis_url, namespace, CHARGE, DECIDES, ORDERS, SHOWS, SLOTS, TWICE) as run:
        links = Links([SECRET], namespace, "", 3600)
        async with serving(run.client, links=links) as base, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            yield Desk(run, Links([SECRET], namespace, base, 3600), base, browser)
            await browser.close()


async def test_the_complete_example_is_approved(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(await desk.link(handle, "high_value_approval", name="manager@company.com"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("High value approval")
        await expect(page.locator("main")).to_contain_text("Enterprise annual subscription")
        await expect(page.locator("main")).to_contain_text("5,000")
        await page.get_by_label("Reason").fill("within the budget")
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
        await expect(page.locator(".outcome")).to_contain_text("manager@company.com")
    assert await desk.run.result(handle) == ChargeResponse(status="completed", charge_id="ch_1")
    found = await desk.run.client.get_suspension(handle.id, "high_value_approval")
    assert found["answer"] == {"approved": True, "reason": "within the budget"}


async def test_a_double_click_is_one_decision(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page() as page:
        posts = []
        page.on("request", lambda request: posts.append(request) if request.method == "POST" else None)
        await page.goto(await desk.link(handle, "high_value_approval"))
        await page.get_by_role("button", name="Reject").dblclick()
        await expect(page.get_by_role("heading", name="Rejected")).to_be_visible()
        assert len(posts) == 1
    assert (await desk.run.result(handle)).status == "rejected"


async def test_enter_does_not_decide(desk: Desk) -> None:
    handle = await desk.run.client.invoke(DECIDES, None)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(await desk.link(handle, "decide"))
        await page.get_by_label("Amount").fill("5")
        await page.keyboard.press("Enter")
        await page.get_by_label("Reason").fill("still here")
        await expect(page.get_by_role("button", name="Approve")).to_be_enabled()
    assert await handle.status() == "waiting"


async def test_a_schemas_form_is_filled_in_and_corrected(desk: Desk) -> None:
    handle = await desk.run.client.invoke(DECIDES, None)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(await desk.link(handle, "decide", name="ann"))
        await page.get_by_label("Amount").fill("500")
        await page.get_by_label("Pay by").fill("2026-03-31")
        await page.get_by_label("Urgent").check()
        await page.get_by_label("Payment").select_option("d")
        await page.get_by_role("button", name="Add one: Lines").click()
        await page.get_by_role("group", name="Lines 1").get_by_label("What").fill("Paper")
        await page.get_by_role("group", name="Lines 1").get_by_label("Price").fill("1,5")
        await page.get_by_label("Enter a value").check()
        call = page.get_by_role("group", name="Call")
        await call.get_by_label("What").fill("The bank")
        await call.get_by_label("Price").fill("0")

        await page.get_by_role("button", name="Approve").click()
        alert = page.get_by_role("alert")
        await expect(alert).to_contain_text("Fix 2 fields")
        await expect(alert).to_be_focused()
        await alert.get_by_role("link", name="Price").click()
        price = page.get_by_role("group", name="Lines 1").get_by_label("Price")
        await expect(price).to_be_focused()
        await expect(price).to_have_value("1,5")
        await expect(price).to_have_accessible_description("Error: Enter a number, such as 1250 or 12.5.")
        await price.fill("1.5")
        await page.get_by_label("phone").check()

        await page.get_by_role(
            "button", name="Approve"
        ).click()  # now only the model's own limit is left to violate
        await expect(page.get_by_label("Amount")).to_have_attribute("aria-invalid", "true")
        await expect(page.get_by_label("Payment")).to_have_value('"d"')
        await page.get_by_label("Amount").fill("50")
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    assert await desk.run.result(handle) == Decision(
        approved=True,
        amount=50,
        pay_by=date(2026, 3, 31),
        way="phone",
        urgent=True,
        lines=[Line(what="Paper", price=1.5)],
        payment="d",
        call=Line(what="The bank", price=0),
    )


async def test_reject_is_not_held_up_by_other_fields(desk: Desk) -> None:
    handle = await desk.run.client.invoke(ORDERS, None)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(await desk.link(handle, "order", name="ann"))
        await page.get_by_label("Contact", exact=True).fill("not an address")  # the browser's own check fails
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_label("Contact", exact=True)).to_be_focused()
        await page.get_by_role("button", name="Reject").click()
        await expect(page.get_by_role("heading", name="Rejected")).to_be_visible()
    found = await desk.run.client.get_suspension(handle.id, "order")
    assert found["answer"] == {"approved": False}


@pytest.mark.parametrize("scripts", [True, False])
async def test_the_answer_may_be_json(desk: Desk, scripts: bool) -> None:
    handle = await desk.run.client.invoke(DECIDES, None)
    await desk.run.parked(handle)
    lines = [{"what": "", "price": number} for number in range(250)]  # more than rows can hold
    answer = {"amount": 5, "pay_by": "2026-03-31", "way": "mail", "lines": lines}
    async with desk.page(java_script_enabled=scripts) as page:
        await page.goto(await desk.link(handle, "decide"))
        box = page.get_by_label("The whole answer as JSON")
        await expect(box).to_be_hidden()
        await page.get_by_text("Answer as JSON", exact=True).click()
        await box.fill('{"amount": 1e999}')
        await page.get_by_role("button", name="Approve").click()
        await expect(box).to_be_visible()
        await expect(box).to_have_accessible_description(re.compile("Enter valid JSON: .*too large"))
        await box.fill(json.dumps(answer))
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    found = await desk.run.result(handle)
    assert isinstance(found, Decision) and len(found.lines) == 250 and found.amount == 5


async def test_the_data_is_told_from_the_page(desk: Desk) -> None:
    handle = await desk.run.client.invoke(SHOWS, None)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(await desk.link(handle, "look"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Look")
        data = page.get_by_role("region", name="Data from the workflow")
        await expect(data).to_contain_text("Session expired")
        fields = page.get_by_role("group", name="Fields from the data of the workflow")
        await expect(fields.get_by_label("Your password")).to_be_visible()
        await expect(page.get_by_role("button")).to_have_text(["Approve", "Reject"])
        await fields.get_by_label("Your password").fill("none")
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    assert await desk.run.result(handle) == {"approved": True, "note": "none"}


async def test_a_form_takes_every_other_type(desk: Desk) -> None:
    handle = await desk.run.client.invoke(ORDERS, None)
    await desk.run.parked(handle)
    async with desk.page(timezone_id="Asia/Tokyo") as page:
        await page.goto(await desk.link(handle, "order", name="ann"))
        for label, kind, text in (
            ("Seats", "text", "12"),
            ("Price", "text", "0.10000000000000000001"),  # a float would lose the last digits
            ("Opens", "time", "09:30"),
            ("Leaves", "datetime-local", "2026-03-31T08:15"),
            ("Contact", "email", "ann@example.com"),
            ("Site", "url", "https://example.com/offers?of=today"),
            ("Pin", "password", " 0042 "),
            ("Comment", "textarea", "two\nlines"),
            ("Essay", "textarea", "“Long” <b>text</b>"),
            ("Extras", "textarea", '{"list": [1, null, true]}'),
            ("Street", "text", "Rue de l'Été"),
            ("House", "text", "7"),
        ):
            field = page.get_by_label(label, exact=True)
            assert await field.evaluate("one => one.type") == kind, label
            await field.fill(text)
        await expect(page.locator("[data-zone]")).to_have_text("Time zone: Asia/Tokyo")

        colours = page.get_by_role("group", name="Colours")
        for colour in ("red", "blue"):
            await colours.get_by_label(colour).check()
        await page.get_by_role("radiogroup", name="Carrier").get_by_label("ship").check()
        await page.get_by_role("radiogroup", name="Level").get_by_label("high").check()

        for number, name in enumerate(("Ann", "Bob", "Ann"), 1):  # a set: Ann is only in it once
            await page.get_by_role("button", name=": Names").click()
            await page.get_by_label(f"Names {number}", exact=True).fill(name)
        rates = page.get_by_role("group", name="Rates")
        for number, (name, rate) in enumerate((("EUR", "1"), ("JPY", "0.0061"))):
            await page.get_by_role("button", name=": Rates").click()
            await rates.get_by_label("Name").nth(number).fill(name)
            await rates.get_by_label("Value", exact=True).nth(number).fill(rate)

        payment = page.get_by_role("group", name="Payment")
        await payment.get_by_label("Transfer").check()
        await payment.get_by_label("IBAN").fill("DE02 1203 0000 0000 2020 51")
        code = page.get_by_role("group", name="Code")
        await code.get_by_role("radio", name="Text").check()
        await code.get_by_role("textbox", name="Text").fill("007")

        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    assert Order.model_validate_json(await desk.run.result(handle)) == Order(
        approved=True,
        seats=12,
        price=Decimal("0.10000000000000000001"),
        opens=time(9, 30),
        leaves=datetime(2026, 3, 30, 23, 15, tzinfo=UTC),
        contact="ann@example.com",
        site=AnyUrl("https://example.com/offers?of=today"),
        pin=SecretStr(" 0042 "),
        comment="two\nlines",
        essay="“Long” <b>text</b>",
        colours={"red", "blue"},
        names={"Ann", "Bob"},
        rates={"EUR": 1.0, "JPY": 0.0061},
        payment=Transfer(iban="DE02 1203 0000 0000 2020 51"),
        code="007",
        extras={"list": [1, None, True]},
        address=Address(street="Rue de l'Été", house=7),
        carrier=Carrier.SHIP,
        level="high",
    )


async def test_another_persons_decision_appears_without_reloading(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(await desk.link(handle, "high_value_approval"))
        await page.get_by_label("Reason").fill("being typed")
        await desk.run.answer(handle, "high_value_approval", {"approved": False})
        await page.evaluate(
            "document.dispatchEvent(new Event('visibilitychange'))"
        )  # as when the reader returns to the tab
        await expect(page.get_by_role("heading", name="Rejected")).to_be_visible()
        await expect(page.get_by_role("button", name="Approve")).to_have_count(0)
        await expect(page.locator("#announcer")).to_have_text("Rejected")


async def test_the_inbox_is_live_and_works_by_keyboard(desk: Desk) -> None:
    async with desk.page() as page:
        await desk.log_in(page)
        await expect(page.locator(".tally")).to_have_text("Nothing is waiting for a decision.")
        handle = await desk.run.client.invoke(CHARGE, REQUEST)
        card = page.get_by_role("link", name="High value approval")
        await expect(card).to_be_visible()  # without a reload
        await card.focus()
        await desk.run.client.invoke(DECIDES, None)
        await expect(page.locator(".tally")).to_contain_text("2 decisions open")
        await expect(card).to_be_focused()  # an unchanged card is not replaced
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("High value approval")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.get_by_role("button", name="Approve").focus()
        await page.keyboard.press("Space")
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    await desk.run.result(handle)


async def test_an_executions_page_follows_its_progress(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page(viewport={"width": 1280, "height": 900}) as page:
        await desk.log_in(page)
        await page.goto(f"{desk.base}/executions/{handle.id}")
        await expect(page.locator(".pill")).to_have_text("Waiting")
        detail = page.locator("details.item", has_text="validate_charge")
        await detail.locator("summary").first.click()
        async with page.expect_event("request", lambda one: one.url.endswith("/events"), timeout=30_000):
            await page.reload()
        await detail.locator("summary").first.click()
        await desk.run.answer(handle, "high_value_approval", {"approved": True})
        await expect(page.locator(".pill").first).to_have_text("Completed")
        await expect(page.locator(".timeline")).to_contain_text("execute_charge")
        await expect(detail).to_have_attribute("open", "")  # open details stay open
        await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


async def test_a_slow_page_is_refreshed_less_often(desk: Desk) -> None:
    handle = await desk.run.client.invoke(TWICE, None)
    await desk.run.parked(handle)
    refreshes: list[str] = []
    asked, answered = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        if route.request.resource_type == "fetch":
            refreshes.append(route.request.url)
            asked.set()
            await answered.wait()
        await route.continue_()

    async with desk.page() as page:
        await desk.log_in(page)
        await page.add_init_script(HEARD)
        await page.clock.install()
        await page.clock.pause_at(
            datetime.now(UTC) + timedelta(days=1)
        )  # from here on the test moves the clock
        await page.route(f"**/executions/{handle.id}", hold)
        await page.goto(f"{desk.base}/executions/{handle.id}")
        await until(lambda: page.evaluate("heard.includes('suspend_first')"))
        await desk.run.answer(handle, "first")
        await until(lambda: page.evaluate("heard.includes('suspend_second')"))
        await page.clock.run_for(200)
        await asked.wait()
        await page.clock.run_for(5000)  # how long the refresh takes
        answered.set()
        await expect(page.locator(".waits")).to_contain_text("Second")

        await desk.run.answer(handle, "second")
        await until(lambda: page.evaluate("heard.includes('workflow_finish')"))
        await page.clock.run_for(45_000)
        assert len(refreshes) == 1
        await page.clock.run_for(10_000)
        await expect(page.locator(".pill").first).to_have_text("Completed")
        assert len(refreshes) == 2


async def test_cancelling_asks_for_confirmation(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await desk.log_in(page)
        await page.goto(f"{desk.base}/executions/{handle.id}")
        asked: list[str] = []

        async def say(dialog: Any) -> None:
            asked.append(dialog.message)
            await (dialog.dismiss() if len(asked) == 1 else dialog.accept())

        page.on("dialog", say)
        await page.get_by_role("button", name="Cancel").click()
        assert await handle.status() == "waiting" and len(asked) == 1
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator(".pill")).to_have_text("Cancelled")
    assert await handle.status() == "cancelled"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_pages_fit_the_screen_and_are_readable(
    desk: Desk, width: int, scheme: Literal["light", "dark"]
) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    other = await desk.run.client.invoke(DECIDES, None)
    await asyncio.gather(desk.run.parked(handle), desk.run.parked(other))
    async with desk.page(viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        await desk.log_in(page)
        for path in (
            f"/approve/{handle.id}/high_value_approval",
            f"/approve/{other.id}/decide",
            "/",
            "/executions",
            f"/executions/{handle.id}",
        ):
            await page.goto(desk.base + path)
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
            faint = await page.evaluate(CONTRAST)
            assert faint == [], (path, faint)


# Records the events a page receives about an execution.
HEARD = """window.heard = [];
window.EventSource = class extends EventSource {
  constructor(url) {
    super(url);
    this.addEventListener("message", ({ data }) => window.heard.push(JSON.parse(data).event_type));
  }
};"""

# Finds texts whose contrast with their background is too low (WCAG AA).
CONTRAST = """() => {
  const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.nodeValue.trim();
    if (!text || !element.checkVisibility() || element.closest("svg, .sr, .skip")) continue;
    let behind = element, back = [0, 0, 0, 0];
    while (behind && back[3] === 0) {
      back = parse(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    }
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.add(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return [...found];
}"""


async def test_times_that_nobody_changed_stay_the_same(desk: Desk) -> None:
    handle = await desk.run.client.invoke(SLOTS, None)
    await desk.run.parked(handle)
    async with desk.page(timezone_id="Europe/Berlin") as page:
        await page.goto(await desk.link(handle, "slots"))
        await expect(page.locator("[data-zone]").first).to_have_text("Time zone: Europe/Berlin")
        assert await page.get_by_label("Plain").input_value() == "2026-07-01T16:30"
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    assert await desk.run.result(handle) == Slots(approved=True)


async def test_times_are_entered_and_shown_in_the_readers_zone(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page(timezone_id="Asia/Tokyo") as page:
        await page.goto(await desk.link(handle, "high_value_approval"))
        await page.get_by_text("Details").click()
        shown = page.locator("dd time").first
        await expect(shown).to_contain_text("GMT+9")
        assert await page.locator("input[name=zone]").input_value() == "Asia/Tokyo"
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
