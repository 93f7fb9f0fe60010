"""Logs: created whole or not at all, placed by the ring, refused with the reason."""

from collections import Counter

import pytest

from coordinator.catalog.catalog import Catalog, parse_log_options
from logstore.base.env import Env, ManualClock
from logstore.base.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    UnavailableError,
    UnknownInstanceError,
    UnknownLogError,
)
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Delete, Put
from logstore.meta.records import (
    InstanceRecord,
    LogOptions,
    encode,
    instance_key,
    log_key,
    shard_key,
    shard_prefix,
)
from logstore.meta.routes import read_routes
from logstore.meta.tombstones import is_deletion
from sharder.keys import Partitioner
from tests.unit.coordinator.tombstones import WatchedStore


@pytest.fixture
async def store() -> WatchedStore:
    store = WatchedStore()
    for i, name in enumerate("abc"):
        record = InstanceRecord(name, f"127.0.0.1:{9000 + i}", 10 + i)
        await store.txn([], [Put(instance_key(name), encode(record))])
    return store


@pytest.fixture
def catalog(store: MemoryMetadataStore) -> Catalog:
    return Catalog(store, Env(clock=ManualClock()), "c")


async def test_a_new_log_covers_its_keys_once_and_is_spread(catalog: Catalog) -> None:
    made = await catalog.create("orders", LogOptions(), 6)
    starts = [s.range.start for s in made.shards]
    assert starts[0] == b""
    assert [s.range.end for s in made.shards] == [*starts[1:], None]
    assert Counter(s.primary.instance for s in made.shards) == {"a": 2, "b": 2, "c": 2}
    assert [s.shard for s in made.shards] == [f"orders/{i}" for i in range(6)]
    ids = [s.primary.replica_id for s in made.shards]
    other = await catalog.create("other", LogOptions(), 3)
    assert len({*ids, *(s.primary.replica_id for s in other.shards)}) == 9


async def test_split_keys_and_explicit_instances(catalog: Catalog) -> None:
    made = await catalog.create("x", LogOptions(), 0, [b"g", b"p"], ["a", "a", "c"])
    assert [(s.range.start, s.primary.instance) for s in made.shards] == [
        (b"", "a"),
        (b"g", "a"),
        (b"p", "c"),
    ]


async def test_a_dead_instance_gets_no_new_shard(catalog: Catalog) -> None:
    made = await catalog.create("x", LogOptions(), 8, alive={"a": False})
    assert "a" not in {s.primary.instance for s in made.shards}
    with pytest.raises(UnavailableError, match="no instance is alive"):
        await catalog.create("y", LogOptions(), alive=dict.fromkeys("abc", False))


async def test_a_log_of_more_shards_than_a_transaction_holds(
    catalog: Catalog, store: MemoryMetadataStore
) -> None:
    made = await catalog.create("big", LogOptions(partitioner=Partitioner.HASH), 300)
    assert len(made.shards) == 300
    await catalog.delete("big")
    assert (await store.range(shard_prefix("big"))).items == ()


async def test_each_copy_of_a_deleted_log_is_ordered_away_and_kept_a_day(
    catalog: Catalog, store: WatchedStore
) -> None:
    made = await catalog.create("big", LogOptions(Partitioner.HASH, replicas=3), 1_000)
    assert await store.tombstones() == []
    answer = await catalog.delete("big", dry_run=True)
    assert (answer.shards, answer.copies, answer.keep_s) == (1_000, 3_000, 86_400.0)
    assert len((await catalog.describe("big")).shards) == 1_000
    assert await catalog.delete("big") == answer
    graves = await store.tombstones()
    wanted = {(m.instance, m.replica_id, s.shard) for s in made.shards for m in s.members()}
    assert {(t.instance, t.replica_id, t.shard) for t in graves} == wanted
    assert {(t.cluster, t.cause, t.keep_s) for t in graves} == {
        ("c", "log big was deleted", 86_400.0)
    }
    assert all(is_deletion(t.cause, "big") and not is_deletion(t.cause, "bi") for t in graves)
    await catalog.create("now", LogOptions())
    await catalog.delete("now", 0.0)
    assert [t.keep_s for t in await store.tombstones() if t.shard == "now/0"] == [0.0]


async def test_what_died_half_way_is_ordered_away_and_kept_a_day(
    catalog: Catalog, store: WatchedStore
) -> None:
    made = await catalog.create("x", LogOptions(replicas=2), 2)
    await store.txn([], [Delete(log_key("x"))])
    await catalog.tidy()
    graves = await store.tombstones()
    assert {(t.instance, t.replica_id) for t in graves} == {
        (m.instance, m.replica_id) for s in made.shards for m in s.members()
    }
    assert {t.keep_s for t in graves} == {86_400.0}
    assert all(is_deletion(t.cause, "x") for t in graves)


