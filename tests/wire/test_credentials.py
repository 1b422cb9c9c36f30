"""Credential providers: user and password of each connection, from an object that may change its mind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from polos_redis import (
    ConfigurationError,
    Polos,
    PolosClient,
    RedisUnavailableError,
    Worker,
    WorkflowContext,
    workflow,
)
from polos_redis.errors import PolosError
from polos_redis.state import keys
from polos_redis.wire import dialing
from polos_redis.wire.dialing import dial
from tests.harness.running import soon, until
from tests.harness.servers import ChaosServer


class Rotating(CredentialProvider):
    """A new password each time it is asked, which it sets at the server like an identity service."""

    def __init__(self) -> None:
        self.passwords = ["first"]
        self.given: list[str] = []
        self.threads: set[int] = set()

    def get_credentials(self) -> tuple[str, str]:
        self.threads.add(threading.get_ident())
        self.given.append(self.passwords[-1])
        return "app", self.passwords[-1]


class Awaited:
    """As `Rotating`, asked from the loop."""

    def __init__(self) -> None:
        self.passwords = ["first"]
        self.given: list[str] = []

    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        self.given.append(self.passwords[-1])
        return "app", self.passwords[-1]


@workflow(id="with-credentials")
async def flow(ctx: WorkflowContext) -> str:
    return str((await ctx.step.suspend("ok", timeout=60))["data"])


async def rotate(admin: PolosClient, provider: Any, password: str, *, close: bool = True) -> None:
    """The user's password changes, and the server closes its connections, as managed servers do."""
    wire = (await admin.store()).wire
    provider.passwords.append(password)
    await wire.call("ACL", "SETUSER", "app", "reset", "on", f">{password}", "~polos:*", "&polos:*", "+@all")
    if close:
        await wire.call("CLIENT", "KILL", "USER", "app")


@pytest.mark.parametrize("kind", [Rotating, Awaited])
@pytest.mark.failure(15)
async def test_a_worker_and_a_client_live_through_rotations(
    chaos_server: ChaosServer, namespace: str, kind: type[Any]
) -> None:
    provider = kind()
    async with PolosClient(chaos_server.url, namespace) as admin:
        await rotate(admin, provider, "first")
        async with PolosClient(chaos_server.url, namespace, credential_provider=provider) as client:
            worker = Worker(client, [flow], handle_signals=False, lease_seconds=2)
            running = asyncio.create_task(worker.run())
            await soon(worker.ready.wait())
            for number in range(3):
                handle = await flow.invoke(client)
                waiting = asyncio.create_task(handle.result())
                await until(lambda: admin.list_suspensions(), "the suspension")
                await rotate(admin, provider, f"number {number}")
                await client.resume(suspend_execution_id=handle.id, suspend_step_key="ok", data="yes")
                assert await soon(waiting) == "yes"
                assert f"number {number}" in provider.given
            worker.stop()
            await soon(running)
    if isinstance(provider, Rotating):
        assert threading.get_ident() not in provider.threads, "it may block"


@pytest.mark.parametrize("kind", [Rotating, Awaited])
async def test_a_workers_lease_is_renewed_with_them(
    chaos_server: ChaosServer, namespace: str, kind: type[Any]
) -> None:
    provider = kind()
    async with PolosClient(chaos_server.url, namespace) as admin:
        await rotate(admin, provider, "first")
        store = await admin.store()
        await store.wire.call("ACL", "SETUSER", "default", ">another", "resetpass")
        async with PolosClient(chaos_server.url, namespace, credential_provider=provider) as client:
            worker = Worker(client, [flow], handle_signals=False, lease_seconds=0.5)
            running = asyncio.create_task(worker.run())
            await soon(worker.ready.wait())
            key = store.prefixes[0] + keys.WORKERS.encode()

            async def renewed() -> bool:
                return int(await store.wire.call("HGET", key, worker.worker_id)) > 3

            await until(renewed, "the lease to be renewed")
            worker.stop()
            await soon(running)
        await store.wire.call("ACL", "SETUSER", "default", "nopass")


