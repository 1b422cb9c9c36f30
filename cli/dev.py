"""`polos dev`: everything to develop workflows with, in one terminal."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from polos_redis import settings
from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError, RedisUnavailableError
from polos_redis.wire.urls import REDIS_PORT, parse_all

from . import commands, event_loop
from .log_format import JsonLogs, LogFormat, LogFormatOption, log_to_stderr
from .modules import is_file
from .options import SERVER_NEEDS, ConnectionOptions
from .output import Part, line, panel, print_json

if TYPE_CHECKING:
    from .reloading import ReloadingWorker

NEEDS = (*SERVER_NEEDS, "watchfiles")  # installed by the extra `dev-server`
PORT = 8000  # of the API and the pages, unless another program has it
LABELS = {"api": "API", "openapi": "OpenAPI"}
ANSWER_SECONDS = 10.0  # for a Redis to answer
GRACE_SECONDS = 5.0  # of running steps, as somebody waits for the stop
MAX_BLOCKED_SECONDS = 86400.0  # a debugger blocks the event loop for as long as it is used


def add_to(app: typer.Typer) -> None:
    commands.add(app, dev, "Develop workflows: Redis, a worker that reloads, the API and the pages.")


def dev(
    modules: Annotated[
        list[str], typer.Argument(metavar="MODULE_OR_FILE", help="Modules or files that define workflows.")
    ],
    port: Annotated[
        int | None,
        typer.Option(
            envvar="POLOS_PORT",
            min=0,
            max=65535,
            show_default="8000, or a free one",
            help="The port of the API and the pages.",
        ),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where the Redis that it starts keeps its data."),
    ] = Path(".polos"),
    watch: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Reload when files in this folder change, too. Repeatable."),
    ] = None,
    log_format: LogFormatOption = LogFormat.text,
    *,
    connection: ConnectionOptions,
    json: JsonLogs = False,
) -> None:
    """Run Redis, a worker, the REST API and the pages on this machine, until Ctrl-C.

    The worker reloads when a Python file changes. Code that can't be imported is reported, and the worker
    goes on with the code it has. If no Redis answers at the URL, and the URL is on this machine, one is
    started there; its data stays in the folder .polos, so the next start continues where this one ended.
    Anyone on this machine can use the API and the pages without a key.

    \b
    Examples:
      polos dev charge.py
      polos dev shop.workflows billing.workflows --watch ../shared
      polos dev charge.py --port 8080 --url redis://127.0.0.1:6380/0
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"polos dev needs {', '.join(missing)}: pip install 'polos-redis[dev-server]'"
        )
    if os.name == "nt":
        raise ConfigurationError("polos dev needs Linux or macOS: run polos worker and polos serve instead")
    if absent := [str(folder) for folder in watch or () if not folder.is_dir()]:
        raise ConfigurationError(f"--watch {absent[0]}: there is no such folder")
    log_format = LogFormat.json if json else log_format
    log_to_stderr(log_format)
    client = connection.client()
    folders = watched_folders(modules, watch or ())
    event_loop.run(_Dev(client, modules, folders, data_dir, port, log_format).run())


