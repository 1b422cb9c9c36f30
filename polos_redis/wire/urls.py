"""Redis URLs. Each names one server, the master of a sentinel service, or a cluster.

URLs of several servers are one text, separated by commas. A comma inside a URL separates hosts, so only one
before another URL's scheme ends a URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from polos_redis.errors import ConfigurationError

SENTINEL_PORT, REDIS_PORT = 26379, 6379

_NEXT = re.compile(r"\s*,\s*(?=[a-z][a-z0-9+.-]*://)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed Redis URL.

    `address` contains no password and may appear in messages; the other fields may contain one. `seeds` are
    URLs of single servers: the server itself, the sentinels, or some nodes of the cluster.
    """

    kind: Literal["server", "sentinel", "cluster"]
    address: str
    seeds: tuple[str, ...]
    service: str = ""
    _around: tuple[str, str] = ("", "")  # the parts of a server's URL before and after host:port

    def server(self, host: str, port: int) -> str:
        """The URL of a server that the seeds named; an empty host stands for the first seed's host."""
        before, after = self._around
        return f"{before}{_at(host or urlsplit(self.seeds[0]).hostname or 'localhost', port)}{after}"


def split(url: str) -> list[str]:
    """The URLs in a text of one or more."""
    return _NEXT.split(url.strip())


def parse_all(url: str) -> list[RedisUrl]:
    """Parses the URLs of one or more servers, as `parse` does. A cluster stands alone, and no URL twice."""
    urls = split(url)
    found = [parse(one) for one in urls]
    if len(urls) > 1 and any(one.kind == "cluster" for one in found):
        raise bad_url("a cluster can't be one of several servers: name it alone")
    for position, one in enumerate(urls):
        if one in urls[:position]:
            raise bad_url(f"it names {found[position].address} twice")
    return found


def parse(url: str) -> RedisUrl:
    """Parses the URL of a server, a sentinel service or a cluster.

    Raises `ConfigurationError`, whose message never contains a password."""
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if parts.scheme == "unix" and parts.path:
            return RedisUrl("server", unquote(parts.path), (url,))
        if scheme in ("redis", "rediss") and not parts.fragment:
            path = [unquote(part) for part in parts.path.split("/") if part]
            if not kind:
                return _server(url, parts, path)
            if kind == "cluster":
                return _cluster(scheme, parts, path)
            if kind == "sentinel":
                return _sentinel(scheme, parts, path)
    except ValueError:
        pass
    raise bad_url()


def _server(url: str, parts: SplitResult, path: list[str]) -> RedisUrl:
    servers = _servers(parts, REDIS_PORT)
    if len(servers) > 1:
        raise bad_url(
            "use redis+cluster:// or redis+sentinel:// for several hosts, and whole URLs for several servers"
        )
    if len(path) > 1 or not all(part.isdecimal() for part in path):
        raise bad_url()
    return RedisUrl("server", servers[0], (url,))


def _cluster(scheme: str, parts: SplitResult, path: list[str]) -> RedisUrl:
    if path not in ([], ["0"]):
        raise bad_url("a cluster has no databases: leave out everything after the hosts")
    servers = _servers(parts, REDIS_PORT)
    before, after = f"{scheme}://{_user(parts)}", f"?{parts.query}" if parts.query else ""
    seeds = tuple(f"{before}{server}{after}" for server in servers)
    return RedisUrl("cluster", f"the cluster at {','.join(servers)}", seeds, "", (before, after))


def _sentinel(scheme: str, parts: SplitResult, path: list[str]) -> RedisUrl:
    if len(path) not in (1, 2) or not all(part.isdecimal() for part in path[1:]):
        raise bad_url(
            "the name of the sentinels' service must follow the hosts: .../service or .../service/0"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    name, password = (options.pop(f"sentinel_{one}", "") for one in ("username", "password"))
    query = f"?{urlencode(options)}" if options else ""
    login = f"{quote(name, '')}:{quote(password, '')}@" if name or password else ""
    servers = _servers(parts, SENTINEL_PORT)
    seeds = tuple(f"{scheme}://{login}{server}{query}" for server in servers)
    around = f"{scheme}://{_user(parts)}", f"/{path[1] if path[1:] else 0}{query}"
    return RedisUrl("sentinel", f"{path[0]!r} of the sentinels {','.join(servers)}", seeds, path[0], around)


def _user(parts: SplitResult) -> str:
    user, at, _ = parts.netloc.rpartition("@")
    return user + at


def _servers(parts: SplitResult, default: int) -> list[str]:
    """host:port of each server, with IPv6 addresses in brackets. Raises ValueError."""
    names = [urlsplit(f"redis://{name}") for name in parts.netloc.rpartition("@")[2].split(",")]
    if len(names) > 1 and not all(name.hostname for name in names):
        raise ValueError("a host is missing")
    return [_at(unquote(name.hostname or "localhost"), name.port or default) for name in names]


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bad_url(why: str = "") -> ConfigurationError:
    """The error for an invalid URL. It lists the valid forms and does not repeat the URL."""
    return ConfigurationError(
        f"the Redis URL is invalid{f' ({why})' if why else ''}: write redis://user:password@host:port/0, "
        "unix:///path/to/socket, redis+sentinel://user:password@host:port,host:port/service or "
        "redis+cluster://user:password@host:port,host:port (rediss for TLS), or several URLs of servers with "
        "commas between them, and escape special characters in user and password as %XX"
    )
