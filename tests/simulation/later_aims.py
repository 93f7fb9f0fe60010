"""Aims that came after the first ones (`aims`), and are drawn from dice of their own: a seed that
draws none of them keeps its course.

They may ask for a cluster and for clients (`Aim.needs`, `Aim.clients`): what they hunt needs them.
"""

from logstore.base.types import ShardStatus
from logstore.meta.records import ShardRecord
from logstore.replication.events import Role
from tests.simulation.aims import AIMS, Aim, LostAck, Needs
from tests.simulation.metadata import STORE
from tests.simulation.move_aims import MOVE_AIMS
from tests.simulation.node import SimNode

RESTART_S = 0.02
GRACE_S = 1.2
"""In which a follower that hears nothing has taken over."""


class HungWrite(Aim):
    """A synced write hangs in its thread while others change who leads."""

    rest_s = 2.5
    needs = Needs(replicas=3, synced=True)

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        follower = self.heir(record)
        if follower is not None and node.name == record.primary.instance and self.strikes():
            self.strike(node, follower, record.shard)

    def heir(self, record: ShardRecord) -> SimNode | None:
        """The follower that takes over first."""
        found = [m for m in record.in_sync if m != record.primary]
        if not found:
            return None
        return self.faults.node(min(found, key=lambda m: m.replica_id).instance)

    def strike(self, node: SimNode, follower: SimNode, shard: str) -> None:
        """`node` leads."""
        raise NotImplementedError


class HungFollower(HungWrite):
    """The old primary reaches a follower whose write hangs, not the next primary, and a second
    stream waits behind that write: what one compared says nothing of the other (P1, P5)."""

    name = "pushes wait for a hung write"

    def heir(self, record: ShardRecord) -> SimNode | None:
        """The one that takes over last."""
        found = [m for m in record.in_sync if m != record.primary]
        if len(found) < 2:
            return None
        return self.faults.node(max(found, key=lambda m: m.replica_id).instance)

    def strike(self, node: SimNode, follower: SimNode, shard: str) -> None:
        self.faults.leave_only(node, follower, self.rng.uniform(2.0, 3.5))
        hang_s = self.rng.uniform(1.6, 3.0)
        self.world.after(self.rng.uniform(0.002, 0.02), self.faults.hang, follower, hang_s)
        if self.rng.random() < 0.6:
            self.faults.repeat(node.name, 1.0)
            again_s = self.rng.uniform(0.05, 0.3)
            self.world.after(again_s, self.faults.break_pushes, node.name, follower.name)


class HungHeir(HungWrite):
    """Who takes over has a write of the old primary in its thread still (P4, S1)."""

    name = "heir's write hangs"

    def strike(self, node: SimNode, follower: SimNode, shard: str) -> None:
        self.faults.hang(follower, self.rng.uniform(2.4, 5.0))
        fault = self.rng.choice(("kill", "isolate", "cut off"))
        self.world.after(self.rng.uniform(0.002, 0.1), self.faults.hit, fault, node, shard)


class HungPrimary(HungWrite):
    """A primary follows another one already when its own write lands (P5)."""

    name = "deposed primary's write hangs"

    def strike(self, node: SimNode, follower: SimNode, shard: str) -> None:
        self.faults.hang(node, self.rng.uniform(4.0, 6.0))
        others = [n.name for n in self.faults.nodes if n is not node]
        seconds = self.rng.uniform(GRACE_S, GRACE_S + 0.3)
        self.faults.cut_between([node.name], [*others, STORE], seconds)


class AckedAndRestarted(HungWrite):
    """A follower acked what its primary still writes, restarts, and writes it slowly (P5)."""

    name = "follower restarts in a hung write"

    def strike(self, node: SimNode, follower: SimNode, shard: str) -> None:
        hang_s = self.rng.uniform(0.4, 0.7)
        self.faults.hang(node, hang_s)
        self.world.after(self.rng.uniform(0.01, 0.1), self._restart, node, follower, shard)

    def _restart(self, node: SimNode, follower: SimNode, shard: str) -> None:
        self.faults.restart(follower, shard)
        self.world.after(2 * RESTART_S, self.faults.hang, follower, self.rng.uniform(0.8, 1.5))


class UnheardChange(Aim):
    """Who changed a shard's record hears nothing of it for longer than the store's timeout, and a
    new member does not hear of it: what counts until the outcome is known (P3)."""

    name = "change of the record unheard"
    rest_s = 2.0

    def changed(self, before: ShardRecord, after: ShardRecord) -> None:
        joined = [m for m in after.in_sync if m in before.learners]
        if before.primary != after.primary or not (joined or self.rng.random() < 0.3):
            return
        if self.strikes():
            primary, seconds = after.primary.instance, self.rng.uniform(1.2, 2.0)
            self.faults.deafen(primary, seconds)
            if joined:
                self.faults.cut_between([primary], [joined[0].instance], seconds)


