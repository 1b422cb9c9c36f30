"""The pages: approving, the inbox, executions. Server-rendered; they work without their script."""

from __future__ import annotations

from fastapi import FastAPI


def add_pages(app: FastAPI) -> None:
    """Add the pages' routes to the server's app, whose `state.site` is there."""
    from polos_redis.server.pages.approve import router as approve
    from polos_redis.server.pages.assets import router as assets
    from polos_redis.server.pages.execution import router as execution
    from polos_redis.server.pages.executions import router as executions
    from polos_redis.server.pages.inbox import router as inbox
    from polos_redis.server.pages.login import router as login
    from polos_redis.server.pages.sessions import Sessions
    from polos_redis.server.site import Site

    site: Site = app.state.site
    app.state.sessions = Sessions(site.client, site.links.secrets if site.links else ())
    for part in (approve, assets, execution, executions, inbox, login):
        app.include_router(part, include_in_schema=False)
