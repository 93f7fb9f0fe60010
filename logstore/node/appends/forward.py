"""Appends that arrive where the shard is not led, forwarded in order to the primary (H3).

Used by the target during the ramp (clients exercise the path) and by the source after the cutover
(held appends, and those that still come by old routes). Producer id and sequence go with each, so a
retry through another way is stored once.
"""

import asyncio

import google_crc32c
import grpc.aio

from logstore.base.background import Background
from logstore.base.errors import LogstoreError, UnavailableError
from logstore.base.types import Ack
from logstore.engine.batch import encode_payload
from logstore.node.intake.appends import PendingAppend
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy
from logstore.proto.status import called, error_of
from logstore.proto.v1 import log_pb2
from logstore.proto.v1.log_pb2_grpc import LogServiceStub


class Forwarder:
    """One ordered stream of forwarded appends from this copy to the instance that leads."""

    def __init__(self, copy: Copy, node: NodeContext, target: str) -> None:
        self._copy, self._node, self._target = copy, node, target
        self._queue: asyncio.Queue[PendingAppend | None] = asyncio.Queue()
        self._sent: dict[int, PendingAppend] = {}
        self._next_id = 1
        self._closed = False
        self.waiting_bytes = 0
        """Of appends without an answer."""

    def submit(self, append: PendingAppend) -> None:
        """Send `append` on; its future gets the other side's answer."""
        if self._closed:
            raise UnavailableError(f"forwarding to {self._target} ended")
        held = append.held_bytes

        def answered(_: "asyncio.Future[Ack]") -> None:
            self.waiting_bytes -= held

        self.waiting_bytes += held
        append.done.add_done_callback(answered)
        self._queue.put_nowait(append)

    def close(self) -> None:
        """Take no more; what was sent may still be answered until the stream ends."""
        self._closed = True
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Send until closed; a broken stream fails what is on it (its outcome is unknown)."""
        ended = False
        try:
            while not ended:
                try:
                    async with called():
                        ended = await self._session()
                except LogstoreError as e:
                    self._fail_sent(UnavailableError(f"forwarding to {self._target}: {e.message}"))
                    ended = self._closed and self._queue.empty()
        finally:
            self._closed = True
            self._fail_sent(UnavailableError(f"forwarding to {self._target} ended"))
            while not self._queue.empty():
                left = self._queue.get_nowait()
                if left is not None and not left.done.done():
                    left.done.set_exception(UnavailableError("forwarding ended, send again"))

    async def _session(self) -> bool:
        first = await self._queue.get()
        if first is None:
            return True
        message: log_pb2.AppendBatch | None = self._message(first)  # it is answered from here on
        stub = LogServiceStub(self._node.channel_to(self._target))
        call: grpc.aio.StreamStreamCall[log_pb2.AppendBatch, log_pb2.AppendResult]
        call = stub.AppendStream()
        reading = Background("answers to what was forwarded")
        answers = reading.answer(self._read_answers(call))
        try:
            while message is not None:
                await call.write(message)
                append = await self._queue.get()
                message = self._message(append) if append is not None else None
            await call.done_writing()
            await answers
            return True
        finally:
            call.cancel()
            await reading.stop()

    def _message(self, append: PendingAppend) -> log_pb2.AppendBatch:
        message = log_pb2.AppendBatch()
        if append.request is not None:
            message.CopyFrom(append.request)
        else:
            message.shard = self._copy.shard
            message.producer_id, message.sequence = append.producer_id, append.sequence
            message.count, message.flags = append.count, append.flags
            message.payload = append.payload or encode_payload(append.batch)
            message.crc32c = google_crc32c.value(message.payload)
            message.retry = append.retry
            if append.expected_version is not None:
                message.expected_version = append.expected_version
        message.id, self._next_id = self._next_id, self._next_id + 1
        message.epoch = self._copy.epoch
        message.forwarded = True
        self._sent[message.id] = append
        return message

    async def _read_answers(
        self, call: "grpc.aio.StreamStreamCall[log_pb2.AppendBatch, log_pb2.AppendResult]"
    ) -> None:
        async for answer in call:
            append = self._sent.pop(answer.id, None)
            if append is None or append.done.done():
                continue
            append.forwarded = True
            if answer.HasField("error"):
                append.done.set_exception(error_of(answer.error))
                continue
            append.duplicate = answer.duplicate
            version = answer.version if answer.HasField("version") else None
            append.done.set_result(
                Ack(answer.shard, answer.base_offset, answer.timestamp_us, answer.count, version)
            )

    def _fail_sent(self, error: LogstoreError) -> None:
        for append in self._sent.values():
            append.refuse(error)
        self._sent.clear()
