"""An instance's reports: its counts and its state, to each coordinator each period."""

import asyncio
import contextlib
import functools

from grpc.aio import Channel

from logstore.base.background import Background
from logstore.base.errors import StorageError, UnknownShardError
from logstore.node.instance.instance import Instance
from logstore.node.usage.loop_lag import LoopLag
from logstore.proto.coordinator_v1 import coordinator_pb2
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import StatisticsStub
from logstore.proto.handshake import MemberChannel
from logstore.proto.status import called
from logstore.proto.transport import Transport

REPORT_TIMEOUT_S = 5.0


class Reporter:
    """Reports until `run` is cancelled."""

    def __init__(self, instance: Instance, transport: Transport) -> None:
        self._instance, self._transport = instance, transport

    async def run(self) -> None:
        """A report to each coordinator each period; one that is away or slow holds up no other."""
        await self._instance.registration.decided(None)
        node, cluster = self._instance.node, self._instance.claim.cluster
        config, clock = node.config, node.env.clock
        sending, reports = Background("reports"), dict[str, asyncio.Task[None]]()
        last_s = clock.monotonic_s()
        lag = LoopLag(node.env)
        node.reporter.status(0, 1.0)  # the start's own cost is no load
        sending.start(lag.run())
        try:
            while True:
                now_s = clock.monotonic_s()
                elapsed_s = max(now_s - last_s, 1e-3)  # the first one comes at once
                throttled = node.admission.throttled
                stored = node.admission.stored_bytes = self.stored_bytes()
                status = node.reporter.status(stored, elapsed_s, throttled, lag.take())
                last_s = now_s
                for to in config.coordinators:
                    if to not in reports or reports[to].done():
                        channel = MemberChannel(self._transport.channel(to), cluster)
                        send = functools.partial(_send, channel)
                        reports[to] = sending.start(
                            node.reporter.report(send, node.incarnation, status, to)
                        )
                await asyncio.sleep(config.report_interval_s)
        finally:
            await sending.stop()

    def stored_bytes(self) -> int:
        """Of all copies on the disk: orphans and retired ones take space too. What each served
        copy has is noted for its own statistics."""
        node = self._instance.node
        stored, by_shard = sum(copy.bytes_stored for copy in node.engine.retired()), {}
        for meta in node.engine.replicas():
            with contextlib.suppress(StorageError, UnknownShardError):  # retired meanwhile
                size = node.engine.bytes_stored(meta.replica_id)
                stored += size
                if meta.shard in self._instance.replicas:
                    by_shard[meta.shard] = size
        node.reporter.stored(by_shard)
        return stored


async def _send(
    channel: Channel, request: coordinator_pb2.ReportRequest
) -> coordinator_pb2.ReportResponse:
    async with called():
        return await StatisticsStub(channel).Report(request, timeout=REPORT_TIMEOUT_S)
    raise AssertionError("called() ends the call")
