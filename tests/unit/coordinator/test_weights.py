"""Migration weights that a person set: bounded, kept, inherited, taken back, gone with the log."""

import random

import pytest

from coordinator.catalog.catalog import Catalog
from coordinator.planning.views import weights_of
from coordinator.planning.weights import MigrationWeights
from logstore.base.env import Env, ManualClock
from logstore.base.errors import InvalidArgumentError, UnknownLogError, UnknownShardError
from logstore.base.types import ShardStatus
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Put
from logstore.meta.records import (
    InstanceRecord,
    LogOptions,
    Member,
    ShardRecord,
    WeightRecord,
    encode,
    instance_key,
)
from sharder.keys import KeyRange


async def made(store: MemoryMetadataStore) -> tuple[Catalog, MigrationWeights]:
    env = Env(ManualClock(), random.Random(1))
    record = InstanceRecord("a", "127.0.0.1:1", 1)
    await store.txn([], [Put(instance_key("a"), encode(record))])
    catalog = Catalog(store, env, "c")
    await catalog.create("x", LogOptions(), 3)
    return catalog, MigrationWeights(store, env)


async def test_a_weight_is_set_shown_and_taken_back() -> None:
    _, weights = await made(MemoryMetadataStore())
    assert [(r.shard, r.weight, r.set_weight) for r in await weights.rows("x")] == [
        ("x/0", 1.0, None), ("x/1", 1.0, None), ("x/2", 1.0, None),
    ]  # fmt: skip
    told = await weights.set("x/1", 0.0, "ann")
    assert (told.weight, told.learned, told.set_weight, told.by) == (0.0, 1.0, 0.0, "ann")
    assert (await weights.acting()) == {"x/0": 1.0, "x/1": 0.0, "x/2": 1.0}
    await weights.set("x/1", None, "bob")
    assert (await weights.acting())["x/1"] == 1.0
    await weights.set("x/1", None, "bob")  # nothing is set: nothing changes


async def test_what_is_wrong_is_named() -> None:
    _, weights = await made(MemoryMetadataStore())
    for wrong in (-1.0, 101.0, float("nan")):
        with pytest.raises(InvalidArgumentError, match=r"weight is .*, it must be within 0\.\.100"):
            await weights.set("x/1", wrong, "ann")
    with pytest.raises(UnknownShardError, match="x/7"):
        await weights.set("x/7", 1.0, "ann")
    with pytest.raises(UnknownLogError, match="y"):
        await weights.rows("y")
    assert await weights.in_force() == {}


async def test_a_log_of_the_same_name_begins_without_weights() -> None:
    catalog, weights = await made(MemoryMetadataStore())
    await weights.set("x/1", 0.0, "ann")
    await catalog.delete("x")
    await catalog.create("x", LogOptions(), 3)
    assert (await weights.acting())["x/1"] == 1.0


def shard_of(number: int, *parents: int) -> ShardRecord:
    member = Member("a", 1, number)
    return ShardRecord(
        f"x/{number}", "x", KeyRange(), ShardStatus.OPEN, 1, 1, member, (member,),
        predecessors=tuple(f"x/{p}" for p in parents),
    )  # fmt: skip


def test_a_split_or_merge_keeps_the_weight_and_the_lowest_counts() -> None:
    shards = [shard_of(11, 3, 4), shard_of(0), shard_of(1), shard_of(3, 0), shard_of(4, 1)]
    given = {"x/0": WeightRecord(0.0, "ann", 1), "x/1": WeightRecord(4.0, "bob", 2)}
    found = {s: (source, r.weight) for s, (source, r) in weights_of(shards, given).items()}
    assert found == {
        "x/0": ("x/0", 0.0), "x/1": ("x/1", 4.0), "x/3": ("x/0", 0.0), "x/4": ("x/1", 4.0),
        "x/11": ("x/0", 0.0),
    }  # fmt: skip
    own = weights_of(shards, given | {"x/11": WeightRecord(1.0, "ann", 3)})
    assert own["x/11"][0] == "x/11"
