"""The copies on all disks compared with the map: missing, orphaned or retired ones, and orders
about them (design note 0008). Every change is a transaction that compares what it was decided from.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from msgspec import UNSET
from msgspec.structs import replace

from coordinator.answers.catalog import (
    CopyRow,
    LogCount,
    RecoveryNote,
    RestoredLog,
    ShardCount,
)
from coordinator.catalog.catalog import Catalog
from coordinator.recovery.facts import FoundCopy, FoundInstance, decoded
from coordinator.recovery.plan import RecoveryPlan, make_plan
from logstore.base.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    LogstoreError,
    RefusedError,
    UnavailableError,
    UnknownInstanceError,
)
from logstore.meta.port import MetadataStore
from logstore.meta.records import Member, ShardRecord, mapping_log
from logstore.meta.tables import log_table, shard_table
from logstore.meta.tombstones import Order, bury
from logstore.proto.v1 import node_pb2
from sharder.keys import Partitioner

_log = structlog.get_logger(__name__)


class CopiesOf(Protocol):
    """Errors: `UnavailableError` when the instance cannot be reached; else the instance's error."""

    async def held(self, instance: str, log: str) -> node_pb2.CopiesResponse:
        """Every copy that the instance holds, of one log or (empty) of all."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """The answer of one instance; `error`: why there is none."""

    instance: str
    answer: node_pb2.CopiesResponse | None
    error: str = ""


def rows_of(held: Sequence[Held], shards: Sequence[ShardRecord], log: str = "") -> list[CopyRow]:
    """A row a copy, in the order of instances and replica ids. A copy that a record names and its
    instance does not have is `missing`; one on an instance that does not answer is `unknown`."""
    rows = []
    for one in held:
        infos = list(one.answer.copies) if one.answer is not None else []
        rows += [_row(one.instance, info) for info in infos]
        here = {info.replica_id for info in infos if info.state != "retired"}
        for shard in shards:
            member = shard.member_on(one.instance)
            if member is None or member.replica_id in here or (log and shard.log != log):
                continue
            state = "missing" if one.answer is not None else "unknown"
            rows.append(
                CopyRow(
                    instance=one.instance,
                    replica_id=member.replica_id,
                    shard=shard.shard,
                    state=state,
                    cause=one.error,
                )
            )
    return sorted(rows, key=lambda row: (row.instance, row.replica_id))


def _row(instance: str, info: node_pb2.CopyInfo) -> CopyRow:
    retired = info.state == "retired"
    return CopyRow(
        instance=instance,
        replica_id=info.replica_id,
        shard=info.shard,
        state=info.state,
        base=info.base,
        end=info.end,
        size_bytes=info.bytes,
        cause=info.cause,
        cluster=info.cluster,
        retired_us=info.retired_us if retired else UNSET,
        keep_until_us=info.keep_until_us if retired else UNSET,
    )


def _count(shard: ShardRecord, held: Held) -> ShardCount:
    primary, records, cause = shard.primary, None, held.error
    if held.answer is not None:
        copies = {(c.shard, c.replica_id): c for c in held.answer.copies if c.state != "retired"}
        found = copies.get((shard.shard, primary.replica_id))
        records = found.end - found.base if found is not None else None
        cause = "" if found is not None else f"{held.instance} has no copy of it yet"
    return ShardCount(shard=shard.shard, instance=primary.instance, records=records, cause=cause)


def found_copy(instance: str, info: node_pb2.CopyInfo) -> FoundCopy:
    """The copy in the form that recovery plans from."""
    record, log = decoded(info.shard_record, info.log_record)
    return FoundCopy(
        instance=instance,
        replica_id=info.replica_id,
        shard=info.shard,
        cluster=info.cluster,
        generation=info.generation,
        revision=info.revision,
        record=record,
        log=log,
        base=info.base,
        end=info.end,
        last_epoch=info.last_epoch or (record.epoch if record is not None else 0),
        size_bytes=info.bytes,
        retired=info.cause if info.state == "retired" else None,
        keep_until_us=info.keep_until_us,
    )


class CopiesAdmin:
    """Asks all instances, and changes the map of one store."""

    def __init__(self, store: MetadataStore, catalog: Catalog, nodes: CopiesOf) -> None:
        self._store, self._catalog, self._nodes = store, catalog, nodes

    async def held(self, log: str = "") -> list[Held]:
        """The copies of every registered instance."""
        names = [record.instance for record in await self._catalog.instances()]
        return list(await asyncio.gather(*(self._ask(name, log) for name in names)))

    async def _ask(self, instance: str, log: str) -> Held:
        try:
            return Held(instance, await self._nodes.held(instance, log))
        except LogstoreError as e:
            return Held(instance, None, e.message)

    async def shards(self) -> list[ShardRecord]:
        return await shard_table(self._store).all()

    async def list(self, instance: str = "", log: str = "") -> list[CopyRow]:
        """Every copy, or those of one instance."""
        held = await self.held(log)
        if instance and instance not in {one.instance for one in held}:
            raise UnknownInstanceError(f"instance {instance!r} is not registered")
        mine = [one for one in held if not instance or one.instance == instance]
        return rows_of(mine, await self.shards(), log)

    async def count(self, log: str) -> LogCount:
        """Records of each shard of a log: only the instances that lead one of them are asked."""
        shards = (await self._catalog.describe(log)).shards
        leading = sorted({s.primary.instance for s in shards})
        held = await asyncio.gather(*(self._ask(name, log) for name in leading))
        rows = [_count(s, held[leading.index(s.primary.instance)]) for s in shards]
        known = [row.records for row in rows if row.records is not None]
        return LogCount(
            log=log, records=sum(known), whole=len(known) == len(rows), shards=tuple(rows)
        )

    async def sizes(self, log: str) -> tuple[int | None, int | None]:
        """Records of the log and bytes of all its copies; None when an instance does not answer."""
        held = await self.held(log)
        shards = {s.shard: s for s in await self.shards() if s.log == log}
        if any(one.answer is None for one in held):
            return None, None
        records = size_bytes = 0
        for one in held:
            for info in one.answer.copies if one.answer is not None else ():
                shard = shards.get(info.shard)
                member = shard.member_on(one.instance) if shard is not None else None
                if shard is None or member is None or member.replica_id != info.replica_id:
                    continue
                size_bytes += info.bytes
                if shard.primary == member:
                    records += info.end - info.base
        return records, size_bytes

    # ---- orders --------------------------------------------------------------------------------

    async def discard(self, instance: str, replica_id: int, *, dry_run: bool = False) -> CopyRow:
        """Order the deletion of an orphan or a retired copy. `RefusedError` for a member."""
        row = await self._find(instance, replica_id)
        if dry_run:
            return row
        shards = shard_table(self._store)
        found = await shards.entry(row.shard)
        if found is not None and replica_id in {m.replica_id for m in found.record.members()}:
            raise RefusedError(_is_member(row))
        revision = found.revision if found is not None else 0
        order = Order(self._catalog.cluster, "discarded by hand", self._catalog.now_us(), 0.0)
        grave = bury(Member(instance, 0, replica_id), row.shard, revision, order)
        if not (await self._store.txn([shards.unchanged(row.shard, found)], [grave])).succeeded:
            raise ConflictError(f"shard {row.shard} changed meanwhile, try again")
        _log.warning("copy discarded", instance=instance, replica_id=replica_id, shard=row.shard)
        return row

    async def _find(self, instance: str, replica_id: int) -> CopyRow:
        rows = await self.list(instance)
        row = next((r for r in rows if r.replica_id == replica_id), None)
        if row is None:
            raise InvalidArgumentError(f"instance {instance} holds no copy {replica_id}")
        if row.state == "unknown":
            raise UnavailableError(f"instance {instance} does not answer: {row.cause}")
        if row.state in ("member", "missing"):
            raise RefusedError(_is_member(row))
        return row

    async def adopt(self, instance: str, replica_id: int, *, dry_run: bool = False) -> RestoredLog:
        """Bring an orphan's log back, with the copy; refused while its log is served."""
        row = await self._find(instance, replica_id)
        log = row.shard.rpartition("/")[0]
        if await log_table(self._store).entry(log) is not None:
            raise RefusedError(
                f"copy {replica_id} of {row.shard} cannot be adopted: log {log} is there and "
                "other copies hold its keys. Should this one hold what they lost: stop the cluster "
                "and run `logstore recover` over all data directories; else: logstore copies "
                f"discard {instance} {replica_id}"
            )
        plan = await self._plan(log)
        named = {m.replica_id for s in plan.shards for m in s.members()}
        if plan.logs and replica_id not in named:
            raise RefusedError(
                f"copy {replica_id} of {row.shard} cannot be adopted: it is no member by the "
                f"newest record; `logstore log restore {log}` brings the log back without it"
            )
        return await self._bring_back(log, plan, dry_run=dry_run)

    async def restore(self, log: str, *, dry_run: bool = False) -> RestoredLog:
        """Bring a deleted log back from the copies that are still kept, with a balanced log's
        mapping. `AlreadyExistsError` while a log of the name is there."""
        if await log_table(self._store).entry(log) is not None:
            raise AlreadyExistsError(f"log {log} exists: delete it first, or keep it")
        plan = await self._plan(log)
        told = await self._bring_back(log, plan, dry_run=dry_run)
        mapping = mapping_log(log)
        balanced = plan.logs[0].options.partitioner is Partitioner.BALANCED
        if balanced and await log_table(self._store).entry(mapping) is None:
            more = await self._bring_back(mapping, await self._plan(mapping), dry_run=dry_run)
            told = replace(told, told=told.told + more.told)
        return told

    async def _plan(self, log: str) -> RecoveryPlan:
        held = await self.held(log)
        known = {r.instance: r.incarnation for r in await self._catalog.instances()}
        return plan_of(log, held, known, self._catalog.cluster)

    async def _bring_back(self, log: str, plan: RecoveryPlan, *, dry_run: bool) -> RestoredLog:
        told = tuple(RecoveryNote(kind=t.kind, subject=t.subject, text=t.text) for t in plan.told)
        if not plan.logs:
            why = "; ".join(f"{t.subject}: {t.text}" for t in told) or "no copy of it is kept"
            raise RefusedError(f"log {log} cannot be brought back: {why}")
        answer = RestoredLog(
            log=log,
            shards=len(plan.shards),
            copies=sum(len(s.members()) for s in plan.shards),
            records=plan.records[log],
            told=told,
        )
        if not dry_run:
            await self._catalog.write_new(plan.logs[0], plan.shards)
            _log.warning("log brought back", log=log, shards=len(plan.shards))
        return answer


def plan_of(
    log: str, held: Sequence[Held], incarnations: Mapping[str, int], cluster: str
) -> RecoveryPlan:
    """The steps to bring the log back from the copies of the instances. Pure."""
    answers = [(one.instance, one.answer) for one in held if one.answer is not None]
    instances = [FoundInstance(name, cluster, incarnations.get(name, 0)) for name, _ in answers]
    copies = [found_copy(name, info) for name, answer in answers for info in answer.copies
              if info.shard.rpartition("/")[0] == log]  # fmt: skip
    if not copies:
        silent = [one.instance for one in held if one.answer is None]
        away = f"; not asked, as they do not answer: {', '.join(silent)}" if silent else ""
        raise RefusedError(f"no copy of log {log} is kept on any instance{away}")
    return make_plan(instances, copies, revive=True)


def _is_member(row: CopyRow) -> str:
    return (
        f"copy {row.replica_id} of {row.shard} on {row.instance} is a member of its shard:"
        " move it away, or drain the instance"
    )