async def test_polos_takes_one_as_well(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin:
        provider = Rotating()
        await rotate(admin, provider, "first")
        mine = UsernamePasswordCredentialProvider("app", "first")
        async with Polos(
            url=chaos_server.url, namespace=namespace, workflows=[flow], credential_provider=mine
        ) as polos:
            handle = await flow.invoke(polos)
            await until(lambda: polos.list_suspensions(), "the suspension")
            await polos.resume(suspend_execution_id=handle.id, suspend_step_key="ok", data="yes")
            assert await soon(handle.result()) == "yes"


async def test_a_failing_provider_is_one_sentence_and_asked_again(
    chaos_server: ChaosServer, namespace: str
) -> None:
    asked, allowed = 0, 10**9

    class Failing:
        def get_credentials(self) -> tuple[str, ...]:
            nonlocal asked
            asked += 1
            if asked < allowed:
                raise OSError("the vault is sealed")
            return ("default", "")

    async with PolosClient(
        chaos_server.url, namespace, credential_provider=Failing(), patience_seconds=1
    ) as client:
        with pytest.raises(RedisUnavailableError, match=r"credential provider .*the vault is sealed"):
            await client.list_executions()
    async with PolosClient(chaos_server.url, namespace) as admin:
        await (await admin.store()).wire.call("ACL", "SETUSER", "default", "nopass")
    asked, allowed = 0, 3
    async with PolosClient(chaos_server.url, namespace, credential_provider=Failing()) as client:
        assert not await client.list_executions()
        assert asked >= 3


class Odd(Exception):
    """An exception that can't even be printed."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


@pytest.mark.failure(53)
@pytest.mark.parametrize("awaited", [False, True], ids=["in a thread", "awaited"])
@pytest.mark.parametrize(
    "raised",
    [
        KeyError("k"),
        SystemExit(3),
        asyncio.CancelledError(),
        TimeoutError("its own"),
        Odd(),
        BaseException("b"),
    ],
    ids=lambda one: type(one).__name__,
)
async def test_whatever_a_provider_raises_is_the_cause(
    chaos_server: ChaosServer, namespace: str, raised: BaseException, awaited: bool
) -> None:
    class InThread:
        def get_credentials(self) -> tuple[str, ...]:
            raise raised

    class InLoop:
        async def get_credentials_async(self) -> tuple[str, ...]:
            raise raised

    provider: Any = InLoop() if awaited else InThread()
    async with PolosClient(
        chaos_server.url, namespace, credential_provider=provider, patience_seconds=0.3
    ) as client:
        with pytest.raises(RedisUnavailableError, match=r"the credential provider for Redis at .* failed: "):
            await client.list_executions()


@pytest.mark.parametrize("kind", ["thread", "loop", "property"])
async def test_a_provider_that_hangs_is_given_up(
    chaos_server: ChaosServer, namespace: str, kind: str
) -> None:
    released, asked = threading.Event(), 0

    class Hanging:
        def get_credentials(self) -> tuple[str, ...]:
            nonlocal asked
            asked += 1
            if asked == 1:
                released.wait()
            return ("default", "")

    class HangingInLoop:
        async def get_credentials_async(self) -> tuple[str, ...]:
            nonlocal asked
            asked += 1
            if asked == 1:
                await asyncio.Event().wait()
            return ("default", "")

    class Broken:
        @property
        def get_credentials_async(self) -> Any:
            nonlocal asked
            asked += 1
            if asked > 1:
                raise OSError("no vault")
            return None

        def get_credentials(self) -> tuple[str, ...]:
            raise OSError("no vault")

    provider: Any = {"thread": Hanging, "loop": HangingInLoop, "property": Broken}[kind]()
    try:
        with pytest.raises(
            RedisUnavailableError, match=r"failed: (no answer within 0\.3 s|OSError: no vault)"
        ):
            await dial(chaos_server.url, "here", 0.3, provider)
        if kind != "property":
            transport = await dial(chaos_server.url, "here", 20, provider)
            transport.abort()
    finally:
        released.set()


async def test_calls_that_never_return_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "_threads", threading.BoundedSemaphore(1))
    released = threading.Event()

    class Hanging:
        def get_credentials(self) -> tuple[str, ...]:
            released.wait()
            return ()

    with pytest.raises(RedisUnavailableError, match="no answer within"):
        await dial("redis://h", "here", 0.1, Hanging())
    with pytest.raises(RedisUnavailableError, match="earlier calls have not returned"):
        await dial("redis://h", "here", 0.1, Hanging())
    released.set()


async def test_a_host_that_is_no_name_is_unreachable() -> None:
    with pytest.raises(RedisUnavailableError, match="can't be reached"):
        await dial("redis://a..b:6379/0", "a..b:6379", 5)


@pytest.mark.parametrize(
    "found", [None, (), 5, "text", ("a", "b", "c"), ("a", None), (b"b",), (1, "p"), ("a", "s3cret\ud800")]
)
async def test_what_a_provider_returns_is_checked(
    chaos_server: ChaosServer, namespace: str, found: Any
) -> None:
    class Wrong:
        def get_credentials(self) -> Any:
            return found

    async with PolosClient(
        chaos_server.url, namespace, credential_provider=Wrong(), patience_seconds=1
    ) as client:
        with pytest.raises(
            RedisUnavailableError, match=r"must return \(user, password\) or \(password,\)"
        ) as caught:
            await client.list_executions()
    assert "s3cret" not in str(caught.value)


async def test_a_refused_password_is_reported(chaos_server: ChaosServer, namespace: str) -> None:
    wrong = UsernamePasswordCredentialProvider("nobody", "s3cret")
    async with PolosClient(chaos_server.url, namespace, credential_provider=wrong) as client:
        with pytest.raises(PolosError, match="WRONGPASS") as caught:
            await client.list_executions()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("provider", ["app:secret", ("app", "secret"), object()])
def test_a_provider_without_the_method_is_refused(provider: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"credential_provider= must have a method get_credentials"):
        PolosClient(credential_provider=provider)


@pytest.mark.parametrize(
    "url", ["redis://u:p@h/0", "rediss://:p@h", "unix://u:p@/s", "redis+cluster://u:p@h"]
)
def test_a_password_in_the_url_beside_a_provider_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="leave out one of them"):
        PolosClient(url, credential_provider=Rotating())
