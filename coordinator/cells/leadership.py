"""The cells that this coordinator leads: it registers, watches the others, and campaigns.

Each cell has an election of its own; its leader writes through a `FencedStore` (I9), so one that
was replaced without knowing it can change nothing. Registrations under leases show which
coordinators live: when one ends, the others take its cells; when one joins, each gives back the new
one's share. The views of two coordinators may differ for a moment: a cell then has one leader or
none, not two.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from coordinator.cells.assignment import cell_names, duty
from coordinator.cells.cell import Cell
from logstore.base.background import Background, end
from logstore.base.env import Env
from logstore.base.errors import ConfigError, LogstoreError
from logstore.meta.election import TTL_S, Election, FencedStore
from logstore.meta.port import MetadataStore
from logstore.meta.records import (
    CELL_COUNT,
    LeaderRecord,
    cell_leader_key,
    coordinator_key,
)
from logstore.meta.table import Followed
from logstore.meta.tables import coordinator_table, number_table

RETRY_S = 0.2

_log = structlog.get_logger(__name__)


async def agree_on_cells(store: MetadataStore, count: int) -> None:
    """Write the count of cells, or `ConfigError` when the cluster was made with another one."""
    made = await number_table(store).get_or_create(CELL_COUNT, lambda: count)
    if made != count:
        raise ConfigError(f"cells is {count}, this cluster was made with {made}")


class CellLeadership:
    """The cells of one coordinator."""

    def __init__(
        self,
        store: MetadataStore,
        env: Env,
        address: str,
        count: int,
        make: Callable[[str, MetadataStore], Cell],
        led: dict[str, Cell],
        *,
        ttl_s: float = TTL_S,
    ) -> None:
        """`address`: where other coordinators reach us. `make(cell, store)`: its work, which is in
        `led` while we lead it. `ttl_s`: how long a dead leader is waited for."""
        self.led, self._ttl_s = led, ttl_s
        self._store, self._env, self._address = store, env, address
        self._cells, self._make = cell_names(count), make
        self._name = f"{address}/{env.new_id():x}"
        self._standing: dict[str, asyncio.Task[None]] = {}
        self._tasks, self._campaigns = Background("cells"), Background("leadership of cells")

    def start(self) -> None:
        """Stand for our share from now on."""
        self._tasks.start(self._register())
        self._tasks.start(self._follow())

    async def close(self) -> None:
        """Give every cell back: the others lead at once."""
        await self._tasks.stop()
        await self._give_back(list(self._standing))

    async def _register(self) -> None:
        """Be among the live ones as long as the process is."""
        await self._hold(coordinator_key(self._address), _nothing)

    async def _follow(self) -> None:
        """See who lives; stand for what is ours then, give back what is not."""
        live: set[str] = set()

        async def take(step: Followed[LeaderRecord]) -> None:
            if step.whole:
                live.clear()
            live.difference_update(step.gone)
            live.update(entry.name for entry in step.entries)
            await self._settle(live)

        await coordinator_table(self._store).follow(take, "the coordinators are not watched")

    async def _settle(self, live: set[str]) -> None:
        change = duty(self._address, self._cells, live, self._standing.keys())
        if change.give_back:
            _log.info("gives back", cells=sorted(change.give_back), live=sorted(live))
        await self._give_back(list(change.give_back))
        for cell in sorted(change.campaign):
            work = self._hold(cell_leader_key(cell), self._leader_of(cell))
            self._standing[cell] = self._campaigns.start(work, f"cell {cell}")

    async def _give_back(self, cells: list[str]) -> None:
        await end(*[self._standing.pop(cell) for cell in cells])

    def _leader_of(
        self, cell: str
    ) -> "Callable[[FencedStore, asyncio.Event], Coroutine[Any, Any, None]]":
        async def lead(store: FencedStore, lost: asyncio.Event) -> None:
            work = self._make(cell, store)
            try:
                await work.start()
                self.led[cell] = work
                await lost.wait()
            finally:
                self.led.pop(cell, None)
                await work.close()

        return lead

    async def _hold(
        self,
        key: str,
        lead: "Callable[[FencedStore, asyncio.Event], Coroutine[Any, Any, None]]",
    ) -> None:
        """Campaign, lead until the leadership is lost, and again, until cancelled."""
        election = Election(
            self._store, key, self._name, self._env, address=self._address, ttl_s=self._ttl_s
        )
        try:
            while True:
                leadership = await election.campaign()
                try:
                    await lead(FencedStore(self._store, leadership.fence), leadership.lost)
                except LogstoreError as e:
                    _log.warning("does not lead after all", key=key, why=e.message)
                    await asyncio.sleep(RETRY_S)
        finally:
            await election.resign()


async def _nothing(store: FencedStore, lost: asyncio.Event) -> None:
    await lost.wait()
