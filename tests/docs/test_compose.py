"""docker-compose.yml: the commands of its services run here without Docker, with local programs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from polos_redis.embedded.server import SETTINGS
from tests import ROOT
from tests.harness.programs import program
from tests.harness.redis_image import image
from tests.harness.servers import server_binaries

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def settings_of(conf: Path) -> dict[str, str]:
    lines = [line.split(maxsplit=1) for line in conf.read_text().splitlines() if line and line[0] != "#"]
    return {name: value.strip('"') for name, value in lines}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.02)


def mounted(service: dict[str, Any], path: str) -> Path:
    """The file of this repository that a service sees at a path."""
    for volume in service["volumes"]:
        source, target = str(volume).split(":")[:2]
        if source.startswith("./") and (path == target or path.startswith(target + "/")):
            return ROOT / source / Path(path).relative_to(target)
    raise AssertionError(f"nothing is mounted at {path}")


@pytest.fixture
def compose_redis(binary: Path, tmp_path: Path) -> Iterator[int]:
    """The redis service: its command and its mounted file, but with the test's port and directory."""
    name, script, conf, *options = SERVICES["redis"]["command"]
    assert name == "sh"
    found = server_binaries()["redis8"]
    redis_server = binary if isinstance(found, str) else found
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    files = [str(mounted(SERVICES["redis"], path)) for path in (script, conf)]
    options = [str(tmp_path) if option == "/data" else option for option in options]
    command = [name, *files, *options, "--port", str(port), "--bind", "127.0.0.1"]
    environment = image(tmp_path / "bin", redis_server, "-p", str(port))
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with Redis(port=port) as redis:

            def healthy() -> bool:
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    return bool(redis.ping())
                except RedisConnectionError:
                    return False

            wait_for(healthy, "redis to answer")
        yield port
    finally:
        server.terminate()
        server.wait(30)


def test_the_redis_configuration_is_the_embedded_servers() -> None:
    assert settings_of(ROOT / "deploy" / "redis.conf") == SETTINGS
    command = SERVICES["redis"]["command"]
    folder = command[command.index("--dir") + 1]
    assert folder in {volume.split(":")[1] for volume in SERVICES["redis"]["volumes"]}


def test_no_configuration_opens_a_server_to_everybody() -> None:
    """A file that somebody starts a server with keeps Redis' protection. Only the containers' command turns
    it off; its port is published to this machine alone."""
    files = [
        *(ROOT / "deploy").rglob("*.*"),
        *ROOT.glob("*.yml"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "Dockerfile",
    ]
    opened = {path.name for path in files if re.search(r"protected-mode\W+no", path.read_text("utf-8"))}
    assert opened == {"docker-compose.yml"}
    assert ROOT / "deploy" / "redis.conf" in files


def test_redis_is_published_to_this_machine_only() -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES["redis"]["ports"])


def test_redis_runs_with_its_settings(compose_redis: int) -> None:
    with Redis(port=compose_redis, decode_responses=True) as redis:
        for name, value in SETTINGS.items():
            assert redis.config_get(name) == {name: value}


def test_the_health_check_follows_redis(compose_redis: int) -> None:
    kind, name, *arguments = SERVICES["redis"]["healthcheck"]["test"]
    assert (kind, name, arguments[-1]) == ("CMD", "redis-cli", "ping")
    check = [program(name), "-p", str(compose_redis), *arguments]
    done = subprocess.run(check, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "PONG")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        check[2] = str(nobody.getsockname()[1])
        assert subprocess.run(check, capture_output=True, timeout=10, check=False).returncode != 0


def test_the_worker_starts_runs_and_stops_within_its_grace_period(compose_redis: int, tmp_path: Path) -> None:
    service = SERVICES["worker"]
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert service["deploy"]["replicas"] == 2
    command, module = service["command"]
    # In the image, relative paths start at /app.
    assert mounted(service, "/app/" + module) == ROOT / module
    url = service["environment"]["POLOS_REDIS_URL"]
    environment = {**os.environ, "POLOS_REDIS_URL": url.replace("redis:6379", f"127.0.0.1:{compose_redis}")}

    polos = Path(sys.executable).with_name("polos")
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen([polos, command, module], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        with Redis(port=compose_redis, decode_responses=True) as redis:

            def announced() -> bool:
                assert worker.poll() is None, (tmp_path / "worker.log").read_text()
                return bool(redis.hlen("polos:{default:0}:workers"))

            wait_for(announced, "the worker to announce itself")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(float(service["stop_grace_period"].removesuffix("s"))) == 0
    finally:
        worker.kill()
        worker.wait()


def test_the_server_becomes_healthy_and_stops_within_its_grace_period(
    compose_redis: int, tmp_path: Path
) -> None:
    service = SERVICES["server"]
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert all(str(port).startswith("127.0.0.1:") for port in service["ports"])
    assert service["environment"] == SERVICES["worker"]["environment"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [port if word == "8000" else word for word in service["command"]]
    command[command.index("0.0.0.0")] = "127.0.0.1"
    variables = {**service["environment"], "POLOS_SECRET": "s" * 32}
    variables["POLOS_REDIS_URL"] = variables["POLOS_REDIS_URL"].replace(
        "redis:6379", f"127.0.0.1:{compose_redis}"
    )
    _, *check = [word.replace(":8000/", f":{port}/") for word in service["healthcheck"]["test"]]
    polos = Path(sys.executable).with_name("polos")
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen([polos, *command], env={**os.environ, **variables}, stdout=log, stderr=log)
    try:

        def healthy() -> bool:
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            done = subprocess.run([sys.executable, *check[1:]], capture_output=True, check=False)
            return done.returncode == 0

        wait_for(healthy, "the server to be ready")
        server.send_signal(signal.SIGTERM)
        assert server.wait(float(service["stop_grace_period"].removesuffix("s"))) == 0
    finally:
        server.kill()
        server.wait()


def test_the_image_has_what_its_build_needs() -> None:
    """The Dockerfile copies only existing files, all of them named in pyproject.toml."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    sources = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in sources)
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "polos_redis", "cli"} == set(sources)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) <= allowed
