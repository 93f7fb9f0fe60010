"""Files rot while an instance is stopped or killed: what is missing is reported (P6)."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest

from logstore.proto.channel import open_channel
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2, node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.support.engine import flip, wal_of
from tests.support.nodes import Nodes, append, batch_of, nodes, put_back
from tests.unit.node.test_append_read import read_all
from tests.unit.node.test_bit_rot import (
    LIMIT_S,
    OLD,
    PATIENT,
    check_equal,
    engine_of,
    fill,
    largest,
    rebuilt,
    repaired,
    three,
)
from tests.unit.node.test_move_by_intents import SHARD


def rot_table(folder: Path) -> None:
    flip(largest(folder, "*.sst"), 0.4)


def rot_table_foot(folder: Path) -> None:
    flip(largest(folder, "*.sst"), 0.999)


def cut_blob(folder: Path) -> None:
    os.truncate(largest(folder, "*.blob"), 0)


def lose_blob(folder: Path) -> None:
    largest(folder, "*.blob").unlink()


ROT: list[tuple[str, Callable[[Path], None]]] = [
    ("table", rot_table),
    ("table", rot_table_foot),
    ("blob", cut_blob),
    ("blob", lose_blob),
]


async def code_and_message(n: Nodes, request: log_pb2.ReadRequest) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read_all(n.log_stub("i1"), request)
    error = from_rpc(refused.value)
    return error.code, error.message


async def serves(n: Nodes) -> None:
    instance = n.servers["i1"].instance
    async with asyncio.timeout(LIMIT_S):
        while SHARD not in instance.replicas or not instance.replicas[SHARD].serving():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("what", "rot"), ROT)
async def test_an_only_copy_tells_what_its_disk_lost(
    tmp_path: Path, what: str, rot: Callable[[Path], None]
) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        keys = await fill(n, what)
        await n.stop("i1")
        rot(tmp_path / "i1")
        await n.start("i1")
        await serves(n)
        code, message = await code_and_message(n, log_pb2.ReadRequest(shard=SHARD))
        assert code == "corrupt_storage"
        record = await n.until(SHARD, lambda r: bool(r.possible_loss), LIMIT_S)
        (loss,) = record.possible_loss
        first = loss.offset
        assert re.search(rf"'{SHARD}' .*offsets? {first}\b", message)
        assert str(len(keys)) in loss.cause
        assert n.servers["i1"].instance.replicas[SHARD].copy.damage
        if first:
            whole = await read_all(n.log_stub("i1"), log_pb2.ReadRequest(shard=SHARD, limit=first))
            assert [k for _, k in whole] == keys[:first]
        query = log_pb2.ReadRequest(shard=SHARD, start_offset=first, key=keys[first])
        assert (await code_and_message(n, query))[0] == "corrupt_storage"
        (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"k"])])
        assert result.error.code == "corrupt_storage"
        await verify_is_refused(n, len(keys))
        for _ in range(2):  # rebuilt if it was not yet, and then again as it is
            await n.stop("i1")
            await n.start("i1")
            await serves(n)
            code, message = await code_and_message(n, log_pb2.ReadRequest(shard=SHARD))
            assert code == "corrupt_storage"
            assert f"offsets {first}.." in message
            assert (await n.record(SHARD)).possible_loss == record.possible_loss
            assert [p.name for p in (tmp_path / "i1").glob("damaged-*")] == ["damaged-1"]


async def verify_is_refused(n: Nodes, end: int) -> None:
    async with open_channel(n.servers["i1"].address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await NodeAdminStub(channel).VerifyChain(
                node_pb2.VerifyChainRequest(
                    shard=SHARD, replica_id=100, stop_offset=end, recompute=True
                )
            )
    assert from_rpc(refused.value).code == "corrupt_storage"


def damage_last(wal: Path, key: bytes, how: str) -> None:
    """Damage the record of the last append: flipped, or as if it had been torn."""
    data = bytearray(wal.read_bytes())
    at = data.rindex(key)
    if how == "torn":
        wal.write_bytes(data[:at])
    else:
        data[at] ^= 0x10
        wal.write_bytes(data)


async def restart_killed(n: Nodes, instance: str, key: bytes, how: str) -> None:
    """As after a kill -9 and a damaged last record of the WAL."""
    folder, crashed = n.folder / instance, n.folder / "crashed"
    shutil.copytree(folder, crashed)  # a close flushes the WAL
    await n.stop(instance)
    put_back(crashed, folder)
    damage_last(wal_of(folder), key, how)
    await n.start(instance)


@pytest.mark.parametrize("how", ["flipped", "torn"])
async def test_an_only_copy_whose_last_acked_records_are_gone_tells(
    tmp_path: Path, how: str
) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        keys = await fill(n, "table")
        await restart_killed(n, "i1", keys[-1], how)
        record = await n.until(SHARD, lambda r: bool(r.possible_loss), LIMIT_S)
        (loss,) = record.possible_loss
        assert loss.offset == len(keys) - 10
        assert f"known to reach {len(keys)}" in loss.cause
        await serves(n)
        rows = await read_all(n.log_stub("i1"), log_pb2.ReadRequest(shard=SHARD))
        assert [k for _, k in rows] == keys[:-10]
        (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"on"])])
        assert result.base_offset == len(keys) - 10
        await n.stop("i1")
        await n.start("i1")
        await serves(n)
        assert (await n.record(SHARD)).possible_loss == (loss,)  # reported once


async def test_an_only_copy_that_was_killed_whole_tells_nothing(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        keys = await fill(n, "table")
        folder, crashed = tmp_path / "i1", tmp_path / "crashed"
        shutil.copytree(folder, crashed)
        await n.stop("i1")
        put_back(crashed, folder)
        await n.start("i1")
        await serves(n)
        record = await n.until(SHARD, lambda r: r.epoch >= 3, LIMIT_S)
        assert record.possible_loss == ()
        rows = await read_all(n.log_stub("i1"), log_pb2.ReadRequest(shard=SHARD))
        assert [k for _, k in rows] == keys
        assert not list(folder.glob("damaged-*"))


@pytest.mark.parametrize("how", ["torn", "table", "blob"])
async def test_one_of_three_leaves_and_is_built_anew(tmp_path: Path, how: str) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        keys = await fill(n, "blob" if how == "blob" else "table")
        if how == "torn":
            await restart_killed(n, "i3", keys[-1], how)
        else:
            await n.stop("i3")
            (cut_blob if how == "blob" else rot_table_foot)(tmp_path / "i3")
            await n.start("i3")
        meta = {m.replica_id: m for m in engine_of(n, "i3").replicas()}.get(OLD["i3"])
        assert meta is None or (meta.damage or meta.tail_lost)
        async with repaired(n):
            record = await rebuilt(n, "i3")
            assert record.possible_loss == ()
            await check_equal(n, record, keys)
