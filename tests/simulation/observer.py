"""Looks at every disk and at the metadata from outside, whenever something was promised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.migration.records import MigrationRecord, decode_migration
from coordinator.migration.reshape import RESHAPES, ReshapeRecord, decode_reshape
from logstore.base.types import START, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta
from logstore.meta.port import WatchEvent
from logstore.meta.records import CELLS, MIGRATIONS, SHARDS, ShardRecord, decode_shard
from logstore.proto.v1 import log_pb2
from tests.simulation.aims import Aim
from tests.simulation.metadata import Cluster
from tests.simulation.network import Call
from tests.simulation.node import SimNode
from tests.simulation.world import World
from tests.support.checkers import i3_acked, i8_equal_chains
from tests.support.checkers.history import CopyState, Link, ServerAck


@dataclass(slots=True)
class _Shard:
    record: ShardRecord
    acked: Position = START
    """The newest acked batch: its end, and the chain there."""
    excused: bool = False


class Observer:
    """Checks I3 and I8 at once, records what the other checkers need."""

    def __init__(self, world: World, cluster: Cluster, nodes: list[SimNode]) -> None:
        self.world = world
        self.nodes = {node.name: node for node in nodes}
        self.shards: dict[str, _Shard] = {}
        self.migrations: dict[str, MigrationRecord] = {}
        self.reshapes: dict[str, ReshapeRecord] = {}
        self.on_reshape: Callable[[ReshapeRecord], None] = lambda record: None
        self.on_migration: Callable[[MigrationRecord], None] = lambda record: None
        self.aims: Sequence[Aim] = ()
        self.on_cell: Callable[[], None] = lambda: None
        """Called when the leader of a cell changes."""
        self.on_shard: Callable[[ShardRecord], None] = lambda record: None
        cluster.on_change = self._changed
        cluster.network.on_answer = self._answered

    # ---- metadata --------------------------------------------------------------------------------

    def _changed(self, events: tuple[WatchEvent, ...]) -> None:
        for event in events:
            if event.key.startswith(CELLS):
                self.on_cell()
            if event.value is None:
                continue
            if event.key.startswith(SHARDS):
                record = decode_shard(event.value)
                self._reconfigured(record)
                author = self.world.history.metadata[-1].author
                for aim in self.aims:
                    aim.written(author, record.shard)
                self.on_shard(record)
            elif event.key.startswith(RESHAPES):
                self._reshaped(decode_reshape(event.value))
            elif event.key.startswith(MIGRATIONS):
                move = decode_migration(event.value)
                before = self.migrations.get(move.id)
                self.migrations[move.id] = move
                if before is None or before.state is not move.state:
                    self.world.tell(f"{move.id} is {move.state.value}: {move.cause or ''}")
                    self.on_migration(move)
                    for aim in self.aims:
                        aim.moved(move)

    def _reshaped(self, record: ReshapeRecord) -> None:
        before = self.reshapes.get(record.id)
        self.reshapes[record.id] = record
        if before is None or before.state is not record.state:
            ends = f"{record.successors} {record.sealed_ends} {record.cause or ''}"
            self.world.tell(f"{record.id} ({record.kind}) is {record.state.value}: {ends}")
            self.on_reshape(record)
            for aim in self.aims:
                aim.reshaped(record)

    def _reconfigured(self, record: ShardRecord) -> None:
        known = self.shards.get(record.shard)
        if known is None:
            self.shards[record.shard] = _Shard(record)
            return
        before, known.record = known.record, record
        if (before.seal, before.status) != (record.seal, record.status):
            for aim in self.aims:
                aim.sealing(record)
        if (before.epoch, before.in_sync) == (record.epoch, record.in_sync):
            return
        members = " ".join(f"{m.instance}/{m.replica_id}" for m in record.in_sync)
        learners = " ".join(f"{m.instance}/{m.replica_id}" for m in record.learners)
        self.world.tell(
            f"{record.shard} epoch {record.epoch}: {record.primary.instance} leads [{members}] "
            f"learners [{learners}]"
        )
        ids = {m.replica_id for m in before.in_sync}
        for member in record.in_sync:
            if member.replica_id in ids:
                continue
            node = self.nodes[member.instance]
            if member.incarnation != node.incarnation:
                continue  # it lost power since it matched: it must not count, and is suspect (P6)
            node.tainted.discard(member.replica_id)
            copy = self._copy(node, member.replica_id, record.shard, known.acked.end)
            if copy is not None and not known.excused:
                end, chain = known.acked.end, known.acked.chain
                for violation in i8_equal_chains.check_joined(record, copy, end, chain):
                    self.world.violate(violation.invariant, violation.text)
        self._check_in_sync(known)
        for aim in self.aims:
            aim.changed(before, record)

    # ---- acks ------------------------------------------------------------------------------------

    def _answered(self, call: Call, message: object) -> None:
        """An instance acks: from now on every in-sync disk must have the batch."""
        if isinstance(message, log_pb2.AppendResult):
            if message.HasField("error"):
                return
        elif not isinstance(message, log_pb2.AppendResponse):
            return
        assert call.server is not None
        node, known = self.nodes[call.server.name], self.shards[message.shard]
        record = known.record
        member = record.member_on(node.name)
        if member is None:
            return
        offset = message.base_offset
        passed_on = isinstance(message, log_pb2.AppendResponse) or message.refresh_route
        if passed_on and self._committed(node, message.shard) < offset + message.count:
            return  # passed on: it was judged at who leads, and may not be what this one holds
        batch = next(
            (
                b
                for b in reversed(node.engine.batches(member.replica_id))
                if b.base_offset <= offset
            ),
            None,
        )
        if batch is None or batch.end <= offset:
            return
        if not message.duplicate and not passed_on:
            self.world.history.acks.append(
                ServerAck(self.world.now_s, node.name, message.shard, batch.epoch, offset,
                          message.count))  # fmt: skip
        self.world.trace(f"{node.name} acks {message.shard}:{offset}")
        if batch.end > known.acked.end:
            known.acked = Position(batch.end, batch.chain_after)
            self._check_in_sync(known)
            self._check_enough(known)
            for aim in self.aims:
                aim.acked(node, record)

    @staticmethod
    def _committed(node: SimNode, shard: str) -> int:
        replica = node.instance.replicas.get(shard) if node.instance is not None else None
        return replica.high_watermark if replica is not None else 0

    def _check_enough(self, known: _Shard) -> None:
        """I3, at the moment of an ack: as many disks as `min_in_sync` asks for have the batch."""
        acked, record = known.acked, known.record
        copies = [
            (node, meta.replica_id)
            for node in self.nodes.values()
            for meta in node.engine.replicas()
            if meta.shard == record.shard
        ]
        having = 0
        for node, replica_id in copies:
            copy = self._copy(node, replica_id, record.shard, acked.end)
            lost = replica_id in node.tainted  # it had the batch, as far as anybody can know
            having += lost or (copy is not None and i3_acked.holds(copy, acked.end, acked.chain))
        if having < record.min_in_sync and not known.excused:
            self.world.violate(
                "I3",
                f"{record.shard} acked up to {acked.end} with {having} copies, min_in_sync is"
                f" {record.min_in_sync}",
            )

    def _check_in_sync(self, known: _Shard) -> None:
        """I3, at every moment: each in-sync copy has all that was acked."""
        record = known.record
        copies = {}
        for member in record.in_sync:
            node = self.nodes[member.instance]
            if member.replica_id in node.tainted:
                continue
            copy = self._copy(node, member.replica_id, record.shard, known.acked.end)
            if copy is not None:
                copies[member.replica_id] = copy
        if not copies:
            self._excuse(known)
        if known.excused:
            return
        end, chain = known.acked.end, known.acked.chain
        for violation in i3_acked.check_in_sync(record, copies, end, chain):
            self.world.violate(violation.invariant, violation.text)

    def _excuse(self, known: _Shard) -> None:
        if not known.excused:
            shard = known.record.shard
            self.world.tell(f"{shard}: all in-sync copies lost power, loss is possible")
            known.excused = True

    def power_lost(self) -> None:
        """Look which shards may have lost what was acked: a learner may lead them next (P6)."""
        for known in self.shards.values():
            members = known.record.in_sync
            if all(m.replica_id in self.nodes[m.instance].tainted for m in members):
                self._excuse(known)

    # ---- disks -----------------------------------------------------------------------------------

    def _copy(self, node: SimNode, replica_id: int, shard: str, since: int) -> CopyState | None:
        """The part of a copy from the batch that ends at `since` on."""
        meta = node.engine.meta(replica_id)
        if meta is None:
            return None
        links: list[Link] = []
        for batch in reversed(node.engine.batches(replica_id)):
            links.append(_link(batch))
            if batch.end <= since:
                break
        return _state(node, meta, links[::-1])

    def copies(self) -> list[CopyState]:
        """Every copy on every disk."""
        return [
            _state(node, meta, [_link(b) for b in node.engine.batches(meta.replica_id)])
            for node in self.nodes.values()
            for meta in node.engine.replicas()
        ]

    def excused(self) -> frozenset[str]:
        return frozenset(shard for shard, known in self.shards.items() if known.excused)


def _link(batch: StoredBatch) -> Link:
    return Link(batch.base_offset, batch.end, batch.epoch, batch.chain_after)


def _state(node: SimNode, meta: ReplicaMeta, links: Sequence[Link]) -> CopyState:
    return CopyState(
        node.name, meta.replica_id, meta.shard, meta.base.end, meta.high_watermark, tuple(links)
    )
