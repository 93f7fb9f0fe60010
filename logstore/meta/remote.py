"""The MetadataStore of another process, over coordinator.v1.Metadata.

Given several addresses, it talks to one and turns to the next when that one cannot be reached.
Reads are tried once at each address. A transaction is sent once: when the connection is lost its
outcome is unknown (UnavailableError), and the caller resolves it by reading.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from logstore.base.errors import ConfigError, UnavailableError
from logstore.base.tls import TlsOptions
from logstore.meta.memory import check_txn
from logstore.meta.port import (
    Compare,
    Lease,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    Versioned,
    WatchEvent,
)
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MetadataStub
from logstore.proto.status import called
from logstore.proto.transport import GrpcTransport, Transport

if TYPE_CHECKING:
    from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MetadataAsyncStub

CALL_TIMEOUT_S = 5.0
_A = TypeVar("_A")


class RemoteMetadataStore:
    """A client of a coordinator's metadata. `addresses` are `host:port`."""

    def __init__(
        self,
        addresses: Sequence[str],
        tls: TlsOptions | None = None,
        *,
        transport: Transport | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        """`transport`: who passes it closes it; None: one of its own, over `tls`."""
        if not addresses:
            raise ConfigError("metadata addresses is empty, at least 1 host:port is needed")
        self._addresses = tuple(addresses)
        self._owned = transport is None
        self._transport: Transport = GrpcTransport(tls) if transport is None else transport
        self._timeout_s = call_timeout_s
        self._at = 0
        self._closed = False

    async def get(self, key: str) -> Versioned | None:
        request = pb.MetaGetRequest(key=key)
        answer = await self._read(lambda stub: stub.Get(request, timeout=self._timeout_s))
        return _versioned(answer.item) if answer.HasField("item") else None

    async def range(self, prefix: str) -> RangeResult:
        request = pb.MetaRangeRequest(prefix=prefix)
        answer = await self._read(lambda stub: stub.Range(request, timeout=self._timeout_s))
        return RangeResult(tuple(_versioned(item) for item in answer.items), answer.revision)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        check_txn(compares, operations)
        request = pb.MetaTxnRequest(
            compares=[pb.MetaCompare(key=c.key, revision=c.revision) for c in compares],
            operations=[
                pb.MetaOperation(key=op.key, put=op.value, lease=op.lease)
                if isinstance(op, Put)
                else pb.MetaOperation(key=op.key)
                for op in operations
            ],
        )
        answer = await self._once(lambda stub: stub.Txn(request, timeout=self._timeout_s))
        return TxnResult(answer.succeeded, answer.revision)

    async def watch(
        self, prefix: str, after_revision: int
    ) -> AsyncIterator[tuple[WatchEvent, ...]]:
        """See the port; ends with UnavailableError when the connection is lost.

        The caller goes on with a new watch after the last revision it saw.
        """
        at = self._at
        call = self._stub().Watch(pb.MetaWatchRequest(prefix=prefix, after_revision=after_revision))
        try:
            async with called():
                async for message in call:
                    if message.events:
                        yield tuple(
                            WatchEvent(i.key, None if i.deleted else i.value, i.revision)
                            for i in message.events
                        )
            raise UnavailableError(f"the watch of {prefix!r} was ended by the other side")
        except UnavailableError:
            self._turn(at)
            raise
        finally:
            call.cancel()

    async def lease_grant(self, ttl_s: float) -> Lease:
        request = pb.MetaLeaseGrantRequest(ttl_s=ttl_s)
        answer = await self._once(lambda stub: stub.LeaseGrant(request, timeout=self._timeout_s))
        return Lease(answer.id, answer.ttl_s)

    async def lease_keep_alive(self, lease: int) -> Lease:
        request = pb.MetaLeaseRequest(id=lease)
        answer = await self._once(
            lambda stub: stub.LeaseKeepAlive(request, timeout=self._timeout_s)
        )
        return Lease(answer.id, answer.ttl_s)

    async def lease_revoke(self, lease: int) -> None:
        request = pb.MetaLeaseRequest(id=lease)
        await self._once(lambda stub: stub.LeaseRevoke(request, timeout=self._timeout_s))

    async def close(self) -> None:
        self._closed = True
        if self._owned:
            await self._transport.close()

    async def _read(self, call: Callable[["MetadataAsyncStub"], Awaitable[_A]]) -> _A:
        """Reading changes nothing, so every address may be tried before giving up."""
        for _ in self._addresses[1:]:
            try:
                return await self._once(call)
            except UnavailableError:
                continue
        return await self._once(call)

    async def _once(self, call: Callable[["MetadataAsyncStub"], Awaitable[_A]]) -> _A:
        at = self._at
        try:
            async with called():
                return await call(self._stub())
        except UnavailableError:
            self._turn(at)
            raise

    def _stub(self) -> "MetadataAsyncStub":
        if self._closed:
            raise UnavailableError("the metadata client is closed")
        return MetadataStub(self._transport.channel(self._addresses[self._at]))

    def _turn(self, failed: int) -> None:
        """The next address, unless another call turned already."""
        if self._at == failed:
            self._at = (failed + 1) % len(self._addresses)


def _versioned(item: pb.MetaItem) -> Versioned:
    return Versioned(item.key, item.value, item.revision)
