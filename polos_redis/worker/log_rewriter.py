"""The rewrite of Redis' log after a restart.

Redis (not Valkey 9.1) loads a log that was cut within a script's transaction with that transaction left open.
What is logged from then on continues the open transaction: the next restart applies the first half of the
script, or drops all that follows. A rewrite of the log ends this. A worker requests one from a server that
has made none since its start; of all workers, the timer leader of the server's first partition does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary

from polos_redis.errors import ConnectionLostError, RedisRefusedError, RedisUnavailableError
from polos_redis.state.store import Store
from polos_redis.values.text import text
from polos_redis.wire.wire import Wire

logger = logging.getLogger("polos.worker")

LOOK_SECONDS = 1.0
CLOSES_TRANSACTIONS = (9, 1)  # since this Valkey the server drops an open transaction itself


class LogRewriter:
    """Requests the rewrites. `in_charge` says whether this worker is the one to act for a partition.

    It asks a server once for each connection to it, so that a server that does not restart costs nothing.
    """

    def __init__(self, store: Store, in_charge: Callable[[bytes], bool]) -> None:
        self._store = store
        self._in_charge = in_charge
        self._checked: WeakKeyDictionary[Wire, int] = WeakKeyDictionary()  # the connection's number
        self._warned: set[str] = set()  # runs of servers

    async def run(self) -> None:
        """Look for new connections until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Check the servers to which there is a new connection."""
        seen: set[Wire] = set()
        for prefix in self._store.prefixes:
            node = self._store.wire.node(prefix)
            if node is None or node in seen:
                continue
            seen.add(node)
            epoch = node.epoch
            if node.connected and self._checked.get(node) != epoch and self._in_charge(prefix):
                try:
                    done = await self._check(node)
                except (ConnectionLostError, RedisUnavailableError):
                    continue  # at the next look
                if done:
                    self._checked[node] = epoch

    async def _check(self, node: Wire) -> bool:
        """Request a rewrite if the server has made none since its start; whether that is all to be done."""
        try:
            info = text(await node.send("INFO", "server", "persistence"))
        except RedisRefusedError:
            self._warn("", "whether Redis must rewrite its log can't be checked: the user may not call INFO")
            return True
        facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        if facts.get("aof_enabled") != "1" or closes_transactions(facts.get("valkey_version", "")):
            return True
        if "1" in (facts.get("aof_rewrite_in_progress"), facts.get("aof_rewrite_scheduled")):
            return False
        if facts.get("aof_last_rewrite_time_sec") != "-1":
            if facts.get("aof_last_bgrewrite_status") == "err":
                logger.error(
                    "Redis could not rewrite its log: see its own log", extra={"redis": node.address}
                )
            return True
        try:
            await node.send("BGREWRITEAOF")
        except RedisRefusedError as error:
            if "in progress" in str(error):  # since a moment ago
                return False
            self._warn(
                facts["run_id"],
                "Redis has not rewritten its log since its start and refused to; "
                f"if it had crashed, run BGREWRITEAOF there: {error}",
            )
            return True
        logger.info("requested a rewrite of Redis' log", extra={"redis": node.address})
        return False

    def _warn(self, run: str, warning: str) -> None:
        """Warn once for each run of a server."""
        if run not in self._warned:
            self._warned.add(run)
            logger.warning(warning)


def closes_transactions(valkey: str) -> bool:
    numbers = [int(part) for part in valkey.split(".")[:2] if part.isdigit()]
    return len(numbers) == 2 and tuple(numbers) >= CLOSES_TRANSACTIONS
