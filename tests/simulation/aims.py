"""Aims: each waits for one kind of moment, and strikes then, with the chance that the seed drew.

What a fault drawn at a random time meets once in thousands of seeds, an aim meets in one of a few.
To add one: a class with a docstring that says which bugs it hunts, and its line in `AIMS`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.migration.records import MigrationRecord, State
from coordinator.migration.reshape import ReshapeRecord, ReshapeState
from logstore.base.types import ShardStatus
from logstore.meta.records import ShardRecord
from logstore.replication.events import Role

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.strikes import Strikes

REST_S = 0.8
"""Between two strikes of one aim."""
FIRED = "fired"
"""Where a strike is counted."""
INSTANT_S = 0.003


@dataclass(frozen=True, slots=True)
class Needs:
    """What a cluster must be; None or False: as drawn. `batches`: in a message at most, 0: as
    many as fit."""

    replicas: int | None = None
    min_in_sync: int | None = None
    synced: bool = False
    batches: int = 0


class Aim:
    """Hears every moment from the observer, while faults happen."""

    name = ""
    rest_s = REST_S
    splits = False
    """Its moments come only in runs whose shards are split and merged."""
    needs = Needs()
    clients: tuple[tuple[str, float], ...] = ()
    """Fields of the clients' mix that are as here, whatever was drawn."""

    def __init__(self, faults: "Strikes") -> None:
        self.faults = faults
        self.world = faults.world
        self.rng = faults.world.chaos
        self._rested_s = 0.0

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        """An instance sends an ack."""

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        """A shard's primary or its in-sync set changed."""

    def sealing(self, record: ShardRecord) -> None:
        """A shard is asked to seal, sealing, or sealed."""

    def moved(self, record: MigrationRecord) -> None:
        """A move entered a state."""

    def reshaped(self, record: ReshapeRecord) -> None:
        """A split or a merge entered a state."""

    def written(self, author: str, shard: str) -> None:
        """`author` wrote a shard's record and does not know it yet."""

    def strikes(self) -> bool:
        """Whether it strikes now; counts it."""
        chance = self.faults.style.aim_chance
        if not self.faults.may_add() or self.world.now_s < self._rested_s:
            return False
        if self.rng.random() >= chance:
            return False
        self._rested_s = self.world.now_s + self.rest_s
        self.world.cover(f"aim: {self.name}", FIRED)
        self.world.tell(f"AIM {self.name}")
        return True

    def follower(self, record: ShardRecord) -> "SimNode | None":
        """One of the in-sync ones that do not lead."""
        names = [m.instance for m in record.in_sync if m != record.primary]
        return self.faults.node(self.rng.choice(names)) if names else None


class PowerLossAfterAck(Aim):
    """Acks that come before the write is where it has to be: here, at peers, on the disk."""

    name = "power loss after an ack"

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        if not self.strikes():
            return
        hit = [node]
        if node.synced and self.rng.random() < 0.4:
            hit = [self.faults.node(m.instance) for m in record.in_sync]
        for machine in hit:
            delay_s = self.rng.uniform(0.0, INSTANT_S)
            self.world.after(delay_s, self.faults.hit, "power loss", machine, record.shard)


class LostAck(Aim):
    """Retries of what is stored: dedupe at the primary, after its restart, at its successor."""

    name = "ack lost, then its sender"

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        if not self.strikes():
            return
        self.faults.break_calls("/logstore.v1.LogService/", node.name)
        if self.rng.random() < 0.7:
            fault = self.rng.choice(("kill", "pause", "cut off", "isolate"))
            self.faults.hit(fault, node, record.shard)


class StalledWrite(Aim):
    """A write of one term that lands in the next: what was compared, acked and cut meanwhile."""

    name = "stalled write across terms"

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        follower = self.follower(record)
        if follower is None or node.name != record.primary.instance or not self.strikes():
            return
        self.faults.stall(follower, record.shard, self.rng.uniform(0.8, 2.5))
        fault = self.rng.choice(("kill", "pause", "isolate", "cut off"))
        if self.rng.random() < 0.4:  # the old primary still reaches it, and only it
            self.faults.leave_only(node, follower)
            return
        self.world.after(self.rng.uniform(0.0, 0.3), self.faults.hit, fault, node, record.shard)


