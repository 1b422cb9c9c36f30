"""The route class of pages: turns errors into pages, and sends unknown visitors to the login page."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.errors import PolosError
from polos_redis.server import problems
from polos_redis.server.pages.rendering import message_page, redirect
from polos_redis.server.problems import Problem
from polos_redis.server.security import address_of
from polos_redis.server.site import site_of


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                wait = site_of(request).rate.wait(address_of(request)) if request.method == "POST" else 0.0
                if wait:  # before the form is read
                    raise problems.too_many(wait)
                return await handle(request)
            except PolosError as error:
                problem = problems.of(error)
            except Problem as error:
                problem = error
            except HTTPException as error:  # an unreadable form
                problem = Problem(error.status_code, str(error.detail), headers=error.headers)
            if problem.status_code == 401:
                path = request.url.path
                return redirect("/login", next=path + (f"?{request.url.query}" if request.url.query else ""))
            title = "Not allowed" if problem.title == "Forbidden" else problem.title
            response = message_page(request, problem.status_code, title, str(problem.detail))
            response.headers.update(problem.headers or {})
            return response

        return handle_errors
