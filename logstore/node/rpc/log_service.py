"""LogService and RouteService of an instance: the calls of clients."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc.aio

from logstore.base.background import Background
from logstore.base.errors import (
    InvalidArgumentError,
    LogstoreError,
    OverloadedError,
    UnreadableBatchError,
)
from logstore.base.limits import BATCH_RECORDS_MAX, SHARD_QUEUE_BYTES_MAX
from logstore.base.types import Ack
from logstore.node.appends.writer import new_future
from logstore.node.instance.replica import Replica
from logstore.node.intake.appends import PendingAppend, check_batch, check_row_routing
from logstore.node.intake.callers import client_group
from logstore.node.reads import reads
from logstore.node.reads.answers import Query
from logstore.node.resources.availability import Purpose
from logstore.proto.status import detail_of, served
from logstore.proto.v1 import common_pb2, log_pb2
from logstore.proto.v1.log_pb2_grpc import LogServiceServicer, RouteServiceServicer
from profiler.types import OpType

if TYPE_CHECKING:
    from logstore.node.instance.instance import Instance

    Context = grpc.aio.ServicerContext[Any, Any]


class LogService(LogServiceServicer):
    """Appends and reads of the shards that have a copy here."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self._node = instance.node

    # ---- appends ---------------------------------------------------------------------------

    async def submit(self, message: log_pb2.AppendBatch) -> tuple[Replica, PendingAppend]:
        """Check and queue one batch; raises what is wrong with it."""
        replica = self._instance.replica(message.shard, message.created_us)
        if message.epoch > replica.epoch:
            await replica.await_epoch(message.epoch)
        append = check_batch(
            message, replica.record.range, replica.partitioner, new_future(), self._node.now_s()
        )
        if not message.forwarded:
            self._node.admission.admit(append.count, append.size, append.received_s)
        self._node.admission.store(append.size)
        replica.append_gate.submit(append)
        return replica, append

    async def AppendStream(
        self, request_iterator: AsyncIterator[log_pb2.AppendBatch], context: "Context"
    ) -> AsyncIterator[log_pb2.AppendResult]:
        stream = _AppendStream(self)
        reading = Background("an append stream")
        reader = reading.answer(stream.read(request_iterator))
        try:
            while (result := await stream.results.get()) is not None:
                yield result
            await reader
        finally:
            await reading.stop()

    async def Append(
        self, request: log_pb2.AppendRequest, context: "Context"
    ) -> log_pb2.AppendResponse:
        async with served(context):
            replica, append = self._unary(request)
            with self._failures(replica.shard, append):
                self._node.admission.admit(append.count, append.size, append.received_s)
                self._node.admission.store(append.size)
                await replica.await_epoch(request.epoch)
                replica.append_gate.submit(append)
                ack = await append.done
            self.count_append(replica.shard, append)
            return log_pb2.AppendResponse(
                shard=ack.shard,
                base_offset=ack.offset,
                count=ack.count,
                timestamp_us=ack.timestamp,
                duplicate=append.duplicate,
                version=ack.version,
            )
        raise AssertionError("served() ends the call")

    def _unary(self, request: log_pb2.AppendRequest) -> tuple[Replica, PendingAppend]:
        if not request.records:
            raise InvalidArgumentError("records is empty, an append holds at least 1 record")
        if request.HasField("expected_version") and len(request.records) != 1:
            raise InvalidArgumentError(
                f"expected_version is set on {len(request.records)} records, it is for 1 record"
            )
        if request.HasField("shard"):
            replica = self._instance.replica(request.shard)
        else:
            replica = self._instance.replica_of_key(request.log, request.records[0].key)
        message = log_pb2.AppendBatch(
            producer_id=request.producer_id,
            sequence=request.sequence,
            caller=request.caller,
            retry=request.retry,
        )
        if request.HasField("expected_version"):
            message.expected_version = request.expected_version
        rows = request.records
        append = PendingAppend.of_records(rows, message, new_future(), self._node.now_s())
        check_row_routing(rows, replica.record.range, replica.partitioner)
        return replica, append

    # ---- reads -----------------------------------------------------------------------------

    async def Read(
        self, request: log_pb2.ReadRequest, context: "Context"
    ) -> AsyncIterator[log_pb2.ReadResponse]:
        async with served(context):
            answering = self._first_answer(request.shard)
            with self._failures(request.shard, retry=request.retry), answering as answered:
                async for answer in self._read(request, tail=False):
                    answered()
                    yield answer

    async def Tail(
        self, request: log_pb2.TailRequest, context: "Context"
    ) -> AsyncIterator[log_pb2.ReadResponse]:
        async with served(context):
            with self._failures(request.read.shard, retry=request.read.retry):
                async for answer in self._read(request.read, tail=True):
                    yield answer

    @contextlib.contextmanager
    def _failures(
        self, shard: str, append: PendingAppend | None = None, *, retry: bool = False
    ) -> Iterator[None]:
        """Count failures that are ours."""
        try:
            yield
        except UnreadableBatchError as e:
            self.count_failure(shard, e, append, retry=retry)
            raise UnreadableBatchError(f"shard {shard}: {e.message}") from e
        except Exception as e:
            self.count_failure(shard, e, append, retry=retry)
            raise

    def count_failure(
        self,
        shard: str,
        error: BaseException,
        append: PendingAppend | None = None,
        *,
        count: int = 1,
        retry: bool = False,
    ) -> None:
        """Count an append, or `count` operations, that were not served; `retry`: they had been
        refused before."""
        replica = self._instance.replicas.get(shard)
        if replica is None or not isinstance(error, Exception):
            return
        if append is not None:
            count, retry = append.count, append.retry
        if append is None or not append.forwarded:  # else it is the primary's answer
            self._node.recent.failed(shard, error, self._node.now_s())
        elif isinstance(error, OverloadedError):
            return  # the primary has counted it
        by_event, count = replica.options.event_time, min(count, BATCH_RECORDS_MAX)
        self._node.reporter.failed(shard, by_event, error, count, retry)

    def count_append(self, shard: str, append: PendingAppend) -> None:
        now_s = self._node.now_s()
        self._node.recent.appended(shard, now_s - append.received_s, now_s)

    @contextlib.contextmanager
    def _first_answer(self, shard: str) -> Iterator[Callable[[], None]]:
        """Count a read once, when the first answer goes out, it ends, or its client gives it up."""
        node, counted = self._node, shard not in self._instance.replicas
        started_s = node.now_s()

        def answered() -> None:
            nonlocal counted
            if not counted:
                counted = True
                now_s = node.now_s()
                node.recent.read(shard, now_s - started_s, now_s)

        try:
            yield answered
        except Exception:
            counted = True  # as a failure
            raise
        finally:
            answered()

    async def _read(
        self, request: log_pb2.ReadRequest, tail: bool
    ) -> AsyncIterator[log_pb2.ReadResponse]:
        replica = self._instance.replica(request.shard, request.created_us)
        started_s = self._node.now_s()
        self._node.admission.admit(1, 0, started_s)
        await replica.await_epoch(request.epoch)
        wait_s = self._node.config.session_wait_s
        await reads.wait_for_settling(replica.copy, self._node, wait_s)
        replica.copy.check(Purpose.READ_LATEST if request.primary_only else Purpose.READ)
        await reads.wait_for_mark(replica.copy, self._node, request.min_high_watermark, wait_s)
        query = Query.of(request)
        op, by_event = _op_of(query, tail), replica.options.event_time
        count_read, group = self._node.reporter.read, client_group(request.caller)
        size = 0
        with replica.integrity.watching():
            async for answer in reads.read(replica.copy, self._node, query, tail):
                size += answer.bytes
                if tail:
                    count_read(replica.shard, by_event, op, answer.bytes, 0.0, None, group)
                yield answer.message
        took_s = self._node.now_s() - started_s
        key, retry = query.key, request.retry
        count_read(replica.shard, by_event, op, size, took_s, key, group, retry)