class SealWithPausedFollower(Aim):
    """Seals below what a silent copy holds, above it, or before all hold the end (S1, S2)."""

    name = "seal with a paused follower"
    splits = True

    def sealing(self, record: ShardRecord) -> None:
        follower = self.follower(record)
        if follower is None or not self.strikes():
            return
        self.faults.pause(follower, record.shard, self.rng.uniform(0.8, 3.0))
        if self.rng.random() < 0.6:
            fault = self.rng.choice(("kill", "pause", "cut off"))
            primary = self.faults.node(record.primary.instance)
            delay_s = self.rng.uniform(0.0, 0.05)
            self.world.after(delay_s, self.faults.hit, fault, primary, record.shard)


class StartOver(Aim):
    """Clients that give up: late copies of old producers' appends, numbers used twice."""

    name = "client starts over"

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        if self.rng.random() < 0.05:
            self._end()

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        self._end()

    def sealing(self, record: ShardRecord) -> None:
        self._end()

    def _end(self) -> None:
        if self.strikes():
            for client in self.rng.sample(list(self.faults.clients), 2):
                self.faults.end_client(client)


class HotRetries(Aim):
    """One request many times, to all: at a new primary, at a target, at a sealed shard (I6, S2)."""

    name = "hot retries"

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        self._again()

    def sealing(self, record: ShardRecord) -> None:
        self._again()

    def moved(self, record: MigrationRecord) -> None:
        self._again()

    def _again(self) -> None:
        if self.strikes():
            self.faults.break_calls("/logstore.v1.LogService/Append", None)
            for client in self.faults.clients:
                client.send_again()


class DeathBetween(Aim):
    """Who wrote metadata dies, or stands still, before the answer comes (P3, H2, G1)."""

    name = "end between a write and its answer"

    def written(self, author: str, shard: str) -> None:
        if author == "setup" or not self.strikes():
            return
        if self.rng.random() < 0.4:
            self.faults.lose_replies(author)
        elif any(node.name == author for node in self.faults.nodes):
            fault = self.rng.choice(("kill", "pause", "isolate"))
            self.world.after(0.0, self.faults.hit, fault, self.faults.node(author), shard)
        else:
            self.world.after(0.0, self.faults.end_coordinator, author)


class SlowDiskAtChange(Aim):
    """A copy that is behind when the primary changes: what counts of it, and from when (P4, P5)."""

    name = "slow disk while the primary changes"

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        follower = self.follower(after)
        if before.primary == after.primary or follower is None or not self.strikes():
            return
        self.faults.hit("slow disk", follower, after.shard)
        self.faults.stall(follower, after.shard, self.rng.uniform(0.2, 2.0))


class LateRollback(Aim):
    """A move is taken back when it is all but done (I7, H4)."""

    name = "rollback at the last moment"

    def moved(self, record: MigrationRecord) -> None:
        if record.state not in (State.RAMPING, State.CUTOVER, State.SOAKING) or not self.strikes():
            return
        last_s = record.options.soak_s
        delay_s = self.rng.uniform(0.0, 0.1)
        if record.state is State.SOAKING:
            delay_s = self.rng.uniform(0.6 * last_s, 1.15 * last_s)
        self.world.after(delay_s, self._back, record)

    def _back(self, record: MigrationRecord) -> None:
        self.faults.operator.control(record.id, "rollback")
        if record.target is not None and self.rng.random() < 0.4:
            fault = self.rng.choice(("kill", "pause", "isolate"))
            node = self.faults.node(record.target.instance)
            self.world.after(
                self.rng.uniform(0.0, 0.05), self.faults.hit, fault, node, record.shard
            )


class IsolatedPrimary(Aim):
    """A primary that only clients reach, on a slow clock, among quick ones: reads and acks past
    the end of its lease (P7)."""

    name = "isolated primary serves on"

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        alone = len(record.in_sync) == 1
        if alone or node.role(record.shard) is not Role.PRIMARY or not self.strikes():
            return
        for machine in self.faults.nodes:
            machine.clock.drift(0.95 if machine is node else 1.05)
        if self.rng.random() < 0.5:
            self.faults.hit("cut off", node, record.shard)
        else:  # answers come late, and still come when no question gets out: a lease counts from it
            late_s = self.rng.uniform(0.4, 1.0)
            followers = [m.instance for m in record.in_sync if m != record.primary]
            self.faults.slow_down(followers, late_s)
            self.world.after(late_s, self.faults.mute, node, record.shard)
        for client in self.faults.clients:
            client.look_at(node.address, record.shard)


