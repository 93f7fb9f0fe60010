"""AccessService: the sampled accesses that this instance keeps."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pyarrow as pa

from logstore.node.resources.context import NodeContext
from logstore.node.statistics.access_sampler import Wanted
from logstore.proto.status import served
from logstore.proto.v1 import accesses_pb2
from logstore.proto.v1.accesses_pb2_grpc import AccessServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class AccessService(AccessServiceServicer):
    """Reads the reporter's samples."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node

    async def Read(
        self, request: accesses_pb2.AccessesRequest, context: Context
    ) -> AsyncIterator[accesses_pb2.AccessesPart]:
        async with served(context):
            sampler = self._node.reporter.accesses
            wanted = Wanted(
                request.log,
                request.key if request.HasField("key") else None,
                request.start,
                request.end if request.HasField("end") else None,
                request.since_us,
                request.token_bytes,
            )
            for part in sampler.parts(wanted):
                yield self._part(stream_of(part))
            yield self._part(b"")

    def _part(self, arrow: bytes) -> accesses_pb2.AccessesPart:
        sampler = self._node.reporter.accesses
        return accesses_pb2.AccessesPart(
            instance=self._node.instance,
            arrow=arrow,
            rate=sampler.rate,
            offered=sampler.offered_count,
        )


def stream_of(batch: pa.RecordBatch) -> bytes:
    """The batch as a complete Arrow IPC stream, compressed."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
