"""Members name their cluster and the one they mean; a call for another does nothing (P11)."""

from pathlib import Path

import pytest

from logstore.base.errors import WrongClusterError
from logstore.meta.records import CLUSTER_ID
from logstore.proto.channel import open_channel
from logstore.proto.handshake import MemberChannel
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub, PeerServiceStub
from tests.support.nodes import nodes


@pytest.mark.parametrize(
    ("cluster", "to", "meant"),
    [("ours", "i1", True), ("ours", "", True), ("another", "i1", False), ("ours", "i2", False)],
)
async def test_a_call_that_means_somebody_else_is_refused(
    tmp_path: Path, cluster: str, to: str, meant: bool
) -> None:
    async with nodes(tmp_path, 1) as n:
        found = await n.store.get(CLUSTER_ID)
        assert found is not None
        said = found.value.decode() if cluster == "ours" else "another"
        async with MemberChannel(open_channel(n.servers["i1"].address), said, to) as channel:
            ping = node_pb2.PingRequest(instance="i9")
            feed = node_pb2.FeedRequest(shard="no/0")
            if meant:
                answer = await PeerServiceStub(channel).Ping(ping, timeout=5)
                assert answer.instance == "i1"
                return
            for call in (
                PeerServiceStub(channel).Ping(ping, timeout=5),
                NodeAdminStub(channel).Status(node_pb2.StatusRequest(), timeout=5),
                anext(aiter(PeerServiceStub(channel).Feed(feed, timeout=5))),
            ):
                with pytest.raises(WrongClusterError, match="the caller"):
                    async with called():
                        await call
