"""A log that lives: appends, failovers, moves, splits and merges, as the protocol allows them.

Each copy keeps the records that its owner heard of last. An append is acked once every in-sync
member has it, and each of them has heard of the configuration by then (P1, P2).
"""

import hashlib
import random
from dataclasses import dataclass, replace

from coordinator.recovery.facts import FoundCopy, FoundInstance
from logstore.base.types import ShardStatus
from logstore.meta.records import LogOptions, LogRecord, Member, ShardRecord
from sharder.keys import KeyRange

CLUSTER = "c1"


def chain(end: int) -> bytes:
    return hashlib.blake2b(b"%d" % end, digest_size=16).digest()


@dataclass
class Copy:
    """One copy on a disk: what it holds, and what its owner acted on last."""

    member: Member
    shard: str
    end: int = 0
    last_epoch: int = 0
    facts: tuple[ShardRecord, LogRecord, int] | None = None
    retired: str | None = None


class Life:
    """One log over `instances`. `acked`: shard -> records that were acked."""

    def __init__(self, seed: int, instances: int, replicas: int, shards: int) -> None:
        self.rng = random.Random(seed)
        self.instances = [f"i{n}" for n in range(instances)]
        self.replicas = min(replicas, instances)
        self.revision = 10
        self.next_id = 1
        options = LogOptions(replicas=self.replicas, min_in_sync=self.replicas // 2 + 1)
        self.log = LogRecord("x", options, shards, 77)
        self.records: dict[str, ShardRecord] = {}
        self.copies: dict[int, Copy] = {}
        self.acked: dict[str, int] = {}
        cuts = [bytes([256 * i // shards]) for i in range(1, shards)]
        bounds: list[bytes | None] = [b"", *cuts, None]
        for number in range(shards):
            low = bounds[number]
            assert low is not None
            keys = KeyRange(low, bounds[number + 1])
            self.open(number, keys, self.rng.sample(self.instances, self.replicas), ())

    def open(self, number: int, keys: KeyRange, homes: list[str], parents: tuple[str, ...]) -> None:
        members = [Member(home, 5, self.next_id + i) for i, home in enumerate(homes)]
        self.next_id += len(members)
        record = ShardRecord(
            f"x/{number}", "x", keys, ShardStatus.OPEN, 1, 1, members[0], tuple(members),
            predecessors=parents, min_in_sync=self.log.options.min_in_sync,
        )  # fmt: skip
        for member in members:
            self.copies[member.replica_id] = Copy(member, record.shard)
        self.acked[record.shard] = 0
        self.write(record)
        for member in members:
            self.hear(record, member)

    def write(self, record: ShardRecord) -> None:
        """A transaction; its author has heard of it."""
        self.revision += 1
        self.records[record.shard] = record
        self.hear(record, record.primary)
        for member in record.members():
            if self.rng.random() < 0.5:
                self.hear(record, member)

    def hear(self, record: ShardRecord, member: Member) -> None:
        self.copies[member.replica_id].facts = (record, self.log, self.revision)

    def append(self, shard: str) -> None:
        record = self.records[shard]
        if record.status is not ShardStatus.OPEN:
            return
        count = self.rng.randint(1, 5)
        end = self.copies[record.primary.replica_id].end + count
        if len(record.in_sync) >= record.min_in_sync and self.rng.random() < 0.8:
            for member in record.in_sync:
                copy = self.copies[member.replica_id]
                copy.end, copy.last_epoch = end, record.epoch
                self.hear(record, member)
            self.acked[shard] = end
        else:  # not acked: some have it
            for member in record.in_sync[:-1] or record.in_sync:
                copy = self.copies[member.replica_id]
                if copy.end == end - count:
                    copy.end, copy.last_epoch = end, record.epoch
        for member in record.learners:
            copy = self.copies[member.replica_id]
            copy.end = self.rng.randint(min(copy.end, end), end)

    def leave(self, member: Member, shard: str) -> None:
        """It is retired when its instance heard the tombstone; else it stays as it is."""
        if self.rng.random() < 0.5:
            self.copies[member.replica_id].retired = f"{shard} moved"

    def fall_out(self, shard: str) -> None:
        record = self.records[shard]
        if len(record.in_sync) < 2:
            return
        out = self.rng.choice(record.in_sync)
        left = tuple(m for m in record.in_sync if m != out)
        primary = record.primary if record.primary != out else left[0]
        stays = self.rng.random() < 0.5
        epoch = record.epoch + 1
        self.settle(record)
        self.write(
            replace(record, epoch=epoch, primary=primary, primary_since=epoch, in_sync=left,
                    learners=(*record.learners, out) if stays else record.learners)
        )  # fmt: skip
        if not stays:
            self.leave(out, shard)

    def settle(self, record: ShardRecord) -> None:
        """A new epoch begins with the same log on all in-sync members (P4, P5)."""
        end = max(self.copies[m.replica_id].end for m in record.in_sync)
        for member in record.in_sync:
            copy = self.copies[member.replica_id]
            if copy.end < end:
                copy.end, copy.last_epoch = end, record.epoch

    def join(self, shard: str) -> None:
        record = self.records[shard]
        if record.learners:
            new, learners = record.learners[0], record.learners[1:]
        else:
            homes = [i for i in self.instances if record.member_on(i) is None]
            if not homes:
                return
            new, learners = Member(self.rng.choice(homes), 5, self.next_id), ()
            self.next_id += 1
            self.copies[new.replica_id] = Copy(new, shard)
        self.settle(record)
        end = self.copies[record.primary.replica_id].end
        copy = self.copies[new.replica_id]
        copy.end, copy.last_epoch = end, record.epoch
        self.write(replace(record, epoch=record.epoch + 1, in_sync=(*record.in_sync, new),
                           learners=learners))  # fmt: skip
        self.hear(self.records[shard], new)

    def hand_over(self, shard: str) -> None:
        record = self.records[shard]
        self.settle(record)
        heir, epoch = self.rng.choice(record.in_sync), record.epoch + 1
        self.write(replace(record, epoch=epoch, primary=heir, primary_since=epoch))

    def split(self, shard: str) -> None:
        parent = self.records[shard]
        low = parent.range.start or b"\0"
        at = low + b"\x80"
        if parent.status is not ShardStatus.OPEN or at not in parent.range:
            return
        first = self.log.next_shard
        names = (f"x/{first}", f"x/{first + 1}")
        self.seal(parent, names)
        self.log = replace(self.log, next_shard=first + 2)
        homes = [m.instance for m in parent.in_sync]
        for i, keys in enumerate(parent.range.split(at)):
            self.open(first + i, keys, homes, (shard,))

    def seal(self, parent: ShardRecord, names: tuple[str, ...]) -> None:
        self.settle(parent)
        end = self.copies[parent.primary.replica_id].end
        self.acked[parent.shard] = end
        sealing = replace(parent, status=ShardStatus.SEALING, sealed_end=end,
                          sealed_chain=chain(end))  # fmt: skip
        self.write(sealing)
        self.write(replace(sealing, status=ShardStatus.SEALED, successors=names))

    def merge(self, shard: str) -> None:
        left = self.records[shard]
        right = next((r for r in self.records.values() if r.range.start == left.range.end
                      and r.status is ShardStatus.OPEN), None)  # fmt: skip
        if right is None or left.status is not ShardStatus.OPEN:
            return
        if {m.instance for m in left.in_sync} != {m.instance for m in right.in_sync}:
            return
        number = self.log.next_shard
        for parent in (left, right):
            self.seal(parent, (f"x/{number}",))
        self.log = replace(self.log, next_shard=number + 1)
        homes = [m.instance for m in left.in_sync]
        parents = (left.shard, right.shard)
        self.open(number, KeyRange(left.range.start, right.range.end), homes, parents)

    def live(self, steps: int) -> None:
        kinds = [self.append, self.append, self.fall_out, self.join, self.hand_over, self.split,
                 self.merge]  # fmt: skip
        for _ in range(steps):
            shard = self.rng.choice(sorted(self.records))
            if self.records[shard].status is ShardStatus.OPEN:
                self.rng.choice(kinds)(shard)

    def found(self, lost: set[str]) -> tuple[list[FoundInstance], list[FoundCopy]]:
        """What the disks that are left hold."""
        instances = [FoundInstance(i, CLUSTER, 5, 100, "g", self.revision, i)
                     for i in self.instances if i not in lost]  # fmt: skip
        return instances, [
            found_copy(copy) for copy in self.copies.values() if copy.member.instance not in lost
        ]


def found_copy(copy: Copy) -> FoundCopy:
    record, log, revision = copy.facts or (None, None, 0)
    return FoundCopy(
        copy.member.instance, copy.member.replica_id, copy.shard, CLUSTER if record else "", "g",
        revision, record, log, 0, copy.end, chain(copy.end), copy.last_epoch, retired=copy.retired,
    )  # fmt: skip
