"""One long-lived append stream to one instance, shared by all lanes that send there."""

import asyncio
import contextlib
from collections import deque
from typing import Any, Protocol, cast

import grpc
import grpc.aio

from logstore.base.background import end
from logstore.base.errors import InvalidArgumentError, LogstoreError, UnavailableError
from logstore.client.lane import LaneEntry
from logstore.client.lifetime import Lifetime
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2, log_pb2_grpc


class Owner(Protocol):
    """The sender of a batch, which gets its outcome."""

    def on_result(self, entry: LaneEntry, result: log_pb2.AppendResult) -> None: ...

    def on_broken(self, stream: "AppendStream", error: LogstoreError) -> None:
        """The stream is gone; no more answers come for any batch sent on it. An error that is
        not retriable would come again: another stream is of no use."""
        ...


class AppendStream:
    """Writes queued batches in order, one message at a time; hands results to their owners.

    The windows of the lanes bound the queue. When the stream breaks, every owner that
    sent on it is notified once, and the stream is never used again.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._write_error: LogstoreError | None = None
        self.address = address
        self.closed = False
        self._stub = cast("Any", log_pb2_grpc.LogServiceStub(channel))
        self._outbox: deque[log_pb2.AppendBatch] = deque()
        self._wake = asyncio.Event()
        self._sent: dict[int, tuple[Owner, LaneEntry]] = {}
        self._owners: dict[Owner, None] = {}
        self._next_id = 1
        self._task = lifetime.spawn(self._run(), self._ended)

    def send(self, owner: Owner, entry: LaneEntry, message: log_pb2.AppendBatch) -> None:
        """Queue a batch; its `id` is set here."""
        message.id = self._next_id
        self._next_id += 1
        self._sent[message.id] = (owner, entry)
        self._owners[owner] = None
        self._outbox.append(message)
        self._wake.set()

    def forget(self, owner: Owner) -> None:
        """The owner left: it ignores later answers to its batches."""
        gone = {number for number, (one, _) in self._sent.items() if one is owner}
        for number in gone:
            del self._sent[number]
        kept = [message for message in self._outbox if message.id not in gone]
        self._outbox.clear()
        self._outbox.extend(kept)
        self._owners.pop(owner, None)

    async def close(self) -> None:
        self.closed = True
        await end(self._task)

    async def _run(self) -> None:
        call = self._stub.AppendStream()
        leaving = False

        def written(_: "asyncio.Task[None]", error: LogstoreError | None) -> None:
            if error is not None and not leaving:
                self._write_error = error
                call.cancel()  # nothing more is sent, so no more answers come

        writer = self._lifetime.spawn(self._write(call), written)
        try:
            while (result := await call.read()) is not grpc.aio.EOF:
                sent = self._sent.pop(result.id, None)
                if sent is not None:
                    sent[0].on_result(sent[1], result)
            await call.code()
        except grpc.aio.AioRpcError as e:
            error = from_rpc(e)
            if isinstance(error, InvalidArgumentError):
                raise error from None
            raise UnavailableError(f"append stream to {self.address}: {error.message}") from None
        finally:
            leaving = True
            call.cancel()
            await end(writer)

    def _ended(self, _: "asyncio.Task[None]", error: LogstoreError | None) -> None:
        """Owners hear of it in the same turn of the loop in which `closed` shows, so none of them
        can send elsewhere while batches of its own still count as in flight here."""
        self.closed = True
        self._sent.clear()
        self._outbox.clear()
        error = self._write_error or error
        error = error or UnavailableError(f"{self.address} ended the append stream")
        for owner in list(self._owners):
            owner.on_broken(self, error)

    async def _write(self, call: Any) -> None:
        """A failed write adds nothing to what the reader learns; it just ends."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.RpcError):
            while True:
                while self._outbox:
                    await call.write(self._outbox.popleft())
                self._wake.clear()
                await self._wake.wait()
