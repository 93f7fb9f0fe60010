"""A full disk, and a copy that rots: clear errors, nothing lost, the process serves on."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from logstore.base.errors import StorageFullError
from logstore.engine.rocks import RocksEngine
from logstore.engine.rocks.layout import data_key
from logstore.engine.rocks.store import DATA
from logstore.proto.channel import open_channel
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2, node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.support.nodes import append, batch_of, nodes
from tests.unit.node.test_append_read import read_all
from tests.unit.node.test_move_by_intents import SHARD, TARGET, learn

OTHER = f"{SHARD.split('/')[0]}/1"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB (a tmpfs; mounting needs root, as CI has)."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


async def test_full_disk_is_said_and_survived(small_disk: Path) -> None:
    async with nodes(small_disk, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        stub = n.log_stub("i1")
        acked: list[int] = []
        error = None
        for i in range(1, 3_000):
            batch = batch_of(SHARD, [os.urandom(1000) for _ in range(20)], i, 7, i)
            (result,) = await append(stub, [batch])
            if result.HasField("error"):
                error = result.error
                break
            acked.append(result.base_offset)
        assert error is not None
        assert error.code == "storage_full", error
        assert "space" in error.message
        rows = await read_all(stub, log_pb2.ReadRequest(shard=SHARD))  # it serves on
        assert [o for o, _ in rows] == list(range(20 * len(acked)))
        more = ["mount", "-o", "remount,size=1g", str(small_disk)]
        await asyncio.to_thread(subprocess.run, more, check=True)
        async with asyncio.timeout(
            30
        ):  # RocksDB looks every five seconds, and wants its buffers' room
            while True:
                (result,) = await append(stub, [batch_of(SHARD, [b"after"], len(acked) + 1, 7)])
                if not result.HasField("error"):
                    break
                assert result.error.code == "storage_full"
                await asyncio.sleep(0.2)
        assert result.base_offset == 20 * len(acked)


def alter_one_batch(engine: object) -> None:
    """Flip a byte of one stored batch of the target's copy, as a rotten disk would."""
    assert isinstance(engine, RocksEngine)
    (batch_there,) = engine.read(TARGET, 1700, 1701, 1)
    key = data_key(TARGET, batch_there.base_offset)
    value = bytearray(engine._store.get(DATA, key) or b"")
    value[-1] ^= 1
    batch = engine._store.batch()
    batch.put(DATA, key, bytes(value))
    engine._store.write(batch)


async def test_snapshot_altered_after_its_checksums_passed_is_refused(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        await append(
            n.log_stub("i1"), [batch_of(SHARD, [b"k%d" % i] * 100, 0, 0, i) for i in range(1, 40)]
        )
        await learn(n)
        alter_one_batch(n.servers["i2"]._engine)
        async with open_channel(n.servers["i2"].address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await NodeAdminStub(channel).VerifyChain(
                    node_pb2.VerifyChainRequest(
                        shard=SHARD, replica_id=TARGET, stop_offset=3900, recompute=True
                    )
                )
        error = from_rpc(refused.value)
        assert error.code == "corrupt_storage", error
        assert "offset" in error.message


async def test_a_full_disk_holds_back_only_the_copies_that_begin_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance goes on following the metadata, and opens them when there is room."""
    async with nodes(tmp_path, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        instance, full = n.servers["i1"].instance, True
        create = instance.node.engine.create_replica

        def create_replica(*arguments: Any, **named: Any) -> None:
            if full:
                raise StorageFullError("no space left on device")
            create(*arguments, **named)

        monkeypatch.setattr(instance.node.engine, "create_replica", create_replica)
        await n.create(OTHER, "i1")
        await n.change(SHARD, migration="m1")
        async with asyncio.timeout(10):
            while instance.replicas[SHARD].record.migration != "m1":
                await asyncio.sleep(0.005)
        assert OTHER not in instance.replicas
        full = False
        await n.until(OTHER, lambda r: r.epoch == 2)
        (result,) = await append(n.log_stub("i1"), [batch_of(OTHER, [b"a"])])
        assert result.base_offset == 0
