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
from typing import TYPE_CHECKING, Annotated, TextIO
from urllib.parse import urlsplit

import typer

from polos_redis import settings
from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError, PolosError, RedisRefusedError, RedisUnavailableError
from polos_redis.wire.urls import REDIS_PORT, parse_all

from . import commands, event_loop
from .log_format import JsonLogs, LogFormat, LogFormatOption, log_to_stderr
from .modules import is_file, look_for
from .options import SERVER_NEEDS, ConnectionOptions
from .output import Part, discard, line, panel, print_json
from .usage import UsageError

if TYPE_CHECKING:
    from polos_redis.embedded.server import EmbeddedServer
    from polos_redis.wire.routing import AnyWire

    from .reloading import ReloadingWorker

NEEDS = (*SERVER_NEEDS, "watchfiles")  # installed by the extra `dev-server`
DATA_DIR = Path(".polos")
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
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default=".polos", help="Where the Redis that it starts keeps its data."
        ),
    ] = None,
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
        raise UsageError(f"--watch {absent[0]}: there is no such folder")
    for module in modules:
        look_for(module)
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
        data_dir: Path | None,
        port: int | None,
        log_format: LogFormat,
    ) -> None:
        self.client, self.modules, self.folders = client, modules, folders
        self.data_dir, self.port, self.log_format = data_dir, port, log_format
        self.hurry = asyncio.Event()  # set by a second Ctrl-C
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
        redis = await stack.enter_async_context(redis_for(self.client, self.data_dir))
        await stack.enter_async_context(self.client)
        base = await stack.enter_async_context(self._pages())
        grace = settings.resolve(
            "grace_seconds", None if os.environ.get("POLOS_GRACE_SECONDS") else GRACE_SECONDS
        )
        lifeline = None if redis is None else redis.lifeline
        worker = ReloadingWorker(self.modules, self._environment(base, grace), grace, lifeline, self.say)
        stack.push_async_callback(worker.stop, self.hurry)
        load = partial(self._load, worker, base, redis)
        try:
            async with asyncio.TaskGroup() as loads:
                loads.create_task(load())
                async for changed in changes_in(self.folders):
                    self.say(("changed", "bold"), f": {changed}")
                    loads.create_task(load())
        except* PolosError as errors:
            raise errors.exceptions[0] from None

    async def _load(self, worker: ReloadingWorker, base: str, redis: EmbeddedServer | None) -> None:
        is_loaded = await worker.load()
        if not self.is_shown and (is_loaded or not worker.is_importing):
            self.is_shown = True
            self._show(base, worker.workflows, redis)
        elif is_loaded:
            self.say(("loaded", "bold"), f": {', '.join(worker.workflows)}")

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

    def _show(self, base: str, workflows: list[str], server: EmbeddedServer | None) -> None:
        """Shows where everything is."""
        folders = ", ".join(os.path.relpath(folder) for folder in self.folders)
        redis = ", ".join(one.address for one in parse_all(self.client.url))  # without passwords
        redis += (
            " (already running)"
            if server is None
            else f" (started; its data is in {self.data_dir or DATA_DIR})"
        )
        facts = {
            "workflows": ", ".join(workflows) or "none yet",
            "inbox": f"{base}/",
            "executions": f"{base}/executions",
            "api": f"{base}/api/v1",
            "openapi": f"{base}/openapi.json",
            "redis": redis,
            "namespace": self.client.namespace,
            "reloads": f"when a Python file changes in {folders}",
        }
        with _while_read(sys.stdout):
            if self.log_format is LogFormat.json:
                print_json({**facts, "workflows": workflows}, indent=None)
                return
            panel(
                "polos dev", {LABELS.get(name, name.capitalize()): facts[name] for name in facts}, sys.stdout
            )
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
        with _while_read(stream):
            line(*parts, stream=stream)


@contextlib.contextmanager
def _while_read(stream: TextIO) -> Iterator[None]:
    """Goes on when a stream's reader is gone, or its terminal closed: the worker and the pages are in use."""
    try:
        yield
    except OSError:
        discard(stream)


@asynccontextmanager
async def redis_for(client: PolosClient, data_dir: Path | None) -> AsyncIterator[EmbeddedServer | None]:
    """Starts a Redis for a client if none answers and its URL is on this machine, and yields it; else yields
    None.

    Raises `UsageError` if the one that answers keeps its data elsewhere than in `data_dir`, and
    `RedisUnavailableError` if none answers at an URL where none can be started.
    """
    from polos_redis.embedded.lock import wait_for_abandoned
    from polos_redis.embedded.server import EmbeddedServer

    folder = DATA_DIR if data_dir is None else data_dir
    await asyncio.to_thread(wait_for_abandoned, folder)  # of a run that was killed a moment ago
    port = port_here(client.url)
    if port is not None and not await _is_taken(port):
        async with EmbeddedServer(folder, port=port) as server:
            (folder / ".gitignore").write_text("*\n")
            yield server
        return
    try:
        async with PolosClient(client.url, client.namespace, patience_seconds=ANSWER_SECONDS) as probe:
            store = await probe.store()
            if data_dir is not None and (port is None or not await _keeps_data_in(data_dir, store.wire)):
                raise UsageError(
                    f"--data-dir {data_dir}: a Redis that keeps its data elsewhere answers already at "
                    f"{', '.join(one.address for one in parse_all(client.url))}: leave --data-dir out to use "
                    "it, or pass another port to start one, as in --url redis://127.0.0.1:6380/0"
                )
    except RedisUnavailableError as error:
        where = "redis://127.0.0.1:PORT/0, at a port that no other program has"
        raise RedisUnavailableError(f"{error}; polos dev starts a Redis only at {where}") from None
    yield None


async def _keeps_data_in(folder: Path, wire: AnyWire) -> bool:
    """Whether a Redis on this machine keeps its data in a folder; False if it does not say."""
    try:
        _, found = await wire.call("CONFIG", "GET", "dir", patience=ANSWER_SECONDS)
    except (RedisRefusedError, ValueError):
        return False
    return _resolved(os.fsdecode(found)) == _resolved(folder)


def _resolved(folder: str | Path) -> str:
    return os.path.realpath(folder)


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