async def test_a_half_made_log_never_shows_and_is_cleared(
    catalog: Catalog, store: MemoryMetadataStore
) -> None:
    made = await catalog.create("x", LogOptions(), 2)
    await catalog.delete("x")
    await store.txn([], [Put(shard_key("x/0"), encode(made.shards[0]))])
    with pytest.raises(UnknownLogError):
        await catalog.describe("x")
    await catalog.tidy()
    assert (await store.range(shard_prefix("x"))).items == ()
    assert len((await catalog.create("x", LogOptions(), 3)).shards) == 3


@pytest.mark.parametrize(
    ("name", "shards", "split_keys", "instances", "text"),
    [
        ("a/b", 1, [], [], "log name is 'a/b'"),
        ("", 1, [], [], "log name is ''"),
        ("n" * 129, 1, [], [], "must match"),
        ("x", 65_537, [], [], "shards is 65537"),
        ("x", 0, [b"b", b"a"], [], r"split_keys\[1\] is not above"),
        ("x", 0, [b""], [], r"split_keys\[0\] has 0 bytes"),
        ("x", 5, [b"a"], [], "1 split keys make 2"),
        ("x", 2, [], ["a"], "1 entries for 2 shards"),
    ],
)
async def test_bad_input_names_field_value_and_limit(
    catalog: Catalog,
    name: str,
    shards: int,
    split_keys: list[bytes],
    instances: list[str],
    text: str,
) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        await catalog.create(name, LogOptions(), shards, split_keys, instances)


async def test_refusals(catalog: Catalog) -> None:
    with pytest.raises(UnknownInstanceError, match="'z'"):
        await catalog.create("x", LogOptions(), 1, (), ["z"])
    await catalog.create("x", LogOptions())
    with pytest.raises(AlreadyExistsError, match="log x exists already"):
        await catalog.create("x", LogOptions())
    with pytest.raises(UnknownLogError, match="'nope'"):
        await catalog.delete("nope")


def test_options_this_version_does_not_keep_are_refused() -> None:
    text = "replicas is 9, it must be within 1..7"
    with pytest.raises(InvalidArgumentError, match=text):
        parse_log_options(b'{"replicas": 9}')
    with pytest.raises(InvalidArgumentError, match=r"options\.colour"):
        parse_log_options(b'{"colour": "red"}')
    with pytest.raises(InvalidArgumentError, match="options"):
        parse_log_options(b'{"durability": "maybe"}')
    with pytest.raises(InvalidArgumentError, match="retention_s is 0"):
        parse_log_options(b'{"retention_s": 0}')
    assert parse_log_options(b'{"event_time": true}').event_time


async def test_a_migrating_shard_bars_the_deletion(
    catalog: Catalog, store: MemoryMetadataStore
) -> None:
    made = await catalog.create("x", LogOptions())
    import dataclasses

    busy = dataclasses.replace(made.shards[0], migration="m7")
    await store.txn([], [Put(shard_key("x/0"), encode(busy))])
    with pytest.raises(ConflictError, match="x/0 is in m7"):
        await catalog.delete("x")


async def test_routes_tell_addresses_and_a_version_that_rises(
    catalog: Catalog, store: MemoryMetadataStore
) -> None:
    await catalog.create("x", LogOptions(), 2, (), ["a", "b"])
    routes = await read_routes(store, "x")
    assert [s.addresses[s.primary] for s in routes.shards] == ["127.0.0.1:9000", "127.0.0.1:9001"]
    assert routes.shards[0].range.end == routes.shards[1].range.start
    assert not routes.shards[1].range.HasField("end")
    await store.txn([], [Put("/unrelated", b"")])
    assert (await read_routes(store, "x")).map_version == routes.map_version
    moved = InstanceRecord("a", "127.0.0.1:9999", 10)
    await store.txn([], [Put(instance_key("a"), encode(moved))])
    again = await read_routes(store, "x")
    assert again.map_version > routes.map_version
    assert again.shards[0].addresses["a"] == "127.0.0.1:9999"
    with pytest.raises(UnknownLogError):
        await read_routes(store, "y")


def test_a_log_that_does_not_say_gets_the_clusters_number_of_copies() -> None:
    options = parse_log_options(b"{}", 3)
    assert (options.replicas, options.min_in_sync) == (3, 2)
    options = parse_log_options(b'{"replicas": 2}', 3)
    assert (options.replicas, options.min_in_sync) == (2, 1)
    assert parse_log_options(b"").replicas == 1
