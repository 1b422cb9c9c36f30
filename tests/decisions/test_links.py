"""Signed links: for one suspension of one run, for a limited time, and for one person."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

import pytest

from polos_redis import ConfigurationError
from polos_redis.errors import LinkError
from polos_redis.links import SALT, Link, Links
from tests.harness.running import until

ID = "0123456789abcdef" * 2
OLD, NEW = "o" * 32, "n" * 32
CREATED = datetime(2026, 3, 2, 9, 14, 7, 312_459, UTC)


def made(*secrets: str, namespace: str = "shop", url: str | None = "https://polos.example.com") -> Links:
    return Links(secrets, namespace, url, 60.0)


def test_a_token_contains_what_it_was_made_from() -> None:
    before = time.time()
    links = made(NEW)
    link = links.read(
        links.token(ID, "a/b c", 3, CREATED, scope="view", name="Zoë", groups=["ops", "audit", "ops"])
    )
    assert link == Link(
        ID, "a/b c", 3, CREATED, link.signed_at, link.expires_at, "view", "Zoë", ("ops", "audit")
    )
    assert link.expires_at.tzinfo is UTC
    assert link.expires_at - link.signed_at == timedelta(seconds=60)
    assert before + 60 <= link.expires_at.timestamp() <= time.time() + 60


def test_a_token_without_a_creation_time_is_for_the_execution_that_exists() -> None:
    links = made(NEW)
    link = links.read(links.token(ID, "approval", 2))
    assert link.is_for(2, link.signed_at)
    assert link.is_for(2, CREATED) is (link.signed_at >= CREATED)
    assert not link.is_for(1, link.signed_at)
    assert not link.is_for(2, link.signed_at + timedelta(microseconds=1))


def test_a_token_may_leave_the_person_open() -> None:
    links = made(NEW)
    link = links.read(links.token(ID, "approval", 1, CREATED, seconds=5))
    assert (link.scope, link.name, link.groups) == ("decide", None, ())


@pytest.mark.parametrize("step_key", ["a/../b", "ü?&#", "a b", "%2F", "\ud800", "x" * 2000])
def test_a_token_may_have_any_step_key(step_key: str) -> None:
    links = made(NEW)
    assert links.read(links.token(ID, step_key, 1, CREATED)).step_key == step_key


def test_a_signature_can_be_checked_without_our_code() -> None:
    token = made(NEW).token(ID, "approval", 1, CREATED)
    signed, _, signature = token.removeprefix("polos_link_").rpartition(".")
    key = hmac.digest(NEW.encode(), SALT.encode() + b"shop", "sha256")
    expected = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64encode(expected).rstrip(b"=").decode() == signature


@pytest.mark.threat(1)
def test_a_forged_token_is_refused() -> None:
    links = made(NEW)
    token = links.token(ID, "approval", 1, CREATED, scope="view")
    payload, _, signature = token.rpartition(".")
    other = links.token(ID, "payment", 1, CREATED).rpartition(".")[0]
    for forged in (
        "",
        ".",
        "x",
        payload,
        f"{other}.{signature}",
        f"{payload}.{signature[::-1]}",
        token[:-3],
        "ü",
    ):
        with pytest.raises(LinkError, match="was changed"):
            links.read(forged)


def test_a_token_of_another_namespace_or_secret_is_refused() -> None:
    token = made(NEW).token(ID, "approval", 1, CREATED)
    for other in (made(NEW, namespace="shop2"), made(OLD)):
        with pytest.raises(LinkError, match="another secret or for another namespace") as caught:
            other.read(token)
        assert caught.value.expired_at is None


async def test_an_expired_token_says_when_it_expired() -> None:
    links = made(NEW)
    token = links.token(ID, "approval", 1, CREATED, seconds=0.05)
    until_when = time.time() + 0.05
    await until(lambda: time.time() > until_when)
    with pytest.raises(LinkError, match=r"expired at 20\d\d-\d\d-\d\d") as caught:
        links.read(token)
    assert caught.value.expired_at is not None
    assert caught.value.expired_at < datetime.now(UTC)


def test_rotating_secrets_breaks_no_links() -> None:
    old, both, new = made(OLD), made(NEW, OLD), made(NEW)
    earlier, current = old.token(ID, "approval", 1, CREATED), both.token(ID, "approval", 1, CREATED)
    assert both.read(earlier).step_key == "approval"
    assert new.read(current).step_key == "approval"
    with pytest.raises(LinkError):
        new.read(earlier)


@pytest.mark.parametrize("step_key", ["approval", "a/b", "a/../b", "ü ?#&", "%2F"])
def test_a_url_leads_to_the_page_of_one_suspension(step_key: str) -> None:
    links = made(NEW, url="https://example.com/polos")
    url = urlsplit(links.url(ID, step_key, 2, CREATED, name="alice"))
    assert (url.scheme, url.netloc, url.fragment) == ("https", "example.com", "")
    page, approve, execution_id, key = url.path.removeprefix("/").split("/")
    assert (page, approve, execution_id, unquote(key)) == ("polos", "approve", ID, step_key)
    link = links.read(url.query.removeprefix("token="))
    assert (link.step_key, link.run, link.name) == (step_key, 2, "alice")


def test_without_a_secret_a_url_has_no_token() -> None:
    assert made().url(ID, "approval", 1, CREATED) == f"https://polos.example.com/approve/{ID}/approval"
    with pytest.raises(ConfigurationError, match="POLOS_SECRET"):
        made().token(ID, "approval", 1, CREATED)
    with pytest.raises(ConfigurationError, match="POLOS_SECRET"):
        made().read(made(NEW).token(ID, "approval", 1, CREATED))


def test_without_a_public_url_there_is_no_link() -> None:
    with pytest.raises(ConfigurationError, match="POLOS_PUBLIC_URL"):
        made(NEW, url=None).url(ID, "approval", 1, CREATED)


def test_links_are_configured_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Links.from_settings("shop") is None
    monkeypatch.setenv("POLOS_PUBLIC_URL", "https://polos.example.com/")
    unsigned = Links.from_settings("shop")
    assert unsigned is not None
    assert unsigned.url(ID, "approval", 1, CREATED) == made().url(ID, "approval", 1, CREATED)
    monkeypatch.setenv("POLOS_SECRET", f"{NEW}, {OLD}")
    monkeypatch.setenv("POLOS_LINK_SECONDS", "5")
    links = Links.from_settings("shop")
    assert links is not None
    assert links.secrets == (NEW, OLD)
    assert links.read(links.token(ID, "k", 1, CREATED)).expires_at.timestamp() <= time.time() + 5


@pytest.mark.threat(31)
@pytest.mark.parametrize("secret", ["short", f"{NEW},short", " , ", "s" * 31])
def test_a_guessable_secret_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("POLOS_SECRET", secret)
    with pytest.raises(
        ConfigurationError, match="POLOS_SECRET must be one or more secrets of at least 32 characters"
    ) as caught:
        Links.from_settings("shop")
    assert "short" not in str(caught.value) and "sss" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "polos.example.com",
        "ftp://x",
        "https://",
        "https://x/?a=1",
        "https://x/#a",
        "https://x:a",
        "https://a b",
    ],
)
def test_an_invalid_public_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="public_url= must be a URL"):
        Links.from_settings("shop", public_url=url)


@pytest.mark.parametrize("name", ["", " alice", "group:ops", "a\nb", "x" * 201])
def test_an_ambiguous_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a link's name (can't be|must be a name of 1 to 200)"):
        made(NEW).token(ID, "approval", 1, CREATED, name=name)
    with pytest.raises(ConfigurationError, match="a group's name can't be"):
        made(NEW).token(ID, "approval", 1, CREATED, groups=[name])


def test_a_scope_is_decide_or_view() -> None:
    with pytest.raises(ConfigurationError, match="scope"):
        made(NEW).token(ID, "approval", 1, CREATED, scope="admin")  # type: ignore[arg-type]
