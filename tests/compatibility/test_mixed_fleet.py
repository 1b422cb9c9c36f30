"""Workers and clients of the previous release and of this one, in one namespace."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from polos_redis.embedded import EmbeddedServer
from tests.compatibility.releases import Client, Refused, Release, previous_python, this_python
from tests.harness.command import wait_until
from tests.harness.programs import skip_without

Releases = tuple[Release, Release]

REVIEW = {"approved": True, "note": "good"}
ADDRESS = {"street": "Main"}
ORDERED = (
    "(Parcel(item='lamp', weight=1), Review(approved=True, note='good'), Parcel(item='lamp', weight=7), "
    "{'street': 'Main'}, ['lamp', 'box'])"
)


@pytest.fixture(params=["the previous one first", "this one first"])
def releases(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Releases:
    """The release that begins, and the one that joins it."""
    python = previous_python()
    if python is None:
        skip_without("installed previous release", "`make test-previous` installs it")
    previous, this = (Release(one, redis_url, namespace, tmp_path) for one in (python, this_python()))
    return (previous, this) if request.param == "the previous one first" else (this, previous)


class Effects:
    """What steps have done in the folder of the releases, and the gate that they wait for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, effect: str) -> int:
        """How often an effect has happened."""
        path = self._folder / "effects"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.rpartition(" ")[0] for line in lines)[effect]

    def open_gate(self) -> None:
        (self._folder / "open").touch()


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    return Effects(tmp_path)


