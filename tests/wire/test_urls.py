"""Valid Redis URLs, and the errors for others."""

from __future__ import annotations

from typing import Any

import pytest

from polos_redis import ConfigurationError, PolosClient
from polos_redis.state.keys import prefix
from polos_redis.wire.cluster import SLOTS, prefix_of, slot_of
from polos_redis.wire.urls import parse, parse_all


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", "h:6379"),
        ("redis://", "localhost:6379"),
        ("redis://user:s3cret@h:7/3", "h:7"),
        ("rediss://[::1]:7/?ssl_ca_certs=/ca.pem", "[::1]:7"),
        ("unix:///run/my%20redis.sock?db=2", "/run/my redis.sock"),
        ("unix://user:s3cret@/run/redis.sock", "/run/redis.sock"),
    ],
)
def test_a_url_of_one_server(url: str, address: str) -> None:
    target = parse(url)
    assert (target.kind, target.address, target.seeds) == ("server", address, (url,))


@pytest.mark.parametrize(
    ("url", "seeds", "found"),
    [
        ("redis+cluster://h", ["redis://h:6379"], "redis://10.0.0.1:7000"),
        (
            "redis+cluster://us%40er:s3cret@a:1,b,[::1]:3/",
            [f"redis://us%40er:s3cret@{node}" for node in ("a:1", "b:6379", "[::1]:3")],
            "redis://us%40er:s3cret@10.0.0.1:7000",
        ),
        (
            "rediss+cluster://:s3cret@a:1/0?ssl_ca_certs=/ca.pem",
            ["rediss://:s3cret@a:1?ssl_ca_certs=/ca.pem"],
            "rediss://:s3cret@10.0.0.1:7000?ssl_ca_certs=/ca.pem",
        ),
    ],
)
def test_a_url_of_a_cluster(url: str, seeds: list[str], found: str) -> None:
    target = parse(url)
    assert (target.kind, list(target.seeds)) == ("cluster", seeds)
    assert target.server("10.0.0.1", 7000) == found
    assert "s3cret" not in target.address


@pytest.mark.parametrize(
    ("url", "seeds", "service", "found"),
    [
        ("redis+sentinel://a,b:7/main", ["redis://a:26379", "redis://b:7"], "main", "redis://m:1/0"),
        ("redis+sentinel://u:s3cret@a/my%20main/2", ["redis://a:26379"], "my main", "redis://u:s3cret@m:1/2"),
        (
            "rediss+sentinel://:s3cret@a/main?sentinel_password=s3cret%40&ssl_cert_reqs=none",
            ["rediss://:s3cret%40@a:26379?ssl_cert_reqs=none"],
            "main",
            "rediss://:s3cret@m:1/0?ssl_cert_reqs=none",
        ),
        (
            "redis+sentinel://a/main?sentinel_username=s3cret&sentinel_password=s3cret",
            ["redis://s3cret:s3cret@a:26379"],
            "main",
            "redis://m:1/0",
        ),
    ],
)
def test_a_url_of_a_service_behind_sentinels(url: str, seeds: list[str], service: str, found: str) -> None:
    target = parse(url)
    assert (target.kind, list(target.seeds), target.service) == ("sentinel", seeds, service)
    assert target.server("m", 1) == found
    assert "s3cret" not in target.address


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://a", ["a:6379"]),
        ("redis://:s3cret@a:1/0,rediss://b:2/1", ["a:1", "b:2"]),
        (" redis://a , unix:///run/b.sock ", ["a:6379", "/run/b.sock"]),
        (
            "redis+sentinel://a,b:7/main,redis://c,rediss+sentinel://d,e/other/0?ssl_ca_certs=/ca.pem",
            ["'main' of the sentinels a:26379,b:7", "c:6379", "'other' of the sentinels d:26379,e:26379"],
        ),
        ("unix:///run/a,b.sock,unix:///run/c.sock", ["/run/a,b.sock", "/run/c.sock"]),
        ("redis+cluster://a,b", ["the cluster at a:6379,b:6379"]),
    ],
)
def test_a_comma_before_a_scheme_separates_servers(url: str, found: list[str]) -> None:
    assert [target.address for target in parse_all(url)] == found
    assert PolosClient(url, partitions=3).partitions == 3


@pytest.mark.parametrize("url", [[], [""], ["redis://a", 1], 5, {"redis://a": 1}])
def test_what_is_no_list_of_urls_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="url= must be the URL of a server, or a list with"):
        PolosClient(url)


def test_a_credential_provider_and_a_password_of_any_server_exclude_each_other() -> None:
    class Provider:
        def get_credentials(self) -> tuple[str, str]:
            return "user", "s3cret"

    with pytest.raises(ConfigurationError, match="leave out one of them"):
        PolosClient(["redis://a", "redis://:s3cret@b"], partitions=2, credential_provider=Provider())


def test_a_node_without_a_host_is_on_the_seeds_host() -> None:
    assert parse("redis+cluster://10.0.0.9:1").server("", 2) == "redis://10.0.0.9:2"
    assert parse("redis+cluster://h").server("fe80::1", 2) == "redis://[fe80::1]:2"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://a:s3cret@h,i", "use redis.cluster:// .* for several hosts"),
        ("redis://:s3cret@h/0/1", "redis://user:password@host:port/0"),
        ("redis+cluster://:s3cret@h/1", "a cluster has no databases"),
        ("redis+cluster://:s3cret@h/main", "a cluster has no databases"),
        ("redis+cluster://:s3cret@a,,b", "redis.cluster://user:password@host:port,host:port"),
        ("redis+cluster://:s3cret@a:port", "redis.cluster://"),
        ("redis+cluster://:s3cret@a:1#x", "redis.cluster://"),
        ("redis+sentinel://:s3cret@a", "name of the sentinels' service must follow"),
        ("redis+sentinel://:s3cret@a/main/db", "name of the sentinels' service must follow"),
        ("redis+sentinel://:s3cret@a/main/0/1", "name of the sentinels' service must follow"),
        ("redis://:s3cret@a,redis+cluster://b", "a cluster can't be one of several servers: name it alone"),
        ("redis://:s3cret@a,redis://b,redis://:s3cret@a", "it names a:6379 twice"),
        ("redis://:s3cret@a,http://b", "or several URLs of servers with commas between them"),
        ("redis://:s3cret@a,", "redis://user:password@host:port/0"),
        (",redis://:s3cret@a", "redis://user:password@host:port/0"),
        (
            "redis://:s3cret@a,redis://b,c",
            "redis.cluster:// .* for several hosts, and whole URLs for",
        ),
        ("redis+other://:s3cret@a", "redis://user:password@host:port/0"),
        ("unix+cluster:///run/s3cret", "unix:///path/to/socket"),
        ("http://:s3cret@a", "redis://user:password@host:port/0"),
    ],
)
def test_an_invalid_url_is_refused_without_showing_its_password(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        PolosClient(url)
    assert "s3cret" not in str(caught.value)


def test_slots_match_the_servers() -> None:
    assert slot_of(b"polos:{123456789}:") == 0x31C3, "the check value of the CRC in the cluster specification"
    key = prefix("namespace", 3).encode() + b"exec:1{2}3"
    assert slot_of(key) == slot_of(b"{namespace:3}") < SLOTS
    assert prefix_of(("XREADGROUP", "GROUP", "workers", b"polos", "STREAMS", key)) == b"polos:{namespace:3}:"
    assert prefix_of(("PING",)) is None
