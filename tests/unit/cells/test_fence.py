"""A leader that was followed: whatever its parts write, nothing comes of it (I9)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from coordinator.catalog.catalog import Catalog
from coordinator.cells.cell import ReadOnlyStore
from coordinator.migration.difference import RangeDigest
from coordinator.migration.driver import MigrationDriver, MoveMemory
from coordinator.migration.facts import CopyReport
from coordinator.migration.ledger import Ledger, Proposal
from coordinator.replicas.drain import Drains
from coordinator.replicas.repair import RepairLoop
from logstore.base.env import Env
from logstore.base.errors import FencedError
from logstore.meta.election import Election, FencedStore
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import MetadataStore, Put
from logstore.meta.records import (
    InstanceRecord,
    LogOptions,
    Member,
    cell_leader_key,
    encode,
    instance_key,
    shard_key,
)


class Silent:
    """Instances that hold nothing yet."""

    async def copies(self, instance: str, shard: str, recent_s: float = 0.0) -> list[CopyReport]:
        return []

    async def chain(
        self, member: Member, shard: str, stop: int, *, recompute: bool, timeout_s: float
    ) -> bytes:
        raise AssertionError("nothing is there to be verified")

    async def digests(
        self, member: Member, shard: str, start: int, stop: int, ranges: int
    ) -> list[RangeDigest]:
        raise AssertionError("nothing is there to be compared")

    async def base(self, member: Member, shard: str) -> int:
        raise AssertionError("nothing is there to be begun from")


@dataclass
class Parts:
    """A leader's parts over one store."""

    store: MetadataStore
    move: str

    def __post_init__(self) -> None:
        env = Env()
        self.catalog, self.drains = Catalog(self.store, env, "c"), Drains(self.store, env)
        self.driver = MigrationDriver(self.store, Silent(), env, cluster="c")
        self.repair = RepairLoop(
            self.store, self.catalog, lambda names: dict.fromkeys(names, 0.0), 1.0
        )


WRITES: dict[str, Callable[[Parts], Awaitable[object]]] = {
    "create": lambda p: p.catalog.create("y", LogOptions(), 1, instances=["a"]),
    "delete": lambda p: p.catalog.delete("x"),
    "propose": lambda p: p.driver.propose(Proposal("x/1", "c")),
    "order": lambda p: p.driver.order(p.move, "abort"),
    "step": lambda p: p.driver.step(p.move, MoveMemory()),
    "repair": lambda p: p.repair.round(),
    "drain": lambda p: p.drains.begin("c", {}, {}, {}),
}


@pytest.fixture
async def twin() -> MemoryMetadataStore:
    """Three instances, a log whose second shard lacks a copy, and a planned move of the first."""
    store, env = MemoryMetadataStore(), Env()
    for name in "abc":
        record = InstanceRecord(name, "h:1", 1)
        await store.txn([], [Put(instance_key(name), encode(record))])
    made = await Catalog(store, env, "c").create(
        "x", LogOptions(replicas=2), 2, instances=["a", "a"]
    )
    lacking = replace(made.shards[1], in_sync=(made.shards[1].primary,), learners=())
    await store.txn([], [Put(shard_key("x/1"), encode(lacking))])
    target = next(n for n in "bc" if made.shards[0].member_on(n) is None)
    await Ledger(store, env).propose(Proposal("x/0", target))
    return store


@pytest.mark.parametrize("name", WRITES)
async def test_nothing_is_written_by_a_leader_that_was_followed(
    twin: MemoryMetadataStore, name: str
) -> None:
    first, second = (Election(twin, cell_leader_key("0"), n, Env()) for n in ("one", "two"))
    stale = FencedStore(twin, (await first.campaign()).fence)
    await first.resign()
    live = FencedStore(twin, (await second.campaign()).fence)
    before = (await twin.range("/")).items
    with pytest.raises(FencedError, match="nothing was written"):
        await WRITES[name](Parts(stale, "m1"))
    with pytest.raises(FencedError, match="nothing was written"):
        await WRITES[name](Parts(ReadOnlyStore(twin), "m1"))
    assert (await twin.range("/")).items == before
    parts = Parts(live, "m1")
    await WRITES[name](parts)  # its follower does write that
    assert (await twin.range("/")).items != before
    await parts.driver.close()
    await second.resign()
