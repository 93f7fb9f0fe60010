"""Copies on disks against the map; deleted logs come back; the rest goes by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from coordinator.catalog.catalog import Catalog
from coordinator.catalog.copies import CopiesAdmin
from coordinator.catalog.retiring import Retiring
from logstore.base.env import Env, ManualClock
from logstore.base.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    LogstoreError,
    RefusedError,
    UnavailableError,
    UnknownInstanceError,
    UnknownLogError,
)
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Delete, Put
from logstore.meta.records import (
    InstanceRecord,
    LogOptions,
    Member,
    ProcessRecord,
    ShardRecord,
    drain_key,
    encode,
    instance_key,
    log_key,
    process_key,
)
from logstore.meta.shard_writes import change_shard
from logstore.meta.tombstones import Order, bury, deletion_of
from logstore.proto.v1 import node_pb2
from sharder.keys import Partitioner
from tests.support.checkers.i1_cover import check_ranges
from tests.unit.coordinator.tombstones import WatchedStore

ENDS = 100


class World:
    """Instances whose copies are as the map had them, until the test changes that."""

    def __init__(self) -> None:
        self.store = WatchedStore()
        self.catalog = Catalog(self.store, Env(clock=ManualClock()), "c")
        self.copies = CopiesAdmin(self.store, self.catalog, self)
        self.retiring = Retiring(self.store, self.catalog)
        self.disks: dict[str, dict[int, node_pb2.CopyInfo]] = {}
        self.silent: set[str] = set()

    async def begin(self, names: str = "abc") -> None:
        for i, name in enumerate(names):
            record = InstanceRecord(name, f"127.0.0.1:{9000 + i}", 10 + i)
            await self.store.txn([], [Put(instance_key(name), encode(record))])
            self.disks[name] = {}

    async def held(self, instance: str, log: str) -> node_pb2.CopiesResponse:
        if instance in self.silent:
            raise UnavailableError(f"{instance} is down")
        copies = [c for c in self.disks[instance].values() if not log or _log(c.shard) == log]
        return node_pb2.CopiesResponse(instance=instance, cluster="c", copies=copies)

    async def create(self, name: str, shards: int = 2, replicas: int = 2) -> list[ShardRecord]:
        made = await self.catalog.create(name, LogOptions(replicas=replicas), shards)
        whole = [replace(s, in_sync=s.members(), learners=(), admit=()) for s in made.shards]
        for shard in whole:
            for member in shard.members():
                self.disks[member.instance][member.replica_id] = node_pb2.CopyInfo(
                    replica_id=member.replica_id,
                    shard=shard.shard,
                    state="member",
                    end=ENDS,
                    last_epoch=1,
                    bytes=1_000,
                    cluster="c",
                    generation="g",
                    revision=made.map_version,
                    shard_record=encode(shard),
                    log_record=encode(made.log),
                )
        await self.write(whole)
        return whole

    async def write(self, shards: Sequence[ShardRecord]) -> None:
        """As the primaries do."""
        for shard in shards:
            found = next(i for i in (await self.store.range(f"/shards/{shard.shard}")).items)
            before = next(s for s in await self.copies.shards() if s.shard == shard.shard)
            write = change_shard(before, found.revision, shard, Order("c", "test", 0))
            await self.store.txn([write.compare], write.operations)

    async def obey(self) -> None:
        """Instances retire what tombstones name."""
        for grave in await self.store.tombstones():
            info = self.disks[grave.instance].get(grave.replica_id)
            if info is not None and grave.instance not in self.silent:
                info.state, info.cause, info.keep_until_us = "retired", grave.cause, 99

    def orphan(self, instance: str, replica_id: int) -> None:
        self.disks[instance][replica_id].state = "orphan"


def _log(shard: str) -> str:
    return shard.rpartition("/")[0]


@pytest.fixture
async def world() -> World:
    made = World()
    await made.begin()
    return made


async def test_each_state_is_shown(world: World) -> None:
    shards = await world.create("x", 1, 3)
    a, b, c = shards[0].members()
    del world.disks[a.instance][a.replica_id]
    world.silent = {b.instance}
    stray = node_pb2.CopyInfo(replica_id=77, shard="old/0", state="orphan", end=5, bytes=9)
    world.disks[c.instance][77] = stray
    states = {(r.instance, r.replica_id): r.state for r in await world.copies.list()}
    assert states == {
        (a.instance, a.replica_id): "missing",
        (b.instance, b.replica_id): "unknown",
        (c.instance, c.replica_id): "member",
        (c.instance, 77): "orphan",
    }
    mine = await world.copies.list(c.instance)
    assert {r.instance for r in mine} == {c.instance}
    with pytest.raises(UnknownInstanceError):
        await world.copies.list("z")


async def test_records_are_counted_by_the_primaries_and_what_is_unknown_is_named(
    world: World,
) -> None:
    shards = await world.create("x", 3, 2)
    await world.create("y", 1, 1)
    for number, shard in enumerate(shards):
        copy = world.disks[shard.primary.instance][shard.primary.replica_id]
        copy.base, copy.end = 10, 20 + number
    counted = await world.copies.count("x")
    assert [(s.shard, s.records) for s in counted.shards] == [("x/0", 10), ("x/1", 11), ("x/2", 12)]
    assert (counted.log, counted.records, counted.whole) == ("x", 33, True)
    first, second, _ = (s.primary for s in shards)
    world.silent = {first.instance}
    del world.disks[second.instance][second.replica_id]
    partly = await world.copies.count("x")
    assert [(s.records, s.cause) for s in partly.shards] == [
        (None, f"{first.instance} is down"),
        (None, f"{second.instance} has no copy of it yet"),
        (12, ""),
    ]
    assert (partly.records, partly.whole) == (12, False)
    with pytest.raises(UnknownLogError, match="'nope'"):
        await world.copies.count("nope")


async def test_a_deleted_log_comes_back_under_the_same_copies(world: World) -> None:
    shards = await world.create("x", 3, 2)
    other = await world.create("y", 1, 1)
    with pytest.raises(AlreadyExistsError, match="log x exists"):
        await world.copies.restore("x")
    assert await world.copies.sizes("x") == (3 * ENDS, 6_000)
    await world.catalog.delete("x")
    await world.obey()
    answer = await world.copies.restore("x", dry_run=True)
    assert (answer.shards, answer.copies, answer.records) == (3, 6, 3 * ENDS)
    assert [d.log.name for d in await world.catalog.list()] == ["y"]
    await world.copies.restore("x")
    back = await world.catalog.describe("x")
    assert check_ranges("x", back.shards) == []
    assert {s.shard: {m.replica_id for m in s.members()} for s in back.shards} == {
        s.shard: {m.replica_id for m in s.members()} for s in shards
    }
    assert all(s.epoch > 1 and not s.possible_loss for s in back.shards)
    assert (await world.catalog.describe("y")).shards == tuple(other)


async def test_a_balanced_log_comes_back_with_its_mapping(world: World) -> None:
    for name, options in (("x", LogOptions(Partitioner.BALANCED)), ("x.placement", LogOptions())):
        made = await world.catalog.create(name, options, 1)
        member = made.shards[0].primary
        world.disks[member.instance][member.replica_id] = node_pb2.CopyInfo(
            replica_id=member.replica_id, shard=f"{name}/0", state="member", end=1, cluster="c",
            shard_record=encode(made.shards[0]), log_record=encode(made.log),
        )  # fmt: skip
        await world.catalog.delete(name)
    await world.obey()
    await world.copies.restore("x")
    assert {d.log.name for d in await world.catalog.list()} == {"x", "x.placement"}


async def test_a_log_whose_copies_are_gone_does_not_come_back_half(world: World) -> None:
    shards = await world.create("x", 2, 1)
    await world.catalog.delete("x")
    await world.obey()
    first = shards[0].primary
    world.silent = {first.instance}
    held = world.disks[shards[1].primary.instance]
    if shards[1].primary.instance != first.instance:
        with pytest.raises(RefusedError, match="no copy of the keys in"):
            await world.copies.restore("x")
    held.clear()
    world.disks[first.instance].clear()
    with pytest.raises(RefusedError, match=f"not asked.*{first.instance}"):
        await world.copies.restore("x")
    assert await world.catalog.list() == []


async def test_an_orphan_is_discarded_by_a_tombstone_of_its_own(world: World) -> None:
    shards = await world.create("x", 1, 2)
    a, b = shards[0].members()
    with pytest.raises(RefusedError, match="is a member of its shard"):
        await world.copies.discard(a.instance, a.replica_id)
    with pytest.raises(InvalidArgumentError, match="holds no copy 999"):
        await world.copies.discard(a.instance, 999)
    world.disks[b.instance][50] = node_pb2.CopyInfo(replica_id=50, shard="x/0", state="orphan")
    await world.copies.discard(b.instance, 50, dry_run=True)
    assert await world.store.tombstones() == []
    await world.copies.discard(b.instance, 50)
    (grave,) = await world.store.tombstones()
    assert (grave.instance, grave.replica_id, grave.shard) == (b.instance, 50, "x/0")
    assert (grave.cluster, grave.keep_s, grave.cause) == ("c", 0.0, "discarded by hand")
    world.silent = {b.instance}
    with pytest.raises(LogstoreError, match=r"holds no copy 50|does not answer"):
        await world.copies.discard(b.instance, 50)


async def test_a_copy_that_a_record_names_is_not_discarded_though_its_instance_lags(
    world: World,
) -> None:
    member = (await world.create("x", 1, 1))[0].primary
    world.orphan(member.instance, member.replica_id)
    with pytest.raises(RefusedError, match="is a member of its shard"):
        await world.copies.discard(member.instance, member.replica_id)
    assert await world.store.tombstones() == []


async def test_an_orphan_is_adopted_only_when_its_log_is_not_there(world: World) -> None:
    shards = await world.create("x", 2, 1)
    for shard in shards:
        world.orphan(shard.primary.instance, shard.primary.replica_id)
    first = shards[0].primary
    with pytest.raises(RefusedError, match=r"log x is there.*copies discard"):
        await world.copies.adopt(first.instance, first.replica_id)
    await world.store.txn([], [Put(log_key("y"), b"{}")])
    await drop_log(world, "x")
    answer = await world.copies.adopt(first.instance, first.replica_id)
    assert (answer.log, answer.shards, answer.copies) == ("x", 2, 2)
    assert check_ranges("x", (await world.catalog.describe("x")).shards) == []


async def drop_log(world: World, log: str) -> None:
    """As a recovery that left the log out: no record, no tombstone."""
    items = (await world.store.range(f"/shards/{log}/")).items
    gone = [Delete(log_key(log)), *(Delete(item.key) for item in items)]
    await MemoryMetadataStore.txn(world.store, [], gone)


async def alone(world: World) -> str:
    shard = (await world.create("x", 1, 1))[0]
    return shard.primary.instance


async def in_sync(world: World) -> str:
    shard = (await world.create("x", 1, 3))[0]
    return shard.in_sync[-1].instance


async def living(world: World) -> str:
    record = ProcessRecord("a", 1, "127.0.0.1:9", "w")
    await world.store.txn([], [Put(process_key("a"), encode(record))])
    return "a"


async def moving(world: World) -> str:
    shard = (await world.create("x", 1, 2))[0]
    out = shard.in_sync[-1]
    await world.write([replace(shard, in_sync=shard.in_sync[:-1], learners=(out,),
                               migration="m9")])  # fmt: skip
    return out.instance


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (alone, r"the only copy of x/0\. Bring its disk back"),
        (in_sync, "x/0 still count it as in sync"),
        (living, "it lives at 127.0.0.1:9"),
        (moving, "abort m9 first"),
    ],
)
async def test_an_instance_that_is_needed_or_lives_is_not_retired(
    world: World, make: Callable[[World], object], text: str
) -> None:
    name = await make(world)  # type: ignore[misc]
    before = await world.store.range("/")
    with pytest.raises(RefusedError, match=text):
        await world.retiring.retire(name)
    assert (await world.store.range("/")).items == before.items


async def test_a_dead_instance_is_forgotten_with_all_that_names_it(world: World) -> None:
    shard = (await world.create("x", 1, 2))[0]
    out = shard.in_sync[-1]
    await world.write([replace(shard, in_sync=shard.in_sync[:-1], learners=(out,),
                               admit=(out.replica_id,))])  # fmt: skip
    order = Order("c", deletion_of("z"), 0)
    graves = [bury(Member(out.instance, 1, n), "z/0", 1, order) for n in range(1_000, 1_300)]
    for at in range(0, 300, 100):
        await world.store.txn([], graves[at : at + 100])
    await world.store.txn([], [Put(drain_key(out.instance), b"{}")])
    assert (await world.retiring.retire(out.instance, dry_run=True)).tombstones == 300
    answer = await world.retiring.retire(out.instance)
    assert (answer.learners, answer.tombstones) == (1, 300)
    left = await world.store.range("/")
    assert [i.key for i in left.items if out.instance in i.key.split("/")] == []
    after = (await world.catalog.describe("x")).shards[0]
    assert (after.learners, after.admit) == ((), ())
    with pytest.raises(UnknownInstanceError):
        await world.retiring.retire(out.instance)