class LoneFollower(Aim):
    """A follower that leads alone, with fewer than `min_in_sync`, shows what it knows (P4)."""

    name = "follower leads alone"
    needs = Needs(replicas=2, min_in_sync=2)

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        follower = self.follower(record)
        if follower is None or node.name != record.primary.instance or not self.strikes():
            return
        self.faults.hit(self.rng.choice(("kill", "isolate")), node, record.shard)
        for client in self.faults.clients:
            client.look_at(follower.address, record.shard)


class LateAcks(Aim):
    """Answers come late, and still come when no question gets out: a lease counts from the question
    (P7)."""

    name = "answers late, then a mute primary"
    rest_s = 2.5
    needs = Needs(replicas=2, min_in_sync=1)
    clients = (("resenders", 3),)

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        follower = self.follower(record)
        if follower is None or node.role(record.shard) is not Role.PRIMARY or not self.strikes():
            return
        for machine in self.faults.nodes:
            machine.clock.drift(0.95 if machine is node else 1.05)
        late_s = self.rng.uniform(0.3, 0.6)
        self.faults.slow_down([follower.name], late_s)
        self.world.after(late_s, self.faults.mute, node, record.shard)
        for client in self.faults.clients:
            client.look_at(node.address, record.shard)


class FullWindow(Aim):
    """Producers with as much under way as a copy remembers, all of it sent again (I6)."""

    name = "whole windows again"
    rest_s = 0.2
    clients = (("window", 4), ("in_flight", 16), ("think_s", 0.015), ("resenders", 2))

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        if self.strikes():
            self.faults.break_calls("/logstore.v1.LogService/Append", node.name)
            for client in self.faults.clients:
                client.send_again()


class LostForGood(LostAck):
    """Clients that give up what was stored, since nobody answers in time (I6)."""

    name = "ack lost, and given up"
    clients = (("timeout_s", 0.6),)


class LostConditions(Aim):
    """Conditional appends among others on the same keys, at a primary whose log does not stay, and
    whose clients end: what a key's version and a conflict cite (I6, P10)."""

    name = "conditions on what is lost"
    clients = (("conditional", 0.7), ("shared", 0.3), ("stale", 0.4), ("resenders", 1))
    rest_s = 1.5

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        if node.name != record.primary.instance or not self.strikes():
            return
        self.faults.hit("cut off", node, record.shard)
        for client in self.faults.clients[:2]:
            self.world.after(self.rng.uniform(0.1, 0.4), self.faults.end_client, client)


class SilentFollower(Aim):
    """A follower that nobody reaches but readers (P8)."""

    name = "follower cut off, and read"
    rest_s = 4.5
    needs = Needs(replicas=3)
    clients = (("copy", 0.2),)

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        follower = self.follower(record)
        quiet = record.status is ShardStatus.OPEN and follower is not None and follower.is_quick()
        if follower is None or not quiet or not self.strikes():
            return
        seconds = self.rng.uniform(3.5, 4.0)
        self.faults.silence(follower, seconds)
        for client in self.faults.clients:
            client.read_at(follower.address, record.shard)


class LoneDiskFull(Aim):
    """The only copy's disk is full for moments: groups fail between others that do not (I6)."""

    name = "only copy's disk full for moments"
    rest_s = 0.05
    needs = Needs(replicas=1, min_in_sync=1)
    clients = (("append", 0.8), ("in_flight", 16), ("think_s", 0.015), ("window", 16))

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        if self.strikes():
            self.faults.fill(node, record.shard, self.rng.uniform(0.001, 0.02))


class OldPrimaryBack(Aim):
    """A primary that took appends which nobody else has comes back among those who went on without
    it: what is compared, and what is cut (P1, P5)."""

    name = "old primary comes back"
    rest_s = 2.0
    needs = Needs(replicas=3, batches=1)
    clients = (("append", 0.7), ("append_many", 0.05), ("window", 16), ("resenders", 2))

    def acked(self, node: SimNode, record: ShardRecord) -> None:
        follower = self.follower(record)
        if follower is None or node.role(record.shard) is not Role.PRIMARY or not self.strikes():
            return
        seconds = self.rng.uniform(GRACE_S, 2.5)
        if self.rng.random() < 0.5:
            learners = [self.faults.node(m.instance) for m in record.learners]
            self.faults.leave_only(node, self.rng.choice((follower, *learners)), seconds)
        else:
            others = [n.name for n in self.faults.nodes if n is not node]
            self.faults.cut_between([node.name], [*others, STORE], seconds)


_OF_THIS_FILE: tuple[type[Aim], ...] = (
    HungFollower, HungHeir, HungPrimary, AckedAndRestarted, UnheardChange, LateAcks,
    LoneFollower, FullWindow, LostForGood, LostConditions, SilentFollower, LoneDiskFull,
    OldPrimaryBack,
)  # fmt: skip
LATER = {aim.name: aim for aim in (*_OF_THIS_FILE, *MOVE_AIMS)}
ALL_AIMS = AIMS | LATER
