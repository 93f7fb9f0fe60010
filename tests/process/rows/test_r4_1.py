"""R4.1: a key of a balanced log has its place before its first write, and keeps it."""

import asyncio
from pathlib import Path

import pytest

import logstore
from coordinator.local.cluster import local_cluster
from logstore.errors import InvalidArgumentError, UnknownInstanceError
from tests.process.rows.cluster_command import told, told_json
from tests.support.rows import record

KEYS = [b"user-%d" % n for n in range(300)]


def synchronous(address: str, key: bytes) -> logstore.Placed:
    with logstore.connect_sync(address) as db:
        return db.log("carts").place(key)


async def test_r4_1_a_key_is_placed_before_its_first_write_and_stays(tmp_path: Path) -> None:
    async with (
        local_cluster(2, data=tmp_path, autopilot="off") as cluster,
        logstore.connect(cluster.address) as db,
    ):
        log = await db.create_log(
            "carts", partitioner="balanced", shards=4, placement_weights={"instance-2": 0.25}
        )
        first = await told_json(cluster.address, "place", "carts", "user-0", "--size", "1000")
        ack = await log.append(KEYS[0], b"12 apples")
        assert ack.shard == first["shard"]
        placed = await log.place(KEYS[0], weights={first["instance"]: 0.0})  # it has its place
        assert (placed.shard, placed.instance) == (first["shard"], first["instance"])
        found = await asyncio.gather(*(log.place(key, randomness=1.0) for key in KEYS))
        share = sum(p.instance == "instance-2" for p in found) / len(KEYS)
        assert 0.1 < share < 0.3  # 0.25 of 1.25
        away = [b"away-%d" % n for n in range(20)]
        moved = [await log.place(key, weights={"instance-1": 0}) for key in away]
        assert {p.instance for p in moved} == {"instance-2"}
        cluster.kill("coordinator")
        await cluster.wait_ready()
        assert [await log.place(key) for key in KEYS[:5]] == list(found[:5])
        assert await asyncio.to_thread(synchronous, cluster.address, KEYS[9]) == found[9]
        for arguments, said in (
            (["k", "--weights", "instance-7=1"], "weights names instance 'instance-7'"),
            (["k", "--weights", "instance-1"], "--weights is 'instance-1', expected INSTANCE=FACT"),
            (["k", "--weights", "instance-1=0", "--weights", "instance-2=0"], "leave at least 1"),
        ):
            assert said in await told(cluster.address, "place", "carts", *arguments, status=2)
        with pytest.raises(InvalidArgumentError, match="randomness is 2, expected 0 to 1"):
            await log.place(b"k", randomness=2)
        with pytest.raises(InvalidArgumentError, match=r"weights\.a is -1, expected 0 to 1e\+06"):
            await log.place(b"k", weights={"a": -1})
        with pytest.raises(UnknownInstanceError, match="placement_weights names instance 'a'"):
            await db.create_log("b", partitioner="balanced", placement_weights={"a": 1.0})
        with pytest.raises(InvalidArgumentError, match="only a balanced log places keys"):
            await db.create_log("b", placement_weights={"instance-1": 1.0})
        plain = await db.create_log("plain")
        with pytest.raises(InvalidArgumentError, match="placement is for balanced logs"):
            await plain.place(b"k")
    figure = f"{len(KEYS)} keys: {share:.0%} on the instance of weight 0.25; kept over kill -9"
    record("R4.1", command="logstore place carts user-0 --size 1000", figure=figure)