def agree(one: Any, other: Any, place: str = "") -> None:
    """Asserts that two releases show the same, but for fields that only one of them knows."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() & other.keys():
            agree(one[name], other[name], f"{place}.{name}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), place
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            agree(left, right, f"{place}[{index}]")
    else:
        assert one == other, place


def asked(client: Client, root: str = "") -> Counter[str]:
    """The step keys of the suspensions that are open, of all executions or of a root and its descendants."""
    return Counter(one["step_key"] for one in client("suspensions") if one["execution_id"].startswith(root))


def opened(client: Client, root: str, step_key: str, count: int = 1) -> None:
    """Waits until suspensions of a key are open in a tree."""
    wait_until(lambda: asked(client, root)[step_key] == count, f"{count} suspensions {step_key} of {root}")


def ever_asked(client: Client, execution_id: str) -> set[str]:
    """The step keys of the suspensions of an execution, open or not."""
    return {one["step_key"] for one in client("execution", execution_id)["suspensions"]}


def all_wait(client: Client) -> bool:
    """Whether all executions wait, but for those of flows that fail or have a long step."""
    others = ("calling", "failing", "holding")
    rows = client("executions")
    return all(row["status"] == "waiting" for row in rows if row["workflow_id"] not in others)


def answer_kids(client: Client, root: str, count: int, weight: int) -> None:
    """Tells the weight of each parcel of an execution, once its children have asked."""
    opened(client, root, "weight", count)
    for one in client("suspensions"):
        if one["execution_id"].startswith(f"{root}.") and one["step_key"] == "weight":
            assert client("resume", one["execution_id"], "weight", weight) == "accepted"


def test_a_release_goes_on_with_what_the_other_one_has_begun(
    releases: Releases, every_server: EmbeddedServer, effects: Effects
) -> None:
    """The worker of the first one is killed, with executions in each kind of wait and one in a step."""
    first, second = releases
    with first.client() as one, second.client() as other:
        with first.worker() as worker:
            ordering = one("invoke", "ordering", idempotency_key="k")
            assert other("invoke", "ordering", idempotency_key="k") == ordering
            names = ("loading", "racing", "listening", "calling", "failing")
            loading, racing, listening, calling, failing = [one("invoke", name) for name in names]
            cancelled = one("invoke", "loading")
            holding = [one("invoke", "holding") for _ in range(2)]
            expected = Counter({"review": 1, "weight": 4, "yes": 1, "go": 1})
            wait_until(lambda: asked(one) == expected, "the questions of the first release")
            wait_until(lambda: effects[f"call {calling}"] > 0, "an attempt")
            wait_until(lambda: sum(effects[f"hold {each}"] for each in holding) == 1, "a long step")

            assert other("resume", ordering, "address", ADDRESS, early=True) == "early"
            assert other("resume", failing, "go", None) == "accepted"
            wait_until(lambda: one.status(failing) == "failed", "a failure")
            wait_until(lambda: all_wait(one), "all of them to be parked")
            for each in (ordering, loading, racing, listening, failing):
                agree(one("execution", each), other("execution", each), each)
            agree(one("suspensions"), other("suspensions"))
            agree(first.polos("show", ordering), second.polos("show", ordering))

            assert other("resume", racing, "yes", "sure") == "accepted"
            expiring = one("invoke", "expiring")
            wait_until(lambda: "no" in ever_asked(one, racing), "the race against time")
            wait_until(lambda: "late" in ever_asked(one, expiring), "a suspension that expires")
            worker.signal(signal.SIGKILL)
            worker.wait()

        assert other("resume", ordering, "review", REVIEW, resumed_by="ann") == "accepted"
        assert one("resume", ordering, "review", REVIEW, resumed_by="ann") == "same"
        with pytest.raises(Refused, match="AlreadyResumedError"):
            one("resume", ordering, "review", {**REVIEW, "approved": False})
        one("publish", f"dock/{listening}", {"ship": 1})
        one("cancel", cancelled)
        effects.open_gate()
        with second.worker() as worker:
            other("retry", failing)
            answer_kids(one, loading, 2, 3)
            answer_kids(one, ordering, 1, 7)
            results = {
                ordering: ORDERED,
                loading: "[Parcel(item='cup', weight=3), Parcel(item='plate', weight=3)]",
                racing: "('yes, soon', 'sure')",
                expiring: "'too late'",
                listening: "{'ship': 1}",
                calling: "'called'",
                failing: "'called'",
                **dict.fromkeys(holding, "'held'"),
            }
            for client in (one, other):
                assert {each: client("result", each) for each in results} == results
        assert " ERROR " not in worker.err, worker.err

        assert sorted(effects[f"hold {each}"] for each in holding) == [1, 2]
        assert effects[f"ship {ordering}"] == 1
        listed = {row["id"]: row["status"] for row in other("executions")}
        ended = {each for each, status in listed.items() if status == "completed"}
        assert listed.keys() - ended == {each for each in listed if each.startswith(cancelled)}
        agree(one("executions"), other("executions"))
        agree(first.polos("show", ordering), second.polos("show", ordering))
        for each in (*results, cancelled):
            for call in ("execution", "audit", "stream"):
                agree(one(call, each), other(call, each), f"{call} {each}")


def test_both_releases_work_at_once(releases: Releases, redis_url: str, effects: Effects) -> None:
    """As during a rolling deploy: children of one execution run on both, each client answers what the other
    one has begun, and at last the first release's worker is stopped."""
    first, second = releases
    with (
        first.client() as one,
        second.client() as other,
        first.worker("--concurrency", "2", "--grace-seconds", "0.1") as early,
    ):
        held = other("invoke", "holding")
        wait_until(lambda: effects[f"hold {held}"] == 1, "a long step")
        with second.worker("--concurrency", "1"):
            both_ways = ((one, other), (other, one))
            for client, reader in both_ways:
                assert reader("result", client("invoke", "gathering")) == "'met'"
            workers = [{row["id"] for row in release.polos("workers")} for release in releases]
            assert workers[0] == workers[1] and len(workers[0]) == 2

            begun = [(client("invoke", "ordering"), reader) for client, reader in both_ways * 3]
            for order, client in begun:
                opened(client, order, "review")
                assert client("resume", order, "review", REVIEW) == "accepted"
            early.signal(signal.SIGTERM)
            assert early.wait() == 0, early.err
            effects.open_gate()
            for order, client in begun:
                answer_kids(client, order, 1, 7)
                assert client("resume", order, "address", ADDRESS, early=True) in ("accepted", "early")
            for order, client in begun:
                assert client("result", order) == ORDERED
                assert effects[f"ship {order}"] == 1
            assert one("result", held) == other("result", held) == "'held'"
            assert effects[f"hold {held}"] == 2
            assert {row["status"] for row in one("executions")} == {"completed"}
            agree(one("executions"), other("executions"))
