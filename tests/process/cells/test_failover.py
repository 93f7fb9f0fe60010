"""Cells over real etcd: a leader dies, freezes, or another coordinator joins; moves go on."""

import asyncio
import json
import signal
from pathlib import Path

import msgspec
import pytest

import logstore
from coordinator.cells.assignment import cell_names, cell_of, owners
from coordinator.cells.leadership import agree_on_cells
from logstore.base.errors import ConfigError, FencedError, LogstoreError
from logstore.meta.election import FencedStore
from logstore.meta.port import Compare, Put
from logstore.meta.records import cell_leader_key, decode_leader, shard_key
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from logstore.proto.status import called
from tests.process.cells.processes import CELLS_COUNT, READY_S, Fleet, fleet

pytestmark = pytest.mark.timeout(300)
FOLLOWED_S_MAX = 15.0
"""The budget is 5 s; a test machine may be busy. docs/design/0004-cells.md has the figures."""


async def called_at(address: str, service: str, method: str, request: object) -> object:
    """The JSON answer of a coordinator."""
    async with open_channel(address) as channel, called():
        stub = getattr(stubs, f"{service}Stub")(channel)
        answer = await getattr(stub, method)(request, timeout=20)
    return json.loads(answer.json)


async def created(db: "logstore.Client", name: str, shards: int) -> "logstore.Log":
    """A log, as soon as the instances are known."""
    async with asyncio.timeout(READY_S):
        while True:
            try:
                return await db.create_log(
                    name, partitioner="hash", shards=shards, instances=["a"] * shards
                )
            except LogstoreError:
                await asyncio.sleep(0.05)


async def state_of(fleet: Fleet, address: str, migration: str) -> str:
    found = await called_at(address, "Migrations", "Get", pb.GetMigrationRequest(id=migration))
    assert isinstance(found, dict)
    return str(found["state"])


async def until_state(fleet: Fleet, address: str, migration: str, *states: str) -> str:
    async with asyncio.timeout(READY_S):
        while (state := await state_of(fleet, address, migration)) not in states:
            await asyncio.sleep(0.05)
    return state


async def test_cells_move_when_a_leader_dies_and_its_migrations_go_on(
    etcd_address: str,
    tmp_path: Path,
) -> None:
    cells = cell_names(CELLS_COUNT)
    async with fleet(etcd_address, tmp_path, 3) as f:
        for address in f.addresses:
            await f.start_coordinator(address)
        await asyncio.gather(f.start_instance("a"), f.start_instance("b"))
        before = owners(cells, f.addresses)
        await f.settled(before)
        victim = before["1"]
        rest = [a for a in f.addresses if a != victim]
        async with logstore.connect(",".join(rest)) as db:
            log = await created(db, "orders", 16)
            acks = await log.append_many([b"k%d" % n for n in range(400)], [b"v"] * 400)
            assert sum(ack.count for ack in acks) == 400
            shard = next(f"orders/{n}" for n in range(16) if cell_of(f"orders/{n}", 4) == "1")
            # Asked of a coordinator that does not lead the shard's cell: it passes the call on.
            options = {"soak_s": 0.5, "shadow_s": 1.0, "ramp_step": 0.1}
            move = pb.MoveRequest(
                shard=shard, target="b", options_json=msgspec.json.encode(options)
            )
            begun = await called_at(rest[0], "Migrations", "Move", move)
            assert isinstance(begun, dict)
            await until_state(f, rest[0], begun["id"], "shadowing")
            fence = await f.store.get(cell_leader_key("1"))
            assert fence is not None
            await f.kill(victim)
            followed = await f.next_leader("1", fence.revision, FOLLOWED_S_MAX)
            assert decode_leader(followed.value or b"").address == owners(cells, rest)["1"]
            await until_state(f, rest[1], begun["id"], "completed")
            await f.settled(owners(cells, rest))
            record = await f.store.get(shard_key(shard))
            assert record is not None
            assert b'"instance":"b"' in record.value
            await created(db, "later", 4)  # the log-wide cell serves too
            await f.start_coordinator(victim)  # it joins again and gets its share back
            await f.settled(before)
            assert len([r async for r in log.read()]) == 400


async def test_a_frozen_leader_that_wakes_up_cannot_write(
    etcd_address: str,
    tmp_path: Path,
) -> None:
    cells = cell_names(CELLS_COUNT)
    async with fleet(etcd_address, tmp_path, 2) as f:
        for address in f.addresses:
            await f.start_coordinator(address)
        both = owners(cells, f.addresses)
        await f.settled(both)
        cell = next(c for c in cells if both[c] != both["0"])
        frozen, other = both[cell], both["0"]
        fence = await f.store.get(cell_leader_key(cell))
        assert fence is not None
        f.processes[frozen].send_signal(signal.SIGSTOP)
        await f.settled(dict.fromkeys(cells, other), FOLLOWED_S_MAX)
        # What the frozen one still holds is its fence (test_fence: all of a leader's parts).
        stale = FencedStore(f.store, Compare(cell_leader_key(cell), fence.revision))
        with pytest.raises(FencedError, match="nothing was written"):
            await stale.txn([], [Put("/written-by-a-stale-leader", b"1")])
        assert await f.store.get("/written-by-a-stale-leader") is None
        f.processes[frozen].send_signal(signal.SIGCONT)
        await f.settled(both)  # it registers again, and is given its share under a new fence
        again = await f.store.get(cell_leader_key(cell))
        assert again is not None
        assert again.revision > fence.revision


async def test_the_count_of_cells_is_agreed_once(
    etcd_address: str,
    tmp_path: Path,
) -> None:
    async with fleet(etcd_address, tmp_path, 1) as f:
        await agree_on_cells(f.store, 4)
        await agree_on_cells(f.store, 4)
        with pytest.raises(ConfigError, match="cells is 8, this cluster was made with 4"):
            await agree_on_cells(f.store, 8)
