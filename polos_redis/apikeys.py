"""API keys: who calls the REST API, and what they may do. Kept in partition 0, for the whole namespace.

The secret `polos_<id>_<random>` is given out once and stored as its SHA-256 only: it has 256 random bits, so
there is nothing to guess, and nothing that a slow hash would add.
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

from polos_redis.connection.connection import Connection
from polos_redis.decisions.people import check_groups, check_name
from polos_redis.errors import ApiKeyNotFoundError, ConfigurationError
from polos_redis.values.times import to_datetime, to_ms

SCOPES = ("read", "invoke", "approve", "admin")
PREFIX = "polos_"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. `name` is who uses it, as decisions and the audit have it; several keys may
    have the same."""

    id: str
    name: str
    groups: tuple[str, ...]
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def holds(self) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or datetime.now(UTC) < self.expires_at)


async def create(
    connection: Connection,
    name: str,
    scopes: Iterable[str],
    groups: Iterable[str] = (),
    expires_in: float | None = None,
) -> tuple[ApiKey, str]:
    """Make a key that holds for `expires_in` seconds (None: until it is revoked); returns it and its secret
    text, which is stored nowhere. Raises `ConfigurationError`."""
    check_name("a key's name", name)
    wanted = {scopes} if isinstance(scopes, str) else set(scopes)
    if not wanted or not wanted <= set(SCOPES):
        raise ConfigurationError(
            f"the scopes of a key are some of {', '.join(SCOPES)}, not {', '.join(sorted(wanted)) or 'none'}"
        )
    if expires_in is not None and not 0 < expires_in < 1e10:
        raise ConfigurationError(f"expires_in is a positive number of seconds, not {expires_in!r}")
    now = time.time()
    key = ApiKey(
        id=secrets.token_hex(8),
        name=name,
        groups=check_groups("a key", groups),
        scopes=tuple(scope for scope in SCOPES if scope in wanted),
        created_at=to_datetime(int(now * 1000)),
        expires_at=None if expires_in is None else to_datetime(int((now + expires_in) * 1000)),
    )
    secret = f"{PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
    await (await connection.store()).api_keys.put(key.id, _pack(key, _digest(secret)))
    return key, secret


async def find(connection: Connection, secret: str) -> ApiKey | None:
    """The key that a secret text is of; None when it is unknown, revoked or expired."""
    if not secret.startswith(PREFIX) or not secret.isascii():
        return None
    packed = await (await connection.store()).api_keys.read(secret[len(PREFIX) :].partition("_")[0])
    if packed is None:
        return None
    key, digest = _unpack(packed)
    return key if hmac.compare_digest(digest, _digest(secret)) and key.holds else None


async def get(connection: Connection, key_id: str) -> ApiKey | None:
    """The key of an id, whether it still holds or not; None when there is none."""
    packed = await (await connection.store()).api_keys.read(key_id)
    return None if packed is None else _unpack(packed)[0]


async def list_keys(connection: Connection) -> list[ApiKey]:
    """All keys, oldest first; revoked and expired ones too."""
    found = [_unpack(packed)[0] for packed in await (await connection.store()).api_keys.read_all()]
    return sorted(found, key=lambda key: (key.created_at, key.id))


async def revoke(connection: Connection, id_or_name: str) -> list[ApiKey]:
    """Let a key, or all keys of a name, hold no longer; returns them. One revoked before stays as it is.

    Raises `ApiKeyNotFoundError`.
    """
    store = await connection.store()
    stored = [_unpack(packed) for packed in await store.api_keys.read_all()]
    meant = [row for row in stored if row[0].id == id_or_name] or [
        row for row in stored if row[0].name == id_or_name
    ]
    if not meant:
        raise ApiKeyNotFoundError(id_or_name)
    revoked = []
    for key, digest in meant:
        if key.revoked_at is None:
            key = replace(key, revoked_at=to_datetime(int(time.time() * 1000)))
            await store.api_keys.put(key.id, _pack(key, digest))
        revoked.append(key)
    return revoked


# --- as the store has it ----------------------------------------------------------------


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
        "digest": digest,
    }
    packed: bytes = msgpack.packb(stored)
    return packed


def _unpack(packed: bytes) -> tuple[ApiKey, bytes]:
    found = msgpack.unpackb(packed)
    expires, revoked = found["expires"], found["revoked"]
    key = ApiKey(
        found["id"],
        found["name"],
        tuple(found["groups"]),
        tuple(found["scopes"]),
        to_datetime(found["created"]),
        None if expires is None else to_datetime(expires),
        None if revoked is None else to_datetime(revoked),
    )
    return key, found["digest"]
