"""After the faults: copies equal, the history valid, the metadata's history valid."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from logstore.base.errors import ConflictError, LogstoreError
from logstore.client.pages import page_of
from logstore.meta.records import SHARDS, decode_shard
from logstore.proto.status import called
from logstore.proto.v1 import log_pb2, node_pb2
from logstore.proto.v1.log_pb2_grpc import LogServiceStub
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.cluster.cluster import INSTANCES, Cluster, NotConverged, eventually
from tests.cluster.load import Load
from tests.support.checkers import i1_cover, i2_one_writer, i4_same_bytes
from tests.support.checkers.history import MetadataTxn, ReadCall, Row, Violation
from tests.support.history import anomalies
from tests.support.history.record import Story, load

VERIFY_TIMEOUT_S = 60.0


class MetadataWatch:
    """Every change of the metadata since the start, for I1 and I2's rule of epochs (P1)."""

    def __init__(self, cluster: Cluster) -> None:
        self._store = cluster.store
        self.txns: list[MetadataTxn] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        found = await self._store.range("/")
        self.txns.append(
            MetadataTxn(time.monotonic(), "", {}, {i.key: i.value for i in found.items},
                        found.revision)
        )  # fmt: skip
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                async for events in self._store.watch("/", self.txns[-1].revision):
                    written = {e.key: e.value for e in events}
                    self.txns.append(
                        MetadataTxn(time.monotonic(), "", {}, written, events[-1].revision)
                    )
            except ConflictError:
                raise
            except LogstoreError:
                await asyncio.sleep(0.1)

    async def check(self, log: str) -> list[Violation]:
        """Once every change so far was seen."""
        revision = max(
            (i.revision for i in (await self._store.range(f"{SHARDS}{log}/")).items), default=0
        )

        async def all_seen() -> None:
            if self._task is not None and self._task.done():
                await self._task
            if self.txns[-1].revision < revision:
                raise NotConverged(f"the watch is at {self.txns[-1].revision} of {revision}")

        await eventually(all_seen, 20.0)
        return i1_cover.check(self.txns) + i2_one_writer.check_epochs(self.txns)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def primaries(self, log: str) -> Counter[str]:
        """How often each instance became a primary of a shard of the log, for the story."""
        found: Counter[str] = Counter()
        for txn in self.txns:
            for key, value in txn.written.items():
                if key.startswith(f"{SHARDS}{log}/") and value is not None:
                    record = decode_shard(value)
                    found[record.primary.instance] += record.epoch == record.primary_since
        return found


@dataclass(slots=True)
class Verdict:
    """What was found, and over how much."""

    violations: list[Violation] = field(default_factory=list)
    acked: int = 0
    stored: int = 0
    reads: int = 0
    polled: int = 0

    def sentence(self) -> str:
        kinds = anomalies.summary(self.violations)
        lost = kinds.get("lost-write", 0)
        twice = kinds.get("duplicate", 0)
        order = sum(kinds.get(n, 0) for n in ("reordered-send", "nonmonotonic-poll", "skip"))
        what = f"{lost} lost, {twice} duplicated, {order} out of order"
        rest = ", ".join(f"{n} {count}" for n, count in kinds.items()) or "no anomaly"
        return (f"{what} of {self.acked} acked ({self.stored} stored, {self.reads} reads, "
                f"{self.polled} polled rows): {rest}")  # fmt: skip


async def judge(cluster: Cluster, load_: Load, watch: MetadataWatch) -> tuple[Verdict, Story]:
    """The load must have finished. Copies first, then the final read, then everything written."""
    violations = await compare_chains(cluster, load_.log)
    final = await load_.final_rows()
    copies = [await copy_rows(cluster, i, load_.log) for i in INSTANCES]
    violations += i4_same_bytes.check_reads(copies, final)
    for copy in copies:
        if len(copy.rows) != len(final):
            text = f"{copy.client} holds {len(copy.rows)} records, the log has {len(final)}"
            violations.append(Violation("I4", text))
    violations += await watch.check(load_.log)
    story = await asyncio.to_thread(load, load_.recorder.path)
    violations += await asyncio.to_thread(anomalies.check, story)
    violations += await asyncio.to_thread(anomalies.porcupined, story)
    polled = sum(len(p.rows) for polls in story.polls.values() for p in polls)
    return Verdict(violations, load_.counts.acked, len(final), len(story.reads), polled), story


async def compare_chains(cluster: Cluster, log: str) -> list[Violation]:
    """I4, I8: every copy, recomputed from its disk, has the same end and chain."""

    async def same_ends() -> dict[str, set[tuple[int, int]]]:
        ends: dict[str, set[tuple[int, int]]] = {}
        for name in INSTANCES:
            for s in await cluster.status(name, log):
                ends.setdefault(s.shard, set()).add((s.end, s.high_watermark))
        uneven = {s: e for s, e in ends.items() if len(e) > 1 or any(a != b for a, b in e)}
        if uneven:
            raise NotConverged(f"ends and high watermarks differ: {uneven}")
        return ends

    ends = await eventually(same_ends, 30.0)
    found = []
    for shard, record in (await cluster.shards(log)).items():
        ((end, _),) = ends[shard]
        chains = {}
        for member in record.in_sync:
            request = node_pb2.VerifyChainRequest(
                shard=shard, replica_id=member.replica_id, stop_offset=end, recompute=True
            )
            stub = NodeAdminStub(cluster.channels[member.instance])
            async with called():
                answer = await stub.VerifyChain(request, timeout=VERIFY_TIMEOUT_S)
            chains[member.instance] = answer.chain.hex()
        if len(set(chains.values())) > 1 or len(chains) != len(INSTANCES):
            found.append(Violation("I4", f"{shard} differs below {end}: {chains}"))
    return found


async def copy_rows(cluster: Cluster, instance: str, log: str) -> ReadCall:
    """All that one instance's own copies hold below their high watermarks."""
    stub = cast("Any", LogServiceStub(cluster.channels[instance]))
    began_s = time.monotonic()
    rows: list[Row] = []
    for shard in sorted(await cluster.shards(log)):
        async with called():
            async for answer in stub.Read(log_pb2.ReadRequest(shard=shard), timeout=60.0):
                records = page_of(answer).records()
                rows += [Row(r.shard, r.offset, r.key, r.value, 0) for r in records]
    return ReadCall(f"the copy on {instance}", None, began_s, time.monotonic(), rows)
