"""Serves the stylesheet, script and icon, read once, at addresses that contain a hash of their content."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.server.problems import Problem
from polos_redis.server.security import public

MEDIA_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
CACHE_FOREVER: Final = "public, max-age=31536000, immutable"

_FILES: Final = {
    file.name: file.read_bytes()
    for file in files("polos_redis.server.pages").joinpath("static").iterdir()
    if file.name.rpartition(".")[2] in MEDIA_TYPES
}

router = APIRouter(dependencies=[Depends(public)])


def address(name: str) -> str:
    """Returns the address of a file."""
    return f"/static/{hashlib.sha256(_FILES[name]).hexdigest()[:12]}/{name}"


@router.api_route("/static/{version}/{name}", methods=["GET", "HEAD"])
async def asset(request: Request, version: str, name: str) -> Response:
    if name not in _FILES or request.url.path != address(name):
        raise Problem(404, f"there is no {request.url.path}")
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    return Response(_FILES[name], headers={"Cache-Control": CACHE_FOREVER}, media_type=media_type)


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
async def favicon() -> Response:
    return Response(
        _FILES["icon.svg"], headers={"Cache-Control": "max-age=86400"}, media_type=MEDIA_TYPES["svg"]
    )