def _op_of(query: Query, tail: bool) -> OpType:
    if tail:
        return OpType.TAIL
    return OpType.KEY_READ if query.key is not None else OpType.SCAN


class _AppendStream:
    """One client's stream: results go out as they come, in order per shard.

    Reading stops while more bytes are unanswered than a shard's queue may hold (back-pressure).
    """

    def __init__(self, service: LogService) -> None:
        self._service = service
        self.results: asyncio.Queue[log_pb2.AppendResult | None] = asyncio.Queue()
        self._unanswered_bytes = 0
        self._unanswered = 0
        self._room = asyncio.Event()
        self._ended = False

    async def read(self, requests: AsyncIterator[log_pb2.AppendBatch]) -> None:
        """Take requests until the client has sent all; then the results' end when all are out."""
        try:
            async for message in requests:
                await self._take(message)
        finally:
            self._ended = True
            self._end_when_answered()

    async def _take(self, message: log_pb2.AppendBatch) -> None:
        size = len(message.payload)
        try:
            replica, append = await self._service.submit(message)
        except LogstoreError as e:
            self._service.count_failure(message.shard, e, count=message.count, retry=message.retry)
            self.results.put_nowait(
                log_pb2.AppendResult(id=message.id, shard=message.shard, error=detail_of(e))
            )
            return
        self._unanswered_bytes += size
        self._unanswered += 1

        def answered(future: "asyncio.Future[Ack]") -> None:
            self._unanswered_bytes -= size
            self._unanswered -= 1
            self._room.set()
            if not future.cancelled():
                if (error := future.exception()) is not None:
                    self._service.count_failure(message.shard, error, append)
                else:
                    self._service.count_append(message.shard, append)
                self.results.put_nowait(_result_of(message, append, replica))
            self._end_when_answered()

        append.done.add_done_callback(answered)
        while self._unanswered_bytes > SHARD_QUEUE_BYTES_MAX:
            self._room.clear()
            await self._room.wait()

    def _end_when_answered(self) -> None:
        if self._ended and self._unanswered == 0:
            self.results.put_nowait(None)


def _result_of(
    message: log_pb2.AppendBatch, append: PendingAppend, replica: Replica
) -> log_pb2.AppendResult:
    error = append.done.exception()
    if isinstance(error, LogstoreError):
        return log_pb2.AppendResult(id=message.id, shard=message.shard, error=detail_of(error))
    if error is not None:
        internal = LogstoreError(f"internal error: {type(error).__name__}: {error}")
        return log_pb2.AppendResult(id=message.id, shard=message.shard, error=detail_of(internal))
    ack = append.done.result()
    return log_pb2.AppendResult(
        id=message.id,
        shard=ack.shard,
        base_offset=ack.offset,
        count=ack.count,
        timestamp_us=ack.timestamp,
        duplicate=append.duplicate,
        version=ack.version,
        refresh_route=append.forwarded or message.epoch not in (0, replica.epoch),
    )


class InstanceRouteService(RouteServiceServicer):
    """Routes from this instance's copy of the map, so that clients go on without a coordinator."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance

    async def Routes(
        self, request: log_pb2.RoutesRequest, context: "Context"
    ) -> common_pb2.LogRoutes:
        async with served(context):
            return await self._instance.metadata_view.routes(request.log, request.newer_than)
        raise AssertionError("served() ends the call")
