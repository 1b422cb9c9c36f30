"""TLS to a cluster, to sentinels and to several servers, on servers without a plain port."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from polos_redis import Polos, PolosClient, RedisUnavailableError, WorkflowContext, workflow
from tests.harness.programs import program, skip_without
from tests.harness.running import soon, until
from tests.harness.servers import binary_with_tls, wait_for

SERVICE = "polos-master"


@workflow(id="over-tls")
async def flow(ctx: WorkflowContext) -> str:
    await ctx.step.run("one", lambda: 1)
    return str((await ctx.step.suspend("ok", timeout=60))["data"])


class Certified:
    """Servers with one certificate for 127.0.0.1."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.folder, self.binary = folder, binary
        self.key, self.cert = folder / "key.pem", folder / "cert.pem"
        make = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(
            [*make, *name, "-keyout", self.key, "-out", self.cert],
            check=True,
            capture_output=True,
            timeout=60,
        )

    @contextmanager
    def server(self, *options: str) -> Iterator[int]:
        """A server that listens on a TLS port only; yields the port."""
        port = free_port()
        folder = self.folder / str(port)
        folder.mkdir()
        tls = [
            "--port",
            "0",
            "--tls-port",
            str(port),
            "--tls-cert-file",
            str(self.cert),
            "--bind",
            "127.0.0.1",
        ]
        tls += [
            "--tls-key-file",
            str(self.key),
            "--tls-ca-cert-file",
            str(self.cert),
            "--tls-auth-clients",
            "no",
        ]
        tls += ["--tls-replication", "yes", "--dir", str(folder)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([str(self.binary), *options, *tls], stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or self.answers(port), "the server")
            assert process.poll() is None, (folder / "log").read_text()
            yield port
        finally:
            process.kill()
            process.wait()

    def do(self, port: int, *command: str) -> Any:
        with redis.Redis(port=port, host="127.0.0.1", ssl=True, ssl_ca_certs=str(self.cert)) as connection:
            return connection.execute_command(*command)

    def answers(self, port: int) -> bool:
        try:
            return bool(self.do(port, "PING"))
        except redis.ConnectionError:
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    binary = binary_with_tls()
    if isinstance(binary, str):
        skip_without("redis-server or valkey-server with TLS", binary)
    return Certified(tmp_path, binary)


async def runs(url: str, namespace: str) -> None:
    """A worker and its client do all they are for, over all their connections."""
    async with Polos(url=url, namespace=namespace, workflows=[flow], partitions=4) as polos:
        handle = await flow.invoke(polos)
        await until(lambda: polos.list_suspensions(), "the suspension")
        await polos.resume(suspend_execution_id=handle.id, suspend_step_key="ok", data="yes")
        assert await soon(handle.result()) == "yes"


async def refused(url: str, namespace: str) -> None:
    """A server whose certificate nobody vouches for is not spoken to."""
    async with PolosClient(url, namespace, partitions=4, patience_seconds=1) as client:
        with pytest.raises(RedisUnavailableError, match=r"(?i)certificate"):
            await client.list_executions()


async def test_a_cluster_over_tls(certified: Certified, namespace: str) -> None:
    with ExitStack() as stack:
        options = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-node-timeout", "2000"]
        buses = [str(free_port()) for _ in range(2)]
        first, second = ports = [
            stack.enter_context(certified.server(*options, "--cluster-port", bus)) for bus in buses
        ]
        certified.do(first, "CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        certified.do(second, "CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        certified.do(first, "CLUSTER", "MEET", "127.0.0.1", str(second), buses[1])

        def formed() -> bool:
            states = [b"cluster_state:ok" in certified.do(port, "CLUSTER", "INFO") for port in ports]
            return all(states) and all(len(certified.do(port, "CLUSTER", "SLOTS")) == 2 for port in ports)

        wait_for(formed, "the cluster")
        url = f"rediss+cluster://127.0.0.1:{first}"
        await runs(f"{url}?ssl_ca_certs={certified.cert}", namespace)
        assert all(certified.do(port, "DBSIZE") for port in ports), "both nodes were used"
        await refused(url, namespace)


async def test_a_sentinels_master_over_tls(certified: Certified, namespace: str) -> None:
    with ExitStack() as stack:
        master = stack.enter_context(certified.server())
        settings = certified.folder / "sentinel.conf"
        settings.write_text(f"sentinel monitor {SERVICE} 127.0.0.1 {master} 1\n")
        sentinel = stack.enter_context(certified.server(str(settings), "--sentinel"))
        url = f"rediss+sentinel://127.0.0.1:{sentinel}/{SERVICE}"
        await runs(f"{url}?ssl_ca_certs={certified.cert}", namespace)
        assert certified.do(master, "DBSIZE")
        await refused(url, namespace)


async def test_several_servers_over_tls(certified: Certified, namespace: str) -> None:
    """Each URL has its own options."""
    with certified.server() as first, certified.server() as second:
        urls = [f"rediss://127.0.0.1:{port}/0" for port in (first, second)]
        await runs(",".join(f"{url}?ssl_ca_certs={certified.cert}" for url in urls), namespace)
        for port, partition in ((first, 0), (second, 2)):
            assert certified.do(port, "EXISTS", f"polos:{{{namespace}:{partition}}}:queue:default")
        await refused(",".join(urls), namespace)
