"""A scripted stand-in for instances, for the migration machine only.

It answers `Status` and `VerifyChain` and acts on intents as note 0001 says a primary does, over the
real metadata twin. The real instances are under test in the process tests.
"""

import hashlib
from dataclasses import replace

from coordinator.migration.difference import RangeDigest
from coordinator.migration.driver import MigrationDriver, MoveMemory
from coordinator.migration.facts import CopyReport
from coordinator.migration.ledger import Proposal
from coordinator.migration.records import MigrationRecord, MoveOptions
from coordinator.migration.windows import SideWindow
from logstore.base.env import Env, ManualClock
from logstore.base.errors import CorruptStorageError, UnavailableError, UnknownShardError
from logstore.base.types import ShardStatus
from logstore.meta.port import MetadataStore, Put
from logstore.meta.records import (
    REPLICA_COUNTER,
    InstanceRecord,
    Member,
    ShardRecord,
    decode_shard,
    encode,
    instance_key,
    shard_key,
)
from logstore.meta.shard_writes import change_shard
from logstore.meta.tombstones import Order
from sharder.keys import KeyRange
from tests.unit.coordinator.tombstones import WatchedStore

SHARD = "orders/0"
CLUSTER = "c"
QUICK = MoveOptions(shadow_s=0.2, soak_s=2.0, ramp_step=0.25, source_dead_after_s=60.0)


def chain_of(end: int, salt: bytes = b"") -> bytes:
    return hashlib.blake2b(b"%d" % end + salt, digest_size=16).digest()


class Cluster:
    """Two instances and a shard of `length` records, led by `a` at first."""

    def __init__(self, length: int = 1_000) -> None:
        self.store = WatchedStore()
        self.length = length
        self.up = {"a", "b"}
        self.held: dict[int, int] = {1: length}
        """Replica id -> log end."""
        self.spoilt: set[str] = set()
        """Instances whose disk returns other bytes."""
        self.unreadable: set[str] = set()
        self.hands_over = True
        self.led: list[str] = ["a"]
        self.recent: dict[str, SideWindow] = {}
        """Instance -> the calls it tells of, whatever seconds it is asked for."""

    async def found(self, follower: bool = False) -> None:
        member = Member("a", 11, 1)
        in_sync = (member, Member("b", 22, 2)) if follower else (member,)
        record = ShardRecord(SHARD, "orders", KeyRange(), ShardStatus.OPEN, 1, 1, member, in_sync)
        self.held = {m.replica_id: self.length for m in in_sync}
        await self.store.txn(
            [],
            [
                Put(shard_key(SHARD), encode(record)),
                Put(instance_key("a"), encode(InstanceRecord("a", "127.0.0.1:1", 11))),
                Put(instance_key("b"), encode(InstanceRecord("b", "127.0.0.1:2", 22))),
                Put(REPLICA_COUNTER, b"3"),
            ],
        )

    async def shard(self) -> ShardRecord:
        found = await self.store.get(shard_key(SHARD))
        assert found is not None
        return decode_shard(found.value)

    async def act(self) -> None:
        """One round of the instances: learn, and one change by the primary."""
        found = await self.store.get(shard_key(SHARD))
        assert found is not None
        record = decode_shard(found.value)
        members = {m.replica_id for m in record.members()}
        self.held = {r: end for r, end in self.held.items() if r in members}
        if record.primary.instance not in self.up:
            return
        self.length += 10
        self.held[record.primary.replica_id] = self.length
        for member in record.members():
            if member.instance in self.up:
                self.held[member.replica_id] = self.length
        changed = self._fulfilled(record)
        if changed is not None:
            assert changed.in_sync
            order = Order(CLUSTER, "the primary", 0)
            write = change_shard(record, found.revision, changed, order)
            await self.store.txn([write.compare], write.operations)

    def _fulfilled(self, record: ShardRecord) -> ShardRecord | None:
        epoch = record.epoch + 1
        for m in record.in_sync:
            if m.instance not in self.up:
                return replace(
                    record,
                    epoch=epoch,
                    in_sync=tuple(x for x in record.in_sync if x != m),
                    learners=(*record.learners, m),
                    hand_over=None,
                    route={},
                )
        gone = [r for r in record.remove if r != record.primary.replica_id]
        if gone:
            left = tuple(m for m in record.in_sync if m.replica_id not in gone)
            return replace(record, epoch=epoch, in_sync=left, remove=())
        for m in record.learners:
            if m.replica_id in record.admit and m.instance in self.up:
                return replace(
                    record,
                    epoch=epoch,
                    in_sync=(*record.in_sync, m),
                    learners=tuple(x for x in record.learners if x != m),
                    admit=(),
                )
        for m in record.in_sync:
            if m.replica_id == record.hand_over:
                if not self.hands_over:
                    return replace(record, hand_over=None)
                self.led.append(m.instance)
                return replace(record, epoch=epoch, primary=m, primary_since=epoch, hand_over=None)
        return None

    # ---- what the driver asks ----------------------------------------------------------------

    async def copies(self, instance: str, shard: str, recent_s: float = 0.0) -> list[CopyReport]:
        if instance not in self.up:
            raise UnavailableError(f"{instance} is down")
        record = await self.shard()
        member = record.member_on(instance)
        if member is None or member.replica_id not in self.held:
            raise UnknownShardError(f"{shard} is not here")
        end = self.held[member.replica_id]
        learner = member in record.learners
        return [
            CopyReport(
                member.replica_id,
                "learner" if learner else "primary",
                end,
                chain_of(end),
                end,
                learner_phase="feed" if learner else "",
                bytes_copied=1_000_000 if learner else 0,
                copy_seconds=0.1 if learner else 0.0,
                blackout_ms=7.5 if len(self.led) > 1 else 0.0,
                recent=self.recent.get(instance) if recent_s > 0 else None,
            )
        ]

    async def chain(
        self, member: Member, shard: str, stop: int, *, recompute: bool, timeout_s: float
    ) -> bytes:
        if member.instance not in self.up:
            raise UnavailableError(f"{member.instance} is down")
        if recompute and member.instance in self.unreadable:
            raise CorruptStorageError(f"offsets 10..20 of replica {member.replica_id} do not hold")
        spoilt = recompute and member.instance in self.spoilt
        return chain_of(stop, b"spoilt" if spoilt else b"")

    async def digests(
        self, member: Member, shard: str, start: int, stop: int, ranges: int
    ) -> list[RangeDigest]:
        digest = b"spoilt" if member.instance in self.spoilt else b""
        return [RangeDigest(start, stop, 0, 10 * (stop - start), 1, digest)]

    async def base(self, member: Member, shard: str) -> int:
        return 0


