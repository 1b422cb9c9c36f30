"""A visitor of the pages without JavaScript: follows links, fills in forms, and submits them as a browser
does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx2


@dataclass
class Form:
    """A form of a page: its action, its current fields, its buttons (name, value, label)."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str, str]] = field(default_factory=list)
    controls: dict[str, dict[str, str]] = field(default_factory=dict)

    def get(self, name: str) -> str:
        return next(value for one, value in self.fields if one == name)


class Page(HTMLParser):
    """An HTML page: its text, forms, links, and every tag with its attributes."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__()
        self.response = response
        self.status = response.status_code
        self.url = str(response.url)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._texts: list[str] = []
        self._select: tuple[str, str | None] | None = None
        self._area: list[str] | None = None
        self._area_name = ""
        self._button: tuple[str, str] | None = None
        self._mute = False
        self.feed(response.text)

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.append((tag, given))
        self._mute = tag in ("script", "style", "title")
        if tag == "form":
            self._form = Form(given.get("action", self.url), given.get("method", "get"))
            self.forms.append(self._form)
        if self._form is None:
            return
        name = given.get("name", "")
        if name:
            self._form.controls[name] = given
        if tag == "input" and name:
            ticked = given.get("type") not in ("checkbox", "radio") or "checked" in given
            if ticked:
                self._form.fields.append((name, given.get("value", "")))
        elif tag == "textarea":
            self._area, self._area_name = [], name
        elif tag == "select":
            self._select = (name, None)
        elif tag == "option" and self._select is not None:
            name, chosen = self._select
            if chosen is None or "selected" in given:
                self._select = (name, given.get("value", ""))
        elif tag == "button" and "disabled" not in given:
            self._button = (name, given.get("value", ""))
            self._form.buttons.append((name, given.get("value", ""), ""))

    def handle_endtag(self, tag: str) -> None:
        self._mute = False
        if tag not in ("a", "bdi", "strong", "span", "code", "time"):
            self._texts.append(" ")  # a block of its own
        if self._form is None:
            return
        if tag == "textarea" and self._area is not None:
            self._form.fields.append((self._area_name, "".join(self._area).removeprefix("\n")))
            self._area = None
        elif tag == "select" and self._select is not None:
            self._form.fields.append((self._select[0], self._select[1] or ""))
            self._select = None
        elif tag == "button":
            self._button = None
        elif tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            self._area.append(data)
        elif not self._mute:
            self._texts.append(data)
            if self._button is not None and self._form is not None:
                name, value, words = self._form.buttons[-1]
                self._form.buttons[-1] = (name, value, words + data)

    def form(self, action: str = "") -> Form:
        """The form whose action contains this."""
        return next(one for one in self.forms if action in one.action)

    @property
    def links(self) -> list[str]:
        return [given["href"] for tag, given in self.tags if tag == "a" and "href" in given]


class Visitor:
    """A person with a browser."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.http = httpx2.AsyncClient(base_url=base, follow_redirects=True, timeout=20)

    async def get(self, path: str, **params: str) -> Page:
        return Page(await self.http.get(path, params=params or None))

    async def send(self, page: Page, form: Form, button: str = "", **changes: str | list[str]) -> Page:
        """Fill in a form and press the button with this label; `changes` are by HTML name, below "answer/"
        where there is such a field."""
        response = await self.http.post(
            urljoin(page.url, form.action), data=self.data(form, button, **changes)
        )
        return Page(response)

    def data(self, form: Form, button: str = "", **changes: str | list[str]) -> dict[str, list[str]]:
        data: dict[str, list[str]] = {}
        for name, value in form.fields:
            data.setdefault(name, []).append(value)
        for name, given in changes.items():
            full = name if name in form.controls else f"answer/{name}"
            assert full in form.controls, f"no field {full} in {sorted(form.controls)}"
            data[full] = [given] if isinstance(given, str) else given
        if button:
            name, value, _ = next(one for one in form.buttons if one[2].strip().startswith(button))
            if name:
                data[name] = [value]
        return data

    async def log_in(self, key: str) -> Page:
        page = await self.get("/login")
        return await self.send(page, page.form("/login"), key=key)


@contextlib.asynccontextmanager
async def visiting(base: str) -> AsyncIterator[Visitor]:
    visitor = Visitor(base)
    try:
        yield visitor
    finally:
        await visitor.http.aclose()
