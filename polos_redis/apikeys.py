"""API keys: the callers of the REST API and their permissions.

All keys of a namespace are in partition 0. The secret, `polos_<id>_<random>`, is returned once and stored
only as its SHA-256: with 256 random bits it can't be guessed, so a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgpack

from polos_redis.connection.clients import takes_client
from polos_redis.connection.connection import Connection
from polos_redis.decisions.people import check_groups, check_name
from polos_redis.errors import ApiKeyNotFoundError, ConfigurationError
from polos_redis.redaction import KEY_PREFIX
from polos_redis.state import keys
from polos_redis.values.names import canonical
from polos_redis.values.times import to_datetime, to_ms

__all__ = ["ApiKey", "create", "find", "get", "list_keys", "revoke"]

SCOPES = ("read", "invoke", "approve", "admin")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret.

    `name` is the person or program that uses it, as recorded in decisions and the audit; several keys may
    share a name. `scopes` are some of "read", "invoke", "approve" and "admin". With `workflows`, the key
    covers only executions whose root is of one of these workflows, with their descendants; empty means all.
    """

    id: str
    name: str
    groups: tuple[str, ...]
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    workflows: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the key is valid: neither revoked nor expired."""
        return self.held_at(time.time())

    def held_at(self, seconds: float) -> bool:
        """Whether the key is not revoked, and not expired at a time (seconds since 1970)."""
        return self.revoked_at is None and (
            self.expires_at is None or datetime.fromtimestamp(seconds, UTC) < self.expires_at
        )

    def may(self, scope: str) -> bool:
        """Whether the key has a scope; admin includes all."""
        return scope in self.scopes or "admin" in self.scopes


@takes_client
async def create(
    client: Connection,
    name: str,
    scopes: Iterable[str],
    groups: Iterable[str] = (),
    expires_in: float | None = None,
    workflows: Iterable[str] = (),
) -> tuple[ApiKey, str]:
    """Create a key that expires in `expires_in` seconds (None: never); return it and its secret.

    `workflows` are the ids of the workflows to restrict the key to. The secret is not stored and can't be
    read again. Raises `ConfigurationError`.
    """
    check_name("a key's name", name)
    granted = {scopes} if isinstance(scopes, str) else set(scopes)
    if not granted or not granted <= set(SCOPES):
        raise ConfigurationError(
            f"a key's scopes must be some of {', '.join(SCOPES)}, not {', '.join(sorted(granted)) or 'none'}"
        )
    if expires_in is not None and not 0 < expires_in < 1e10:
        raise ConfigurationError(f"expires_in must be a positive number of seconds, not {expires_in!r}")
    store = await client.store()
    now = await store.clock.now()
    key = ApiKey(
        id=secrets.token_hex(8),
        name=name,
        groups=check_groups("a key", groups),
        scopes=tuple(scope for scope in SCOPES if scope in granted),
        created_at=to_datetime(int(now * 1000)),
        expires_at=None if expires_in is None else to_datetime(int((now + expires_in) * 1000)),
        workflows=_workflow_ids(workflows),
    )
    secret = f"{KEY_PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
    await store.api_keys.put(key.id, _pack(key, _digest(secret)))
    return key, secret


def _workflow_ids(workflows: Iterable[str]) -> tuple[str, ...]:
    """Returns each id once, in order. Raises `ConfigurationError`."""
    if isinstance(workflows, str):
        raise ConfigurationError(f"a key's workflows must be a list of workflow ids, not {workflows!r}")
    ids = tuple(dict.fromkeys(workflows))
    for one in ids:
        keys.check_text("a workflow's id", one, error=ConfigurationError)
    return ids


@takes_client
async def find(client: Connection, secret: str) -> ApiKey | None:
    """Return the key with this secret; None if it is unknown, revoked or expired."""
    if not secret.startswith(KEY_PREFIX) or not secret.isascii():
        return None
    store = await client.store()
    packed = await store.api_keys.read(secret[len(KEY_PREFIX) :].partition("_")[0])
    if packed is None:
        return None
    key, digest = _unpack(packed)
    is_same = hmac.compare_digest(digest, _digest(secret))
    return key if is_same and key.held_at(await store.clock.now()) else None


@takes_client
async def get(client: Connection, key_id: str) -> ApiKey | None:
    """Return the key with this id, even if it is revoked or expired; None if there is none."""
    packed = await (await client.store()).api_keys.read(key_id)
    return None if packed is None else _unpack(packed)[0]


@takes_client
async def list_keys(client: Connection) -> list[ApiKey]:
    """Return all keys, oldest first, including revoked and expired ones."""
    stored = await (await client.store()).api_keys.read_all()
    return sorted((_unpack(packed)[0] for packed in stored), key=lambda key: (key.created_at, key.id))


@takes_client
async def revoke(client: Connection, id_or_name: str) -> list[ApiKey]:
    """Revoke the key with this id, or all keys with this name, and return them.

    Keys revoked before keep their `revoked_at`. Raises `ApiKeyNotFoundError`.
    """
    store = await client.store()
    stored = [_unpack(packed) for packed in await store.api_keys.read_all()]
    matching = [row for row in stored if row[0].id == id_or_name] or [
        row for row in stored if canonical(row[0].name) == canonical(id_or_name)
    ]
    if not matching:
        raise ApiKeyNotFoundError(id_or_name)
    revoked = []
    for key, digest in matching:
        if key.revoked_at is None:
            key = replace(key, revoked_at=to_datetime(await store.clock.now_ms()))
            await store.api_keys.put(key.id, _pack(key, digest))
        revoked.append(key)
    return revoked


# --- the stored form --------------------------------------------------------------------


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _pack(key: ApiKey, digest: bytes) -> bytes:
    stored = {
        "id": key.id,
        "name": key.name,
        "groups": key.groups,
        "scopes": key.scopes,
        "created": to_ms(key.created_at),
        "expires": None if key.expires_at is None else to_ms(key.expires_at),
        "revoked": None if key.revoked_at is None else to_ms(key.revoked_at),
        "workflows": key.workflows,
        "digest": digest,
    }
    packed: bytes = msgpack.packb(stored, unicode_errors="surrogatepass")
    return packed


def _unpack(packed: bytes) -> tuple[ApiKey, bytes]:
    stored = msgpack.unpackb(packed, unicode_errors="surrogatepass")
    expires, revoked = stored["expires"], stored["revoked"]
    key = ApiKey(
        stored["id"],
        stored["name"],
        tuple(stored["groups"]),
        tuple(stored["scopes"]),
        to_datetime(stored["created"]),
        None if expires is None else to_datetime(expires),
        None if revoked is None else to_datetime(revoked),
        tuple(stored["workflows"]),
    )
    return key, stored["digest"]