class _Dev:
    """One run of the command."""

    def __init__(
        self,
        client: PolosClient,
        modules: list[str],
        folders: list[Path],
        data_dir: Path,
        port: int | None,
        log_format: LogFormat,
    ) -> None:
        self.client, self.modules, self.folders = client, modules, folders
        self.data_dir, self.port, self.log_format = data_dir, port, log_format
        self.hurry = asyncio.Event()  # set by a second Ctrl-C
        self.loading: asyncio.Task[None] | None = None
        self.is_shown = False

    async def run(self) -> None:
        with self._signals():
            try:
                async with AsyncExitStack() as stack:
                    await self._work(stack)
            except asyncio.CancelledError:
                self.say(("stopped", "bold"), "; what has not ended continues at the next start")

    async def _work(self, stack: AsyncExitStack) -> None:
        from .reloading import ReloadingWorker, changes_in

        for library in ("uvicorn", "watchfiles"):
            logging.getLogger(library).setLevel(logging.WARNING)
        started_redis = await stack.enter_async_context(redis_for(self.client, self.data_dir))
        await stack.enter_async_context(self.client)
        base = await stack.enter_async_context(self._pages())
        grace = settings.resolve(
            "grace_seconds", None if os.environ.get("POLOS_GRACE_SECONDS") else GRACE_SECONDS
        )
        worker = ReloadingWorker(self.modules, self._environment(base, grace), grace, self.say)
        stack.push_async_callback(worker.stop, self.hurry)
        stack.push_async_callback(self._end_loading)
        load = partial(self._load, worker, base, started_redis)
        self.loading = asyncio.create_task(load())
        async for changed in changes_in(self.folders):
            await self._end_loading()  # of an earlier change
            self.say(("changed", "bold"), f": {changed}")
            self.loading = asyncio.create_task(load())

    async def _load(self, worker: ReloadingWorker, base: str, started_redis: bool) -> None:
        is_loaded = await worker.load()
        if not self.is_shown:
            self.is_shown = True
            self._show(base, worker.workflows, started_redis)
        elif is_loaded:
            self.say(("loaded", "bold"), f": {', '.join(worker.workflows)}")

    async def _end_loading(self) -> None:
        if self.loading is not None:
            self.loading.cancel()
            await asyncio.wait([self.loading])

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal ends the run, the next one ends running steps as well."""
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        assert main is not None
        received = 0

        def stop() -> None:
            nonlocal received
            received += 1
            if received == 1:
                main.cancel()
                self.say("stopping")
            else:
                self.hurry.set()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    @asynccontextmanager
    async def _pages(self) -> AsyncIterator[str]:
        """Serves the API and the pages; yields their address."""
        from polos_redis.links import Links
        from polos_redis.server.app import create_app
        from polos_redis.server.listening import Listener, listen

        try:
            endpoint = listen("127.0.0.1", PORT if self.port is None else self.port)
        except ConfigurationError:
            if self.port is not None:
                raise
            endpoint = listen("127.0.0.1", 0)
        base = f"http://127.0.0.1:{endpoint.getsockname()[1]}"
        public_url = settings.resolve("public_url") or base
        links = Links.from_settings(self.client.namespace, public_url=public_url)
        listener = Listener(create_app(self.client, links=links, insecure_dev=True))
        serving = asyncio.create_task(listener.serve([endpoint]))
        try:
            yield base
        finally:
            listener.stop()
            await serving
            endpoint.close()

    def _environment(self, base: str, grace_seconds: float) -> dict[str, str]:
        """The environment of the worker."""
        return {
            "POLOS_MAX_BLOCKED_SECONDS": str(MAX_BLOCKED_SECONDS),
            "POLOS_PUBLIC_URL": base,
            **os.environ,
            "POLOS_GRACE_SECONDS": str(grace_seconds),
            "POLOS_REDIS_URL": self.client.url,
            "POLOS_NAMESPACE": self.client.namespace,
            "POLOS_LOG_FORMAT": self.log_format.value,
        }

    def _show(self, base: str, workflows: list[str], started_redis: bool) -> None:
        """Shows where everything is."""
        folders = ", ".join(os.path.relpath(folder) for folder in self.folders)
        redis = ", ".join(one.address for one in parse_all(self.client.url))  # without passwords
        facts = {
            "workflows": ", ".join(workflows) or "none yet",
            "inbox": f"{base}/",
            "executions": f"{base}/executions",
            "api": f"{base}/api/v1",
            "openapi": f"{base}/openapi.json",
            "redis": f"{redis} (started; its data is in {self.data_dir})" if started_redis else redis,
            "namespace": self.client.namespace,
            "reloads": f"when a Python file changes in {folders}",
        }
        if self.log_format is LogFormat.json:
            print_json({**facts, "workflows": workflows}, indent=None)
            return
        panel("polos dev", {LABELS.get(name, name.capitalize()): facts[name] for name in facts}, sys.stdout)
        if workflows:
            command = ["polos", "invoke", workflows[0], *self._connection()]
            self.say("Start an execution:  ", (f"{shlex.join(command)} [--input JSON]", "cyan"))
        self.say("Ctrl-C stops everything. What has not ended continues at the next start.")

    def _connection(self) -> list[str]:
        """The options that other commands need to find the same Redis and namespace."""
        return [
            *(["--url", self.client.url] if self.client.url != settings.resolve("url") else []),
            *(
                ["--namespace", self.client.namespace]
                if self.client.namespace != settings.resolve("namespace")
                else []
            ),
        ]

    def say(self, *parts: Part) -> None:
        stream = sys.stderr if self.log_format is LogFormat.json else sys.stdout
        with contextlib.suppress(OSError):  # the terminal is closed
            line(*parts, stream=stream)


@asynccontextmanager
async def redis_for(client: PolosClient, data_dir: Path) -> AsyncIterator[bool]:
    """Starts a Redis for a client if none answers and its URL is on this machine; yields whether it did.

    Raises `RedisUnavailableError` if none answers elsewhere.
    """
    from polos_redis.embedded.lock import wait_for_abandoned
    from polos_redis.embedded.server import EmbeddedServer

    await asyncio.to_thread(wait_for_abandoned, data_dir)  # of a run that was killed a moment ago
    port = port_here(client.url)
    if port is not None and not await _is_taken(port):
        async with EmbeddedServer(data_dir, port=port):
            (data_dir / ".gitignore").write_text("*\n")
            yield True
        return
    try:
        async with PolosClient(client.url, client.namespace, patience_seconds=ANSWER_SECONDS) as probe:
            await probe.store()
    except RedisUnavailableError as error:
        where = "redis://127.0.0.1:PORT/0, at a port that no other program has"
        raise RedisUnavailableError(f"{error}; polos dev starts a Redis only at {where}") from None
    yield False


async def _is_taken(port: int) -> bool:
    """Whether a program on this machine accepts connections at a port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def port_here(url: str) -> int | None:
    """Returns the port of a URL at which a server can be started, None if it can't."""
    parts = urlsplit(url)
    plain = parts.scheme == "redis" and "@" not in parts.netloc and "," not in parts.netloc
    if not plain or parts.hostname not in ("127.0.0.1", "localhost") or parts.query:
        return None
    return parts.port or REDIS_PORT


def watched_folders(modules: list[str], more: Sequence[Path]) -> list[Path]:
    """Returns the folders of the files, the current folder for modules, and more; none within another."""
    named = [Path(one).parent if is_file(one) else Path() for one in modules]
    folders = {Path(one).resolve() for one in (*named, *more)}
    return sorted(one for one in folders if not any(one.is_relative_to(other) for other in folders - {one}))
