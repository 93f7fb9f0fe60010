"""Moves of this store: a filled shard, other load, a probe on the shard, move after move."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import logstore
from bench.moves.probe import Probe, ProbeSamples
from bench.services.base import ServiceError
from coordinator.answers.base import decode
from coordinator.local.cluster import LocalCluster
from coordinator.migration.answers import Migration
from coordinator.migration.records import State
from coordinator.migration.table import COPY_ON_WRITE
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MigrationsStub
from logstore.proto.status import called

RECORD_BYTES = 1_000
LOAD_RECORDS = 400
LOAD_IN_FLIGHT = 4
RETENTION_BYTES = 500_000_000
MOVE_BETWEEN = ("instance-1", "instance-2")
CHUNK_RECORDS = 250
FILLS_IN_FLIGHT = 8
MOVE_DEADLINE_S = 600.0
MOVES_MIN = 3
"""Least moves of each part, however long they take."""
OPTIONS = {"shadow_s": 0.5, "soak_s": 1.0, "ramp_step": 0.1, "ramp_interval_s": 0.05}


@dataclass(frozen=True, slots=True)
class MoveSample:
    """One move with the figures of its record, and its time (CLOCK_MONOTONIC)."""

    record: Migration
    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


async def fill(log: logstore.Log, megabytes: int) -> None:
    """Records of 1,000 B under keys `fill-0` to `fill-999` and more."""
    rng = np.random.default_rng(1)
    count = megabytes * 1_000_000 // RECORD_BYTES
    calls: list[Any] = []
    for at in range(0, count, CHUNK_RECORDS):
        size = min(CHUNK_RECORDS, count - at)
        values = [rng.bytes(RECORD_BYTES - 12) for _ in range(size)]
        keys = [b"fill-%d" % ((at + i) % 100_000) for i in range(size)]
        calls.append(log.append_many(keys, values))
        if len(calls) == FILLS_IN_FLIGHT:
            await asyncio.gather(*calls)
            calls = []
    await asyncio.gather(*calls)


@dataclass(slots=True)
class Reached:
    """Rates of the load beside the moves, in MB/s of values."""

    append_mb_per_s: float = 0.0
    read_mb_per_s: float = 0.0


@contextlib.asynccontextmanager
async def load(db: logstore.Client, name: str, mb_per_s: float) -> AsyncIterator[Reached]:
    """`mb_per_s` of appends and as much of reads (tails), half of each on a shard of each of the
    two instances that the moved shard goes between."""
    log = await db.create_log(name, shards=2, instances=MOVE_BETWEEN, key_index=False)
    value = bytes(RECORD_BYTES - 8)
    keys = [bytes([i * 256 // LOAD_RECORDS]) + b"%06d" % i for i in range(LOAD_RECORDS)]
    batch_bytes = LOAD_RECORDS * RECORD_BYTES
    per_s = mb_per_s * 1e6 / batch_bytes
    stop = asyncio.Event()
    begin, reached = time.monotonic(), Reached()
    sent = read_records = 0

    async def append() -> None:
        nonlocal sent
        while not stop.is_set():
            while sent <= (time.monotonic() - begin) * per_s and not stop.is_set():
                sent += 1
                await log.append_many(keys, [value] * LOAD_RECORDS)
            await asyncio.sleep(0.002)

    async def read() -> None:
        nonlocal read_records
        async for records in log.lists(tail=True):
            read_records += len(records)

    tasks = [asyncio.create_task(f()) for f in (read, *(append,) * LOAD_IN_FLIGHT)]
    try:
        yield reached
    finally:
        stop.set()
        seconds = time.monotonic() - begin
        reached.append_mb_per_s = sent * batch_bytes / seconds / 1e6
        reached.read_mb_per_s = read_records * RECORD_BYTES / seconds / 1e6
        tasks[0].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await db.delete_log(name)
    for error in found:
        if isinstance(error, Exception):
            raise ServiceError(f"the load beside the moves failed: {error}")


class Moving:
    """One log of one shard, moved to and fro between the instances."""

    def __init__(self, cluster: LocalCluster, db: logstore.Client, name: str) -> None:
        self._cluster, self._db, self.name = cluster, db, name
        self._megabytes = 0

    async def create(self, megabytes: int, *, replicas: int = 1) -> None:
        options: dict[str, Any] = {"replicas": replicas, "shards": 1}
        if replicas == 1:
            options["instances"] = MOVE_BETWEEN[:1]
        self._megabytes = megabytes
        await self._db.create_log(self.name, **options)
        await self.refill()

    async def refill(self) -> None:
        """Append this many more bytes to the open shard."""
        await fill(await self._db.log(self.name), self._megabytes)

    async def move(self, strategy: str, feed: str) -> MoveSample:
        """Move to the next instance; ServiceError unless it completed with equal chains."""
        log = await self._db.log(self.name)
        (shard,) = (await log.shard_map()).open_shards
        if strategy == "switch":
            others = [i for i in shard.in_sync if i != shard.primary]
            if not others:
                raise ServiceError("no follower is in sync, so there is nothing to switch to")
            target = others[0]
        else:
            held = {shard.primary, *shard.in_sync}
            others = [i for i in self._cluster.instance_addresses if i not in held]
            target = next((i for i in MOVE_BETWEEN if i in others), others[0])
        request = pb.MoveRequest(
            shard=shard.id, target=target, strategy=strategy,
            options_json=msgspec.json.encode({**OPTIONS, "feed": feed}),
        )  # fmt: skip
        start_s = time.monotonic()
        async with open_channel(self._cluster.address) as channel, called():
            stub = MigrationsStub(channel)
            found = decode((await stub.Move(request)).json, Migration)
            get = pb.GetMigrationRequest(id=found.id)
            async with asyncio.timeout(MOVE_DEADLINE_S):
                while found.active:
                    await asyncio.sleep(0.05)
                    found = decode((await stub.Get(get)).json, Migration)
        if found.state is not State.COMPLETED:
            raise ServiceError(f"a move ended as {found.state}: {found.cause}")
        return MoveSample(found, start_s, time.monotonic())


async def moves_under_load(
    moving: Moving,
    db: logstore.Client,
    address: str,
    folder: Path,
    *,
    strategy: str,
    feed: str,
    count: int,
    mb_per_s: float,
    still_s: float,
    part_s_max: float,
    say: Callable[[str], None],
) -> tuple[list[MoveSample], ProbeSamples, list[tuple[float, float]], Reached]:
    """`count` moves, or fewer in `part_s_max`, with a still time before and after each. Also the
    edges: when the still times before and after each begin and end."""
    found: list[MoveSample] = []
    edges: list[tuple[float, float]] = []
    out = folder / f"{moving.name}.npz"
    async with (
        load(db, f"beside-{moving.name}", mb_per_s) as reached,
        Probe("ours", address, moving.name, out) as probe,
    ):
        await asyncio.sleep(still_s)
        began_s = time.monotonic()
        for number in range(count):
            if number >= MOVES_MIN and time.monotonic() - began_s > part_s_max:
                say(f"{strategy} by {feed}: {part_s_max:g} s are over after {number} moves")
                break
            if strategy == COPY_ON_WRITE and number:  # the moved shard stays as sealed history
                await moving.refill()
            before_s = time.monotonic()
            await asyncio.sleep(still_s)
            found.append(await moving.move(strategy, feed))
            say(f"{strategy} by {feed}: move {number + 1} of {count}: {found[-1].seconds:.1f} s")
            await asyncio.sleep(still_s)
            edges.append((before_s, time.monotonic()))
        seen = await probe.stop()
    return found, seen, edges, reached
