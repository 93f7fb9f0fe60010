"""After a scenario: copies equal, the history valid, the metadata's history valid.

As `tests.cluster.judge`, for a log whose copies are on some of the instances; the checkers, the
verdict and the watch of the metadata are the same.
"""

import asyncio
import time
from functools import partial
from typing import Any, cast

from logstore.client.pages import page_of
from logstore.proto.status import called
from logstore.proto.v1 import log_pb2, node_pb2
from logstore.proto.v1.log_pb2_grpc import LogServiceStub
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.cluster.cluster import NotConverged, eventually
from tests.cluster.judge import VERIFY_TIMEOUT_S, MetadataWatch, Verdict
from tests.cluster.load import Load
from tests.compose.stack import COPIES, Stack
from tests.support.checkers import i4_same_bytes
from tests.support.checkers.history import ReadCall, Row, Violation
from tests.support.history import anomalies
from tests.support.history.record import Story, load


async def judge(stack: Stack, load_: Load, watch: MetadataWatch) -> tuple[Verdict, Story]:
    """The load must have finished and the log converged."""
    violations = []
    for shard in await stack.shards(load_.log):
        violations += await eventually(partial(compare, stack, shard), 60.0)
    final = await load_.final_rows()
    for record in (await stack.shards(load_.log)).values():
        wanted = sum(row.shard == record.shard for row in final)
        for member in record.in_sync:
            copy = await copy_rows(stack, member.instance, record.shard)
            violations += i4_same_bytes.check_reads([copy], final)
            if len(copy.rows) != wanted:
                text = f"{copy.client} holds {len(copy.rows)} records, the log has {wanted}"
                violations.append(Violation("I4", text))
    violations += await watch.check(load_.log)
    story = await asyncio.to_thread(load, load_.recorder.path)
    violations += await asyncio.to_thread(anomalies.check, story)
    polled = sum(len(p.rows) for polls in story.polls.values() for p in polls)
    return Verdict(violations, load_.counts.acked, len(final), len(story.reads), polled), story


async def compare(stack: Stack, shard: str) -> list[Violation]:
    """I4, I8: every copy of the shard, recomputed from its disk, has the same end and chain.
    NotConverged while a copy is not in sync: on a busy machine one may have been silent."""
    record = (await stack.shards(shard.rpartition("/")[0]))[shard]
    if len(record.in_sync) != COPIES:
        raise NotConverged(f"{shard} has {len(record.in_sync)} copies in sync")

    async def same_end() -> int:
        ends = set()
        for member in record.in_sync:
            for s in await stack.status(member.instance, record.log):
                if s.shard == record.shard:
                    ends |= {s.end, s.high_watermark}
        if len(ends) != 1:
            raise NotConverged(f"{record.shard}: ends and high watermarks differ: {ends}")
        return ends.pop()

    end = await eventually(same_end, 30.0)
    chains = {}
    for member in record.in_sync:
        request = node_pb2.VerifyChainRequest(
            shard=record.shard, replica_id=member.replica_id, stop_offset=end, recompute=True
        )
        async with called():
            stub = NodeAdminStub(stack.channel(member.instance))
            answer = await stub.VerifyChain(request, timeout=VERIFY_TIMEOUT_S)
        chains[member.instance] = answer.chain.hex()
    if len(set(chains.values())) == 1:
        return []
    return [Violation("I4", f"{record.shard} differs below {end}: {chains}")]


async def copy_rows(stack: Stack, instance: str, shard: str) -> ReadCall:
    """All that one instance's own copy of a shard holds below its high watermark."""
    stub = cast("Any", LogServiceStub(stack.channel(instance)))
    began_s = time.monotonic()
    rows: list[Row] = []
    async with called():
        async for answer in stub.Read(log_pb2.ReadRequest(shard=shard), timeout=60.0):
            rows += [Row(r.shard, r.offset, r.key, r.value, 0) for r in page_of(answer).records()]
    name = f"the copy of {shard} on {instance}"
    return ReadCall(name, None, began_s, time.monotonic(), rows)
