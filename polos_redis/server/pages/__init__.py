"""The web pages: approval, inbox, executions, login. Rendered on the server; they work without JavaScript."""

from __future__ import annotations

from fastapi import FastAPI


def add_pages(app: FastAPI) -> None:
    """Adds the routes of the pages to the server's app. Needs `app.state.site`."""
    from polos_redis.server.pages.approve import router as approve
    from polos_redis.server.pages.assets import router as assets
    from polos_redis.server.pages.execution import router as execution
    from polos_redis.server.pages.executions import router as executions
    from polos_redis.server.pages.inbox import router as inbox
    from polos_redis.server.pages.login import router as login
    from polos_redis.server.sessions import Sessions
    from polos_redis.server.site import Site

    site: Site = app.state.site
    app.state.sessions = Sessions(
        site.client,
        site.links.secrets if site.links else (),
        secure=site.is_https,
    )
    for router in (approve, assets, execution, executions, inbox, login):
        app.include_router(router, include_in_schema=False)
