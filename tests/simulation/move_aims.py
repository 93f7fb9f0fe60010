"""Later aims (`later_aims`) at copies that learn, at moves, drains, splits and merges."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from coordinator.migration.records import MigrationRecord, State
from coordinator.migration.reshape import ReshapeRecord, ReshapeState
from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord
from tests.simulation.aims import Aim
from tests.simulation.metadata import STORE
from tests.simulation.node import SimNode

if TYPE_CHECKING:
    from tests.simulation.strikes import Strikes

DRAIN_CHANCE = 0.03
"""At an ack."""


class LearnerAim(Aim):
    """Told of every copy that begins to learn. Drains now and then, so that copies begin without a
    move, which would give up on one that fails."""

    def __init__(self, faults: "Strikes") -> None:
        super().__init__(faults)
        self._known: dict[str, tuple[Member, ...]] = {}

    def written(self, author: str, shard: str) -> None:
        record = self.faults.observer.shards[shard].record
        before, self._known[shard] = self._known.get(shard, ()), record.learners
        for member in record.learners:
            if member not in before:
                self.learns(member, record)

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        upkeep, operator = self.faults.upkeep, self.faults.operator
        if self.rng.random() < DRAIN_CHANCE and self.faults.may_add() and not upkeep.drained():
            name = self.rng.choice([member.instance for member in record.in_sync])
            operator.drain(name)
            self.world.after(self.rng.uniform(1.0, 2.5), self._cancel, name)

    def _cancel(self, name: str) -> None:
        if self.faults.on and name in self.faults.upkeep.drained():
            self.faults.operator.drain(name, cancel=True)

    def learns(self, member: Member, record: ShardRecord) -> None:
        """`member` is a new learner of the shard."""
        raise NotImplementedError


class FullLearner(LearnerAim):
    """A copy that is to begin on a full disk, or that fills it (F3, liveness)."""

    name = "learner's disk full"
    rest_s = 0.5

    def learns(self, member: Member, record: ShardRecord) -> None:
        if self.strikes():
            node, shard = self.faults.node(member.instance), record.shard
            self.faults.fill(node, shard, self.rng.uniform(0.3, 2.0))
            if self.rng.random() < 0.4:
                broken_s = self.rng.uniform(0.05, 0.3)
                self.world.after(broken_s, self.faults.hit, "watch broken", node, shard)


class SilentSource(LearnerAim):
    """Whom a learner copies from falls silent, and no connection breaks (F2)."""

    name = "source falls silent"
    rest_s = 0.3

    def learns(self, member: Member, record: ShardRecord) -> None:
        if self.strikes():
            for most_s in (0.005, 0.03, 0.5):
                self.world.after(self.rng.uniform(0.0, most_s), self.faults.silence_feeds)


class SlowThreads(Aim):
    """What instances keep of a change is written late: the copy may be gone by then (P9)."""

    name = "threads stall at a change"
    rest_s = 0.1

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        self._stall((*before.members(), *after.members()))

    def moved(self, record: MigrationRecord) -> None:
        known = self.faults.observer.shards.get(record.shard)
        if known is not None:
            self._stall(known.record.members())

    def _stall(self, members: Iterable[Member]) -> None:
        if self.strikes():
            for name in sorted({m.instance for m in members}):
                self.faults.node(name).process.stall_s = self.rng.uniform(0.05, 0.5)


class TrimPastLearner(LearnerAim):
    """What a copy that is behind still has to learn is trimmed at its source (F2, F3, I13)."""

    name = "trim past a learner"
    rest_s = 0.4

    def learns(self, member: Member, record: ShardRecord) -> None:
        for _ in range(3):
            self.world.after(self.rng.uniform(0.0, 1.5), self._trim, record.shard)

    def _trim(self, shard: str) -> None:
        known = self.faults.observer.shards[shard]
        if self.faults.on and known.record.learners and known.acked.end and self.strikes():
            self.faults.upkeep.trim_members(shard, known.acked.end)


class LostProposal(Aim):
    """Who proposed a split or merge does not hear that it is written (liveness)."""

    name = "reshape proposed, unheard"
    splits = True

    def reshaped(self, record: ReshapeRecord) -> None:
        if record.state is ReshapeState.PLANNED and self.strikes():
            self.faults.lose_replies(self.world.history.metadata[-1].author, 0.005)


class CopyOnWriteBack(Aim):
    """Copies on write that are taken back when the target has records of its own (S4, I7)."""

    name = "copy on write taken back"
    rest_s = 0.6
    clients = (("conditional", 0.4),)

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        idle = record.migration is None and record.status is ShardStatus.OPEN
        free = [n.name for n in self.faults.nodes if record.member_on(n.name) is None]
        if idle and free and self.strikes():
            self.faults.operator.move(record.shard, self.rng.choice(free), "copy-on-write")

    def moved(self, record: MigrationRecord) -> None:
        if record.strategy == "copy-on-write" and record.state is State.SNAPSHOT:
            self.world.after(
                self.rng.uniform(0.0, 0.6), self.faults.operator.control, record.id, "rollback"
            )


class TailsOverSeals(Aim):
    """Reads and tails that are behind when shards end, follow each other and merge (S4)."""

    name = "tails behind at a seal"
    rest_s = 0.2
    splits = True
    clients = (("tails", 1.0), ("own", 0.5))

    def sealing(self, record: ShardRecord) -> None:
        if not self.strikes():
            return
        self.faults.break_calls("/logstore.v1.LogService/Tail", None)
        followers = [m.instance for m in record.in_sync if m != record.primary]
        if record.status is not ShardStatus.SEALED and followers:
            name = self.rng.choice(followers)
            self.faults.cut_between([name], [STORE], self.rng.uniform(1.0, 3.0))

    def reshaped(self, record: ReshapeRecord) -> None:
        if record.state is ReshapeState.COMPLETED and self.strikes():
            self.faults.break_calls("/logstore.v1.LogService/Tail", None)


class TwoDrains(Aim):
    """Drains that begin at the same time, and end again: places that two of them count on, copies
    that nobody needs any more (liveness)."""

    name = "two drains at once"
    rest_s = 0.8

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        if not self.strikes():
            return
        drained, operator = self.faults.upkeep.drained(), self.faults.operator
        if drained and self.rng.random() < 0.5:
            operator.drain(self.rng.choice(drained), cancel=True)
            return
        first, second = self.rng.sample([n.name for n in self.faults.nodes], 2)
        operator.drain(first)
        self.world.after(self.rng.choice((0.0, 0.001, 0.3)), operator.drain, second)


class OtherBytes(Aim):
    """The copy of a move's target has other bytes than its source, each batch sound by itself, when
    the two are to be compared (I8)."""

    name = "target's bytes are others"
    rest_s = 1.5

    def moved(self, record: MigrationRecord) -> None:
        if record.state is State.VERIFYING and record.target is not None and self.strikes():
            node, history = self.faults.node(record.target.instance), self.world.history
            if node.engine.forge(record.target.replica_id, self.rng.random()):
                self.world.tell(f"copy {record.target.replica_id} at {node.name} is forged")
                history.forged.add(record.shard)


MOVE_AIMS: tuple[type[Aim], ...] = (
    FullLearner, SilentSource, SlowThreads, TrimPastLearner, LostProposal, CopyOnWriteBack,
    TailsOverSeals, TwoDrains, OtherBytes,
)  # fmt: skip
