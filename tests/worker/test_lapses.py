"""A worker whose lease has lapsed starts nothing before it has compared the journal, even if the lease has
been renewed since."""

from __future__ import annotations

from collections import Counter

import pytest

from polos_redis import PolosClient
from tests.harness.fleet import Fleet
from tests.harness.fleet_lapses import PLACES, lapsing
from tests.harness.running import journal_of, until

pytestmark = pytest.mark.also_on_cluster

LEASE = 1.5


@pytest.mark.failure(2, 41)
@pytest.mark.parametrize("place", PLACES)
async def test_a_worker_frozen_past_its_lease_runs_no_journaled_step_again(
    fleet: Fleet, client: PolosClient, place: str
) -> None:
    options = {"defined_in": "tests.harness.fleet_lapses", "lease_seconds": LEASE, "concurrency": 1}
    frozen = await fleet.start(**options)
    handle = await lapsing.invoke(client, place)
    await fleet.seen(handle.id, "here")
    store = await client.store()
    if place == "backoff":  # the failed attempt is journaled
        await until_journaled(client, handle.id, b"two")
    frozen.pause()
    heir = await fleet.start(**options)
    if place != "backoff":
        await fleet.seen(handle.id, "here", times=2)
    fleet.open(f"go-{heir.pid}")
    await fleet.seen(handle.id, "last")  # it has journaled all the steps before, and is not done
    before, seen = await journal_of(store, handle.id), Counter(fleet.effects(handle.id))

    frozen.resume()
    await frozen.said("the lease had lapsed")
    fleet.open(f"go-{frozen.pid}")
    await frozen.said("dropped")

    async def let_go() -> bool:
        return await frozen.holds() == (0, 0, 0)

    await until(let_go, "its slot, its entry and its memory to be free")
    assert await journal_of(store, handle.id) == before
    assert Counter(fleet.effects(handle.id)) == seen, "nothing has run meanwhile"
    fleet.open("end")
    assert await handle.result(timeout=60) == heir.pid
    names = Counter(name for name, _ in fleet.effects(handle.id))
    assert all(names[one] == 1 for one in names if one != "here"), names

    heir.terminate()
    assert await heir.ended() == 0
    assert await (await lapsing.invoke(client, "sleep")).result(timeout=60) == frozen.pid, "it still works"


async def until_journaled(client: PolosClient, execution_id: str, step_key: bytes) -> None:
    store = await client.store()

    async def there() -> bool:
        return step_key in await journal_of(store, execution_id)

    await until(there, f"{step_key!r} to be journaled")