class WatchBroken(Aim):
    """Who misses a change of the configuration: routes, roles and orders of yesterday."""

    name = "watch broken in a reconfiguration"

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        self._break(after)

    def sealing(self, record: ShardRecord) -> None:
        self._break(record)

    def _break(self, record: ShardRecord) -> None:
        if self.strikes():
            node = self.faults.node(self.rng.choice(record.members()).instance)
            fault = self.rng.choice(("watch broken", "watch compacted", "store unreachable"))
            self.faults.hit(fault, node, record.shard)


class GhostsOfATerm(Aim):
    """Messages of an old primary that come late, in the next term (P1)."""

    name = "late messages of the last term"

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        if before.primary != after.primary and self.strikes():
            self.faults.hit("repeat", self.faults.node(before.primary.instance), after.shard)


class SuccessorsUnderFire(Aim):
    """The first moments of successors: who opens them, with which producers (S1-S3)."""

    name = "death as successors open"
    splits = True

    def reshaped(self, record: ReshapeRecord) -> None:
        if record.state is ReshapeState.COMPLETED and self.strikes():
            shard = self.rng.choice(record.successors or record.parents)
            known = self.faults.observer.shards.get(shard)
            if known is not None:
                node = self.faults.node(known.record.primary.instance)
                fault = self.rng.choice(("kill", "pause", "isolate", "disk full"))
                delay_s = self.rng.choice((0.0, self.rng.uniform(0.0, 0.3)))
                self.world.after(delay_s, self.faults.hit, fault, node, shard)


class Dethroned(Aim):
    """A primary that has just taken over falls again: two terms in a row, with the first's
    remains."""

    name = "two terms in a row"

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        if before.primary == after.primary or after.status is not ShardStatus.OPEN:
            return
        if self.strikes():
            node = self.faults.node(after.primary.instance)
            fault = self.rng.choice(("kill", "pause", "isolate", "power loss", "cut off"))
            delay_s = self.rng.uniform(0.0, 0.3)
            self.world.after(delay_s, self.faults.hit, fault, node, after.shard)


class LateWrite(Aim):
    """A decision that is carried out late: what it was read from has changed meanwhile (G1, S1)."""

    name = "late write of metadata"

    def moved(self, record: MigrationRecord) -> None:
        self._late(record.shard)

    def sealing(self, record: ShardRecord) -> None:
        self._late(record.shard)

    def _late(self, shard: str) -> None:
        if self.strikes():
            primary = self.faults.observer.shards[shard].record.primary.instance
            self.faults.delay_writes(self.rng.choice((primary, self.faults.leader_of(shard).name)))


class FullPrimary(Aim):
    """What its primary cannot write and its followers hold: refused, unknown, or stored (P10)."""

    name = "primary's disk full"

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        if node.name == record.primary.instance and self.strikes():
            self.faults.hit("disk full", node, record.shard)
            if self.rng.random() < 0.5:
                fault = self.rng.choice(("kill", "pause", "cut off"))
                delay_s = self.rng.uniform(0.2, 1.5)
                self.world.after(delay_s, self.faults.hit, fault, node, record.shard)


class BrokenStreams(Aim):
    """Lanes whose streams break again and again, with refusals among what is uncertain (I6)."""

    name = "streams break often"
    rest_s = 0.1

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        if self.strikes():
            self.faults.break_calls("/logstore.v1.LogService/AppendStream", node.name)


class AllReboot(Aim):
    """Every machine of a shard loses power at once: who leads, and what is recorded as lost
    (P6)."""

    name = "all machines lose power"
    rest_s = 8.0

    def acked(self, node: "SimNode", record: ShardRecord) -> None:
        if self.strikes():
            for member in record.in_sync:
                self.faults.reboot(self.faults.node(member.instance), record.shard)


AIMS: dict[str, type[Aim]] = {
    aim.name: aim
    for aim in (
        PowerLossAfterAck, LostAck, StalledWrite, SealWithPausedFollower, StartOver, HotRetries,
        DeathBetween, SlowDiskAtChange, LateRollback, IsolatedPrimary, WatchBroken, GhostsOfATerm,
        SuccessorsUnderFire, Dethroned, LateWrite, FullPrimary, BrokenStreams, AllReboot,
    )
}  # fmt: skip