class World:
    """A cluster, a clock moved by hand, and a driver that can be killed between any two steps."""

    def __init__(self, store: MetadataStore | None = None, cluster: Cluster | None = None) -> None:
        self.cluster = cluster or Cluster()
        self.clock = ManualClock()
        self.driver = MigrationDriver(
            store or self.cluster.store, self.cluster, Env(clock=self.clock), cluster=CLUSTER
        )
        self.memory = MoveMemory()
        self.steps = 0
        self.id = ""

    async def begin(
        self, options: MoveOptions = QUICK, strategy: str = "shadow"
    ) -> MigrationRecord:
        await self.cluster.found(follower=strategy == "switch")
        proposal = Proposal(SHARD, "b", strategy, options)
        record = await self.driver.ledger.propose(proposal)
        self.id = record.id
        return record

    def kill_driver(self) -> None:
        """All that one leader remembers is gone."""
        self.memory = MoveMemory()

    async def step(self) -> bool:
        """One decision and its effect, then the instances act; False at the end state."""
        self.steps += 1
        try:
            seconds = await self.driver.step(self.id, self.memory)
        except UnavailableError:
            seconds = 0.2
        if seconds is None:
            return False
        self.clock.advance(max(seconds, 0.01))
        await self.cluster.act()
        await self.check()
        return True

    async def check(self) -> None:
        """I8: a target leads only after its chain was verified; someone is always in sync."""
        shard, record = await self.cluster.shard(), await self.record()
        assert shard.primary in shard.in_sync
        ids = [m.replica_id for m in shard.members()]
        assert len(ids) == len(set(ids))
        if record.strategy != "switch" and record.target and record.target in shard.in_sync:
            assert record.hash is not None
            assert record.hash.equal

    async def record(self) -> MigrationRecord:
        return await self.driver.ledger.get(self.id)

    async def run(self, steps_max: int = 3_000) -> MigrationRecord:
        """Until the end state; bounded, so that a move that never ends fails."""
        for _ in range(steps_max):
            if not await self.step():
                return await self.record()
        raise AssertionError(f"no end after {steps_max} steps: {await self.record()}")
