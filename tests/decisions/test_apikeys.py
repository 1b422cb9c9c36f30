"""API keys: shown once, found by their secret, and unusable once revoked or expired."""

from __future__ import annotations

import hashlib
import re
import time

import pytest

from polos_redis import ConfigurationError, PolosClient, apikeys
from polos_redis.errors import ApiKeyNotFoundError
from tests.harness.running import until
from tests.invariants.state import Partition, RawConnection, masters, read


@pytest.mark.also_on_cluster
async def test_a_key_is_found_by_its_secret(client: PolosClient) -> None:
    key, secret = await apikeys.create(client, "alice", ["read", "approve"], ["ops", "audit"])
    assert re.fullmatch(rf"polos_{key.id}_[\w-]{{43}}", secret, re.ASCII)
    assert (key.name, key.groups, key.scopes) == ("alice", ("ops", "audit"), ("read", "approve"))
    assert key.expires_at is None and key.revoked_at is None and key.holds
    assert await apikeys.find(client, secret) == key
    assert await apikeys.list_keys(client) == [key]


@pytest.mark.threat(1)
async def test_no_other_secret_finds_a_key(client: PolosClient) -> None:
    key, secret = await apikeys.create(client, "alice", "admin")
    _, other = await apikeys.create(client, "bob", "read")
    random, others = secret.rpartition("_")[2], other.rpartition("_")[2]
    wrong = [
        *("", "polos", "polos_", "polos__", key.id, f"polos_{key.id}", f"polos_{key.id}_", "polos_é_x"),
        *(secret[:-1], f"{secret}x", secret.upper(), f" {secret}", f"polos_{key.id}_{random}\n"),
        *(f"polos_{key.id}_{others}", f"polos_{'0' * 16}_{random}", "polos_\ud800_x"),
    ]
    for guess in wrong:
        assert await apikeys.find(client, guess) is None, guess


async def test_the_store_never_has_the_secret(client: PolosClient, namespace: str) -> None:
    key, secret = await apikeys.create(client, "alice", "read")
    (partition, *_) = [
        partition for url in masters(client.url) for partition in _read(url, namespace) if partition.api_keys
    ]
    stored = partition.api_keys[key.id.encode()]
    assert secret.rpartition("_")[2].encode() not in stored
    assert hashlib.sha256(secret.encode()).digest() in stored


def _read(url: str, namespace: str) -> list[Partition]:
    with RawConnection(url) as connection:
        return read(connection, namespace)


async def test_a_revoked_key_is_not_found(client: PolosClient) -> None:
    one, secret = await apikeys.create(client, "alice", "read")
    two, second = await apikeys.create(client, "alice", "read")
    three, third = await apikeys.create(client, "bob", "read")
    (revoked,) = await apikeys.revoke(client, one.id)
    assert revoked.id == one.id and revoked.revoked_at is not None and not revoked.holds
    assert await apikeys.find(client, secret) is None
    assert await apikeys.find(client, second) == two

    both = await apikeys.revoke(client, "alice")
    assert {key.id for key in both} == {one.id, two.id}
    assert revoked in both, "its revocation time stays"
    assert await apikeys.find(client, second) is None
    assert await apikeys.find(client, third) is not None
    listed = {key.id: key for key in await apikeys.list_keys(client)}
    assert listed.keys() == {one.id, two.id, three.id}
    assert {key.id for key in listed.values() if key.revoked_at is None} == {three.id}


async def test_an_unknown_key_cannot_be_revoked(client: PolosClient) -> None:
    with pytest.raises(ApiKeyNotFoundError, match="no API key 'carol'"):
        await apikeys.revoke(client, "carol")


async def test_a_key_expires(client: PolosClient) -> None:
    key, secret = await apikeys.create(client, "alice", "read", expires_in=3600)
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).total_seconds() == 3600
    assert await apikeys.find(client, secret) == key
    brief, second = await apikeys.create(client, "alice", "read", expires_in=0.05)
    assert brief.expires_at is not None
    await until(lambda: time.time() > brief.expires_at.timestamp())  # type: ignore[union-attr]
    assert await apikeys.find(client, second) is None
    assert brief in await apikeys.list_keys(client)


async def test_a_key_belongs_to_its_namespace(client: PolosClient, namespace: str) -> None:
    _, secret = await apikeys.create(client, "alice", "admin")
    async with PolosClient(client.url, f"{namespace}-other") as other:
        assert await apikeys.find(other, secret) is None
        assert await apikeys.list_keys(other) == []


@pytest.mark.parametrize("scopes", [[], ["write"], ["read", "write"], ""])
async def test_an_unknown_scope_is_refused(client: PolosClient, scopes: list[str] | str) -> None:
    with pytest.raises(ConfigurationError, match="must be some of read, invoke, approve, admin"):
        await apikeys.create(client, "alice", scopes)


@pytest.mark.parametrize("name", ["", "group:ops", "a\tb", " a"])
async def test_an_ambiguous_name_is_refused(client: PolosClient, name: str) -> None:
    with pytest.raises(ConfigurationError, match="a key's name"):
        await apikeys.create(client, name, "read")
    with pytest.raises(ConfigurationError, match="a group's name"):
        await apikeys.create(client, "alice", "read", [name])
    with pytest.raises(ConfigurationError, match="list of names"):
        await apikeys.create(client, "alice", "read", "ops")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
async def test_an_invalid_lifetime_is_refused(client: PolosClient, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="expires_in"):
        await apikeys.create(client, "alice", "read", expires_in=seconds)
    assert await apikeys.list_keys(client) == []
