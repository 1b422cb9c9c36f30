"""`polos serve`: what it prints, what it refuses, and how it stops."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import httpx2
import pytest

from tests.harness.command import POLOS, Command, Running


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


def address(server: Running) -> str:
    """The address of a server started with `--port 0`, as its log says."""
    server.wait_for("server ready")
    found = re.search(r"(http://[\w.:\[\]]+?)/api/v1", server.err)
    assert found is not None, server.err
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_stopped(polos: Command, number: signal.Signals) -> None:
    with polos.start(POLOS, "serve", "--insecure-dev", "--port", "0") as server:
        url = address(server)
        assert httpx2.get(f"{url}/readyz").json() == {"status": "ready"}
        started = httpx2.post(f"{url}/api/v1/executions", json={"workflow_id": "later"})
        assert started.status_code == 201
        assert httpx2.get(f"{url}/").status_code == 200
        with httpx2.stream("GET", f"{url}/api/v1/topics/quiet/events") as stream:  # does not delay the stop
            assert stream.status_code == 200
            server.signal(number)
            assert server.wait() == 0
    assert "server stopped" in server.err
    assert "--insecure-dev is for development only" in server.err
    assert "Traceback" not in server.err
    assert (
        "color_message" not in server.err
    )  # the copy with escape codes that uvicorn attaches to its messages
    assert server.out == ""


def test_without_insecure_dev_a_key_is_needed(polos: Command) -> None:
    with polos.start(POLOS, "serve", "--port", "0", "--json") as server:
        url = address(server)
        assert httpx2.get(f"{url}/api/v1/executions").status_code == 401
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    rows = [json.loads(row) for row in server.err.splitlines()]
    assert "polos keys create" in rows[0]["message"]
    (request,) = [row for row in rows if row["message"] == "request"]
    assert (request["method"], request["path"], request["status"]) == ("GET", "/api/v1/executions", 401)


def test_a_port_in_use_is_one_sentence(polos: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = polos.run("serve", "--port", str(port))
    assert done.code == 1
    assert f"can't listen on 127.0.0.1, port {port}: another program is using it" in done.sentence


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--insecure-dev", "--host", "0.0.0.0"), "--insecure-dev would let in anyone who can reach 0.0.0.0"),
        (("--insecure-dev", "--cors-origin", "*"), "name the origins"),
        (("--rate-limit", "many"), "a rate limit must be a number per second"),
        (("--host", "no.such.host.invalid"), "can't listen on no.such.host.invalid"),
    ],
)
def test_invalid_options_are_one_sentence(polos: Command, options: tuple[str, ...], said: str) -> None:
    done = polos.here("serve", *options)
    assert done.code == 1
    assert said in done.sentence


def test_a_missing_extra_is_named(polos: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    done = polos.here("serve")
    assert done.code == 1
    assert "uvicorn: pip install 'polos-redis[server]'" in done.sentence


def test_it_starts_while_redis_is_away(polos: Command) -> None:
    polos.environment["POLOS_REDIS_URL"] = "redis://127.0.0.1:1/0"
    polos.environment["POLOS_PATIENCE_SECONDS"] = "0.2"
    with polos.start(POLOS, "serve", "--port", "0") as server:
        url = address(server)
        assert "Redis is unreachable" in server.err
        assert httpx2.get(f"{url}/healthz").status_code == 200
        assert httpx2.get(f"{url}/readyz").status_code == 503
