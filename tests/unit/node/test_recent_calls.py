"""A real instance tells what it served and refused in the last seconds, when it is asked."""

from pathlib import Path

from logstore.proto.channel import open_channel
from logstore.proto.v1 import log_pb2, node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.support.nodes import append, batch_of, nodes

SHARD = "orders/0"


async def test_calls_served_and_refused_are_told_with_the_status(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1, ops_per_s_max=50.0) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        stub = n.log_stub("i1")
        async for _ in stub.Read(log_pb2.ReadRequest(shard=SHARD)):
            pass
        batches = [batch_of(SHARD, [b"k"] * 10, 0, 0, i) for i in range(1, 9)]
        results = await append(stub, batches)
        refused = sum(r.error.code == "overloaded" for r in results)
        assert refused
        async with open_channel(n.servers["i1"].address) as channel:
            admin = NodeAdminStub(channel)
            plain = await admin.Status(node_pb2.StatusRequest(shard=SHARD))
            assert not plain.replicas[0].HasField("recent")
            answer = await admin.Status(node_pb2.StatusRequest(shard=SHARD, recent_s=5.0))
        recent = answer.replicas[0].recent
        assert sum(recent.reads.values()) == 1
        assert sum(recent.appends.values()) == len(batches) - refused
        assert dict(recent.failed) == {"overloaded": refused}
        assert (recent.queue_bytes, recent.over_s > 0) == (0, True)
