"""Forms that browsers post, read within bounds."""

from __future__ import annotations

from starlette.datastructures import FormData
from starlette.requests import Request

from polos_redis.server.problems import Problem

SMALL_BYTES = 65_536  # of a form without texts to enter
MOST_ESCAPES = 300_000  # `%xx` in a body: each takes 240 bytes of memory while it is read


async def posted(request: Request, *, controls: int = 10, large: bool = False) -> FormData:
    """Returns the posted form: at most `controls` controls, no files, and at most 64 KB unless `large`.

    Raises `Problem` 413.
    """
    body = await request.body()
    if not large and len(body) > SMALL_BYTES:
        raise Problem(413, f"the form is larger than {SMALL_BYTES} bytes", kind="too-large")
    if body.count(b"%") > MOST_ESCAPES:
        raise Problem(
            413, "the form has too many special characters: send the answer to the API", kind="too-large"
        )
    return await request.form(max_files=0, max_fields=controls, max_part_size=1 << 24)
