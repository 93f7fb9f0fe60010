"""A corrupted chunk and a divergent learner never get as far as the cutover (I8, F4): the move is
rolled back, and its cause names the offsets and bytes."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from coordinator.migration.difference import RangeDigest, first_difference
from coordinator.migration.ledger import Proposal
from coordinator.migration.records import MigrationRecord, State
from logstore.base.types import Durability
from logstore.engine.batch import StoredBatch, build
from logstore.engine.port import ReplicaWrite
from logstore.feed.direct import chunk_crc
from logstore.node.integrity.digests import range_digests
from logstore.node.rpc import peer_service
from logstore.proto.v1 import node_pb2
from tests.support.nodes import payload_of
from tests.support.sealing import LOG, Sealing, sealing
from tests.unit.seals.test_replicas import QUICK

SHARD = f"{LOG}/0"
APPENDS = 40
PER_BATCH = 10


async def filled(bench: Sealing) -> None:
    log = await bench.db.log(LOG)
    for i in range(APPENDS):
        keys = [b"key-%d-%d" % (i, j) for j in range(PER_BATCH)]
        await log.append_many(keys, [b"value"] * PER_BATCH)


async def ended(bench: Sealing, id_: str) -> MigrationRecord:
    async with asyncio.timeout(30):
        return await bench.moves.ended(id_)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


async def test_a_chunk_that_is_corrupted_on_the_way_rolls_the_move_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupting(batches: Sequence[node_pb2.StoredBatchData]) -> int:
        crc = chunk_crc(batches)
        batches[-1].data = flipped(batches[-1].data, len(batches[-1].data) // 2)
        return crc

    async with sealing(tmp_path, 2) as bench:
        await filled(bench)
        monkeypatch.setattr(peer_service, "chunk_crc", corrupting)
        begun = await bench.moves.propose(Proposal(SHARD, "i2", "shadow", QUICK))
        record = await ended(bench, begun.id)
        assert record.state is State.ROLLED_BACK
        assert State.CUTOVER not in {p.state for p in record.phases}
        assert record.cause is not None
        assert re.search(
            r"snapshot chunk with bytes 0\.\.\d+ from offset 0 on: crc32c is", record.cause
        ), record.cause
        stays = await bench.nodes.record(SHARD)
        assert [m.instance for m in stays.members()] == ["i1"]


async def diverge(bench: Sealing, at: int) -> StoredBatch:
    """The learner's disk gets other records in the batch that holds `at`, with a chain that holds
    in itself; returns what was there."""
    replica = bench.nodes.servers["i2"].instance.replica(SHARD)
    engine, me = replica.node.engine, replica.member.replica_id
    stop = engine.end(me).end
    stored = engine.read(me, at, stop, 10**9)
    engine.truncate(me, stored[0].base_offset)
    end = engine.end(me)
    changed: list[StoredBatch] = []
    for batch in stored:
        keys = [b"other-%d" % i for i in range(batch.count)]
        payload = payload_of(keys, [b"else"] * batch.count) if not changed else batch.payload()
        changed.append(
            build(
                base_offset=end.end if not changed else changed[-1].end,
                epoch=batch.epoch,
                chain_before=end.chain if not changed else changed[-1].chain_after,
                count=batch.count,
                append_time_us=batch.append_time_us,
                time_min_us=batch.time_min_us,
                time_max_us=batch.time_max_us,
                flags=batch.flags,
                spans=batch.spans(),
                payload=payload,
            )
        )
    engine.write([ReplicaWrite(me, changed, stop)], Durability.OS)
    return stored[0]


async def test_a_learner_that_diverged_rolls_the_move_back_and_the_batch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sealing(tmp_path, 2) as bench:
        await filled(bench)
        chain = bench.grpc.chain
        found: list[StoredBatch] = []

        async def diverged(*args: object, **options: object) -> bytes:
            if not found:  # caught up, and about to be compared
                found.append(await diverge(bench, 205))
            return await chain(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(bench.grpc, "chain", diverged)
        begun = await bench.moves.propose(Proposal(SHARD, "i2", "shadow", QUICK))
        record = await ended(bench, begun.id)
    other = found[0]
    assert record.state is State.ROLLED_BACK, record.phases
    assert State.SHADOWING not in {p.state for p in record.phases}
    assert record.cause is not None
    assert "hash chains differ at offset" in record.cause
    named = f"offsets {other.base_offset}..{other.end - 1}, bytes "
    assert named in record.cause, record.cause
    assert record.hash is not None
    assert not record.hash.equal


def batches_of(values: Sequence[bytes]) -> list[StoredBatch]:
    found: list[StoredBatch] = []
    for value in values:
        found.append(
            build(
                base_offset=found[-1].end if found else 0,
                epoch=1,
                chain_before=found[-1].chain_after if found else bytes(16),
                count=2,
                append_time_us=1,
                time_min_us=1,
                time_max_us=1,
                flags=0,
                spans=[],
                payload=payload_of([b"a", b"b"], [value, value]),
            )
        )
    return found


@pytest.mark.parametrize("different", [0, 1, 777, 1_999])
async def test_digests_find_the_first_batch_that_differs(different: int) -> None:
    values = [b"%d" % i for i in range(2_000)]
    mine = batches_of(values)
    theirs = batches_of([*values[:different], b"x", *values[different + 1 :]])

    def ask(held: list[StoredBatch]) -> object:
        def read(start: int, stop: int, max_bytes: int) -> list[StoredBatch]:
            return [b for b in held if b.end > start and b.base_offset < stop][:100]

        async def digests(start: int, stop: int, ranges: int) -> list[RangeDigest]:
            return [
                RangeDigest(r.start_offset, r.end_offset, r.start_byte, r.end_byte, r.batches,
                            r.digest)
                for r in range_digests(read, start, stop, ranges)
            ]  # fmt: skip

        return digests

    found = await first_difference(ask(mine), ask(theirs), 0, 4_000)  # type: ignore[arg-type]
    assert found is not None
    assert (found.start, found.end) == (2 * different, 2 * different + 2)
    before = sum(len(b.data) for b in mine[:different])
    assert found.start_byte == before
    assert found.end_byte == before + max(len(mine[different].data), len(theirs[different].data))
    assert await first_difference(ask(mine), ask(mine), 0, 4_000) is None  # type: ignore[arg-type]
