"""The pages in a real Chromium."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from polos_redis import Workflow, WorkflowContext, apikeys
from polos_redis.links import Links
from tests.chromium import (
    ARGS,
    CHROMIUM,
    SECRET,
    Browser,
    ConsoleMessage,
    Page,
    async_playwright,
    chromium,
    expect,
)
from tests.running import Running, running
from tests.serving import serving

__all__ = ["chromium"]  # the fixture that skips, or fails, without a browser
EXPECTED = ("status of 422", "status of 409", "status of 403")  # what a browser's console says of them


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


async def decides(ctx: WorkflowContext, input: None) -> Decision:
    found: Decision = await ctx.step.suspend("decide", data={"of": "an invoice"}, schema=Decision)
    return found


CHARGE: Workflow[Any, Any] = Workflow(charge, "browser_charge")
DECIDES: Workflow[Any, Any] = Workflow(decides, "browser_decides")
REQUEST = ChargeRequest(customer_id="cust_123", amount=5000.0, description="Enterprise annual subscription")


class Desk:
    """A worker, a server, a browser."""

    def __init__(self, run: Running, links: Links, base: str, browser: Browser) -> None:
        self.run, self.links, self.base, self.browser = run, links, base, browser

    @contextlib.asynccontextmanager
    async def page(self, **options: Any) -> AsyncIterator[Page]:
        """A page at a phone's width; at the end its console has no complaint."""
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
    async with running(redis_url, namespace, CHARGE, DECIDES) as run:
        links = Links([SECRET], namespace, "", 3600)
        async with serving(run.client, links=links) as base, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            yield Desk(run, Links([SECRET], namespace, base, 3600), base, browser)
            await browser.close()


async def test_the_complete_example_is_approved(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(desk.links.url(handle.id, "high_value_approval", 1, name="manager@company.com"))
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
        await page.goto(desk.links.url(handle.id, "high_value_approval", 1))
        await page.get_by_role("button", name="Reject").dblclick()
        await expect(page.get_by_role("heading", name="Rejected")).to_be_visible()
        assert len(posts) == 1
    assert (await desk.run.result(handle)).status == "rejected"


async def test_enter_does_not_decide(desk: Desk) -> None:
    handle = await desk.run.client.invoke(DECIDES, None)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(desk.links.url(handle.id, "decide", 1))
        await page.get_by_label("Amount").fill("5")
        await page.keyboard.press("Enter")
        await page.get_by_label("Reason").fill("still here")
        await expect(page.get_by_role("button", name="Approve")).to_be_enabled()
    assert await handle.status() == "waiting"


async def test_a_form_of_a_schema_is_filled_in_and_put_right(desk: Desk) -> None:
    handle = await desk.run.client.invoke(DECIDES, None)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(desk.links.url(handle.id, "decide", 1, name="ann"))
        await page.get_by_label("Amount").fill("500")
        await page.get_by_label("Pay by").fill("2026-03-31")
        await page.get_by_label("Urgent").check()
        await page.get_by_label("Payment").select_option("d")
        await page.get_by_role("button", name="Add one: Lines").click()
        await page.get_by_role("group", name="Lines 1").get_by_label("What").fill("Paper")
        await page.get_by_role("group", name="Lines 1").get_by_label("Price").fill("1,5")
        await page.get_by_label("Give it").check()
        call = page.get_by_role("group", name="Call")
        await call.get_by_label("What").fill("The bank")
        await call.get_by_label("Price").fill("0")

        await page.get_by_role("button", name="Approve").click()
        alert = page.get_by_role("alert")
        await expect(alert).to_contain_text("2 things are to be put right")
        await expect(alert).to_be_focused()
        await alert.get_by_role("link", name="Price").click()
        price = page.get_by_role("group", name="Lines 1").get_by_label("Price")
        await expect(price).to_be_focused()
        await expect(price).to_have_value("1,5")
        await expect(price).to_have_accessible_description(
            "Wrong: This is not a number. Write it like 1250 or 12.5."
        )
        await price.fill("1.5")
        await page.get_by_label("phone").check()

        await page.get_by_role(
            "button", name="Approve"
        ).click()  # now only the model's own limit is in the way
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


async def test_what_others_decide_is_seen_without_reloading(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page() as page:
        await page.goto(desk.links.url(handle.id, "high_value_approval", 1))
        await page.get_by_label("Reason").fill("being typed")
        await desk.run.answer(handle, "high_value_approval", {"approved": False})
        await page.evaluate(
            "document.dispatchEvent(new Event('visibilitychange'))"
        )  # as one who comes back to it
        await expect(page.get_by_role("heading", name="Rejected")).to_be_visible()
        await expect(page.get_by_role("button", name="Approve")).to_have_count(0)
        await expect(page.locator("#announcer")).to_have_text("Rejected")


async def test_the_inbox_is_live_and_by_keyboard(desk: Desk) -> None:
    async with desk.page() as page:
        await desk.log_in(page)
        await expect(page.locator(".tally")).to_have_text("Nothing is waiting for anybody.")
        handle = await desk.run.client.invoke(CHARGE, REQUEST)
        card = page.get_by_role("link", name="High value approval")
        await expect(card).to_be_visible(timeout=20_000)  # nobody has reloaded
        await card.focus()
        await desk.run.client.invoke(DECIDES, None)
        await expect(page.locator(".tally")).to_contain_text("2 decisions open")
        await expect(card).to_be_focused()  # what is the same was not touched
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("High value approval")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.get_by_role("button", name="Approve").focus()
        await page.keyboard.press("Space")
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    await desk.run.result(handle)


async def test_an_execution_is_followed_as_it_goes_on(desk: Desk) -> None:
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
        await expect(detail).to_have_attribute("open", "")  # what was open stays open
        await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


async def test_cancelling_asks_first(desk: Desk) -> None:
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
async def test_pages_fit_and_can_be_read(desk: Desk, width: int, scheme: Literal["light", "dark"]) -> None:
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


# Texts that stand out too little from what is behind them (WCAG AA).
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


async def test_times_are_typed_and_told_in_the_readers_zone(desk: Desk) -> None:
    handle = await desk.run.client.invoke(CHARGE, REQUEST)
    await desk.run.parked(handle)
    async with desk.page(timezone_id="Asia/Tokyo") as page:
        await page.goto(desk.links.url(handle.id, "high_value_approval", 1))
        await page.get_by_text("Details").click()
        told = page.locator("dd time").first
        await expect(told).to_contain_text("GMT+9")
        assert await page.locator("input[name=zone]").input_value() == "Asia/Tokyo"
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
