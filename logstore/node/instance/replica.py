"""The edge of one copy: carries the replication machine's effects out and brings events in.

One loop owns it. Configuration arrives by `on_config` (a watch or our own compare-and-swap) and by
`read_config` (a linearizable read). Reads, pushes and pulls are in modules of their own.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import structlog

from logstore.base.background import Background
from logstore.base.errors import (
    CorruptStorageError,
    LogstoreError,
    StorageError,
    UnavailableError,
    UnknownShardError,
)
from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta
from logstore.engine.shard_log import ShardLog
from logstore.meta.records import (
    LogOptions,
    Member,
    ShardRecord,
)
from logstore.meta.shard_writes import change_shard
from logstore.meta.tables import shard_table
from logstore.meta.tombstones import Order
from logstore.node.appends.append_gate import AppendGate
from logstore.node.appends.writer import ShardWriter
from logstore.node.integrity.integrity import Integrity
from logstore.node.publish.publishing import Publishing
from logstore.node.replication.catch_up import CatchUpControl
from logstore.node.replication.marks import MarkKeeper
from logstore.node.replication.peer_senders import PeerSenders
from logstore.node.replication.pushes import PushIntake
from logstore.node.replication.receiver import Receiver
from logstore.node.resources.availability import Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import (
    Copy,
    CopyEvent,
    Created,
    DamageFound,
    Dropped,
    LogEnds,
    Pushed,
    Received,
)
from logstore.replication.events import (
    Assigned,
    Become,
    Cas,
    ConfigRead,
    Damaged,
    Effect,
    Event,
    HighWatermarkRose,
    Push,
    Role,
    SetAppendGate,
    StopPush,
    Tick,
    Written,
)
from logstore.replication.machine import ReplicationMachine
from sharder.keys import Partitioner

_log = structlog.get_logger(__name__)


def _mark_of(known: ReplicaMeta, end: Position) -> int:
    """The mark on the disk may be behind; what was trimmed was committed."""
    return min(max(known.high_watermark, known.base.end), end.end)


class Replica:
    """One copy of a shard on this instance."""

    def __init__(
        self,
        node: NodeContext,
        member: Member,
        record: ShardRecord,
        options: LogOptions,
        created_us: int = 0,
    ) -> None:
        """`created_us`: of the log; another log of its name has shards of the same names."""
        self.node = node
        self.shard = record.shard
        self.created_us = created_us
        self.member = member
        self.options = options
        self._tasks = Background(f"copy of {self.shard}", self._task_failed)
        self._leading = False
        self.log = ShardLog(node.engine, member.replica_id)
        known = self.log.meta()
        end = self.log.end() if known else Position()
        self.machine = ReplicationMachine(
            me=member,
            end=end,
            high_watermark=_mark_of(known, end) if known else 0,
            timing=node.config.timing(),
            loses_on_power=options.durability is Durability.OS,
            damaged=known is not None and bool(known.damage),
            tail_lost=known is not None and known.tail_lost,
            known_end=known.known_end if known else None,
            missing_from=known.missing_from if known else None,
        )
        self.copy = Copy(
            self.shard,
            self.log,
            options,
            self.machine,
            instance=node.instance,
            now_s=node.now_s,
            stale_s=node.config.follower_read_stale_s,
            report=self.report,
            spawn=self.spawn,
        )
        self.integrity = Integrity(self.copy, node, self.machine)
        self.writer = ShardWriter(
            shard=record.shard,
            log=self.log,
            options=options,
            wall_us=node.stamps.now_us,
            latest_us=node.stamps.latest_us,
            on_assigned=self._on_assigned,
            on_written=lambda end: self.handle(Written(end)),
            on_failed=self._on_write_failed,
            durability=options.durability,
        )
        self.receiver = Receiver(self.log, node.committer, options.durability)
        self.append_gate = AppendGate(self.copy, node, self.writer)
        self.peer_senders = PeerSenders(self.copy, node, self.machine, self.read_config)
        self.catch_up = CatchUpControl(self.copy, node, self.receiver, self.settled)
        self.pushes = PushIntake(
            self.copy,
            node,
            self.machine,
            self.receiver,
            self.catch_up,
            self.integrity,
            self.settled,
            self.read_config,
        )
        self.publishing = Publishing(self.copy, node)
        self.marks = MarkKeeper(self.copy, node)

    # ---- facts -------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return self.machine.role

    @property
    def epoch(self) -> int:
        return self.machine.epoch

    @property
    def high_watermark(self) -> int:
        return self.machine.high_watermark

    @property
    def record(self) -> ShardRecord:
        return self.copy.record

    @property
    def exists(self) -> bool:
        return self.copy.exists

    def serving(self) -> bool:
        """True when reads below the high watermark may be answered here (P8)."""
        return self.copy.availability(Purpose.SERVE).allowed

    @property
    def partitioner(self) -> Partitioner:
        return self.options.partitioner

    async def await_epoch(self, epoch: int) -> None:
        """P1: at a newer epoch than ours, read the metadata before anything else."""
        if epoch > self.epoch:
            await self.read_config()

    async def wait_change(self, timeout_s: float) -> None:
        """Return when high watermark, role or log end changed, or after `timeout_s`."""
        await self.copy.wait_change(timeout_s)

    def report(self, event: CopyEvent) -> None:
        """What a part of this copy found, or has done."""
        match event:
            case DamageFound(damage, offset):
                self._damaged(damage, offset)
            case Created():
                self.copy.exists = True
                if self.machine.record is not None:
                    self._acted()
            case Dropped():
                self.dropped()
            case Received(end, high_watermark):
                self.machine.adopt(min(high_watermark, end.end))
                self.handle(Written(end))
            case LogEnds(end):
                self.machine.truncated(end)
            case Pushed():
                self._pushed(event)
            case _:
                self.handle(event)

    def _pushed(self, event: Pushed) -> None:
        self.machine.adopt(min(event.high_watermark, event.matched.end))
        if event.settled and self.high_watermark >= event.high_watermark:
            self.copy.fresh_s = self.node.now_s()
        self.handle(Written(event.end))

    def _damaged(self, damage: str, offset: int | None) -> None:
        """This copy is damaged (from `offset` on, if that is known); the rest follows by itself."""
        if self.copy.damage:
            return
        _log.error("copy is damaged", shard=self.shard, role=self.role.value, error=damage)
        self.copy.damage = damage
        asyncio.get_running_loop().call_soon(self.handle, Damaged(offset))

    def dropped(self) -> None:
        """The copy of this learner is gone from the disk, until it is created again: no primary
        sends to it, and no call asks the disk for it."""
        self.copy.exists = False
        self.machine.emptied()
        self.receiver.matched = Position()
        self.copy.notify()

    def _acted(self) -> None:
        if self.exists:
            self.node.acted(self.shard, self.member.replica_id, self.record, self.machine.revision)

    # ---- machine -----------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Feed the machine and carry its effects out, in their order."""
        try:
            for effect in self.machine.handle(event, self.node.now_s()):
                self._carry_out(effect)
        except CorruptStorageError as e:  # what begins a term is read from the disk
            self._damaged(e.message, e.offset)
        if self.machine.settled():
            self.copy.fresh_s = self.node.now_s()
        self.copy.notify()

    def tick(self) -> None:
        self.handle(Tick())
        self.integrity.survey_if_due()
        self.marks.keep_if_due()

    def on_config(self, record: ShardRecord, revision: int) -> None:
        """A newer configuration was read (older ones are ignored)."""
        if revision > self.machine.revision and self._leads_at_once(record, revision):
            self.receiver.enter_term(record.primary_since)
            if self.role is not Role.PRIMARY and self.exists:
                self.machine.truncated(self.log.end())
            self.handle(ConfigRead(record, revision))
            self._acted()
            self.publishing.follow()
            self.writer.enter(self.epoch)
            if self.copy.is_sealed():
                self._end_at_seal()

    def _leads_at_once(self, record: ShardRecord, revision: int) -> bool:
        """False: this copy must lead while something is being written to it. Where its log ends is
        known only then, so the configuration is taken up as soon as that has landed (P4, S1)."""
        mine = record.primary.replica_id == self.member.replica_id
        if not mine or self.role is Role.PRIMARY:
            return True
        if not (self.writer.writing or self.receiver.writing):
            return True
        self.copy.landing += 1
        self.spawn(self._lead_later(record, revision), f"lead {self.shard}")
        return False

    async def _lead_later(self, record: ShardRecord, revision: int) -> None:
        try:
            await self.settled()
        finally:
            self.copy.landing -= 1
        self.on_config(record, revision)

    def _end_at_seal(self) -> None:
        """The shard has ended: what was held is answered, readers may go to the end (S1, S4)."""
        if self.copy.holds_seal():
            self.copy.notify()
        self.append_gate.settle_at_seal()

    async def read_config(self) -> None:
        """Read the configuration linearizably (G1, P6); raises UnavailableError."""
        found = await shard_table(self.node.store).entry(self.shard)
        if found is None:
            raise UnknownShardError(f"shard {self.shard} does not exist")
        self.on_config(found.record, found.revision)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Become(role, primary):
                self._become(role, primary)
            case SetAppendGate(is_open):
                self._admit(is_open)
            case HighWatermarkRose(high_watermark):
                acked = self.writer.commit(high_watermark)
                if acked:
                    received_s = [append.received_s for append in acked]
                    self.node.pace.latency.acked(self.node.now_s(), received_s)
                self.node.reporter.appended(self.shard, self.options.event_time, acked)
            case Cas():
                self.spawn(self._cas(effect), f"cas {self.shard}")
            case Push(member):
                self.peer_senders.push(member)
            case StopPush(replica_id):
                self.peer_senders.stop(replica_id)

    def _become(self, role: Role, primary: Member) -> None:
        _log.info(
            "role",
            shard=self.shard,
            role=role.value,
            epoch=self.epoch,
            primary=primary.instance,
            migration=self.machine.record.migration if self.machine.record else None,
        )
        if role is not Role.LEARNER:
            self.catch_up.stop()
        if role is Role.PRIMARY:
            self.append_gate.stop_forwarding()
            self.node.reporter.track(self.shard, self.options.event_time)
            return
        if self._leading:
            self._leading = False
            self.node.reporter.forget(self.shard, self.options.event_time)
            self.writer.stop(UnavailableError(f"shard {self.shard} moved, outcome unknown"))
            self.peer_senders.forget()
        if role is Role.LEARNER:
            self.catch_up.begin()
        self.append_gate.pass_on(role, primary)

    def _admit(self, is_open: bool) -> None:
        if is_open:
            self._forget_lost_tail()
        if is_open and not self._leading:
            self._leading = True
            self.writer.lead(self.epoch)
        if not is_open and self.writer.is_open:
            self.append_gate.hold()
        if is_open:
            self.append_gate.unhold()
        self.writer.set_open(is_open, self.high_watermark)
        if is_open:
            self.node.committer.wake(self.writer)

    def _forget_lost_tail(self) -> None:
        """The possible loss is in the metadata, and this copy leads: what it holds is the log."""
        meta = self.log.meta()
        if meta is not None and meta.tail_lost:
            self.log.set_meta(replace(meta, tail_lost=False))

    async def _cas(self, cas: Cas) -> None:
        """Carry one compare-and-swap to a known outcome (P3: a timeout is no outcome)."""
        while True:
            try:
                write = change_shard(self.record, cas.revision, cas.record, self._order(cas))
                result = await self.node.store.txn([write.compare], write.operations)
                if result.succeeded:
                    _log.info("configured", shard=self.shard, epoch=cas.record.epoch,
                              migration=cas.record.migration, why=cas.why)  # fmt: skip
                    self.on_config(cas.record, result.revision)
                    return
                await self.read_config()
                if self.copy.landing:
                    await self.settled()
            except UnknownShardError:
                return
            except UnavailableError as e:
                _log.warning("metadata unreachable", shard=self.shard, why=cas.why, error=e.message)
                await self.wait_change(self.node.config.retry_interval_s)
            if self.machine.revision > cas.revision:
                return

    def _order(self, cas: Cas) -> Order:
        """Why a copy is ordered away that the new record does not name any more (P9)."""
        return Order(self.node.cluster(), cas.why, self.node.env.clock.wall_us())

    # ---- the primary's data ------------------------------------------------------------------

    def _on_assigned(self, batches: list[StoredBatch]) -> bool:
        """Whether they are sent to peers, too."""
        sent = bool(self.peer_senders)
        self.peer_senders.remember(batches)
        last = batches[-1]
        self.handle(Assigned(Position(last.end, last.chain_after)))
        return sent

    def _on_write_failed(self, error: LogstoreError) -> None:
        _log.error("write failed", shard=self.shard, error=error.message)
        self.peer_senders.forget()
        end = self.log.end()
        for effect in self.machine.write_failed(end, self.node.now_s()):
            self._carry_out(effect)
        self.copy.notify()

    # ---- parts -------------------------------------------------------------------------------

    def fail(self, error: str) -> None:
        """Take this copy out of service: it must not be read or appended to again."""
        if self.copy.error is None:
            _log.error("replica out of service", shard=self.shard, error=error)
            self.copy.error = error
            self.writer.stop(UnavailableError(f"{error}, outcome unknown"))
            self.append_gate.refuse_held(StorageError(error))
            self.copy.notify()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that ends with this copy; an unexpected end is logged, never silent."""
        return self._tasks.start(work, name)

    def _task_failed(self, name: str, error: BaseException) -> None:
        _log.error("task failed", shard=self.shard, task=name, exc_info=error)
        if isinstance(error, StorageError):
            self.fail(str(error))
        elif not isinstance(error, LogstoreError):
            self.node.broken = f"{name}: {error!r}"

    async def settled(self) -> None:
        """Return when nothing is being written to this copy: where its log ends is known then.

        After `close` it may be deleted: a write to a copy that is gone would fail those of other
        shards in its group.
        """
        await self.writer.settled()
        await self.receiver.settled()
        await self.marks.settled()

    async def close(self, error: LogstoreError) -> None:
        """Stop everything of this copy; what has no offset yet gets `error`.

        What was sent to peers may be committed by the next primary: that is no refusal.
        """
        self.writer.stop(UnavailableError(f"{error.message}, outcome unknown"))
        self.append_gate.refuse_held(error)
        self.append_gate.stop_forwarding()
        await self._tasks.stop()
        self.marks.keep_now()
        self.copy.closed = True
        self.node.reporter.gone(self.shard, self.options.event_time)
        self.node.recent.forget(self.shard)
        self.copy.notify()
        self.copy.wake_readers()
