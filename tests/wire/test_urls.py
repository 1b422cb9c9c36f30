"""What a Redis URL may be, and what is said of one that can't be used."""

from __future__ import annotations

import pytest

from polos_redis import ConfigurationError, PolosClient
from polos_redis.state.keys import prefix
from polos_redis.wire.cluster import SLOTS, prefix_of, slot_of
from polos_redis.wire.urls import parse


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
def test_one_server(url: str, address: str) -> None:
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
def test_a_cluster(url: str, seeds: list[str], found: str) -> None:
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
def test_a_service_that_sentinels_watch(url: str, seeds: list[str], service: str, found: str) -> None:
    target = parse(url)
    assert (target.kind, list(target.seeds), target.service) == ("sentinel", seeds, service)
    assert target.server("m", 1) == found
    assert "s3cret" not in target.address


def test_a_node_that_names_no_host_is_on_the_seeds_host() -> None:
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
        ("redis+other://:s3cret@a", "redis://user:password@host:port/0"),
        ("unix+cluster:///run/s3cret", "unix:///path/to/socket"),
        ("http://:s3cret@a", "redis://user:password@host:port/0"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        PolosClient(url)
    assert "s3cret" not in str(caught.value)


def test_slots_are_those_of_the_server() -> None:
    assert slot_of(b"polos:{123456789}:") == 0x31C3, "the check value of the CRC in the cluster specification"
    key = prefix("namespace", 3).encode() + b"exec:1{2}3"
    assert slot_of(key) == slot_of(b"{namespace:3}") < SLOTS
    assert prefix_of(("XREADGROUP", "GROUP", "workers", b"polos", "STREAMS", key)) == b"polos:{namespace:3}:"
    assert prefix_of(("PING",)) is None
