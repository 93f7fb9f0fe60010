"""coordinator.v1.Metadata over a MetadataStore: how instances reach an embedded store."""

from collections.abc import AsyncIterator

from coordinator.rpc_errors import Context, unary
from logstore.base.errors import UnavailableError
from logstore.meta.port import Compare, Delete, MetadataStore, Operation, Put, Versioned, WatchEvent
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MetadataServicer
from logstore.proto.status import served


class MetadataService(MetadataServicer):
    """Serves one store. Watches end with `unavailable` when the store is closed."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    @unary
    async def Get(self, request: pb.MetaGetRequest, context: Context) -> pb.MetaGetResponse:
        found = await self._store.get(request.key)
        return pb.MetaGetResponse(item=_item(found) if found is not None else None)

    @unary
    async def Range(self, request: pb.MetaRangeRequest, context: Context) -> pb.MetaRangeResponse:
        found = await self._store.range(request.prefix)
        return pb.MetaRangeResponse(
            items=[_item(item) for item in found.items], revision=found.revision
        )

    @unary
    async def Txn(self, request: pb.MetaTxnRequest, context: Context) -> pb.MetaTxnResponse:
        result = await self._store.txn(
            [Compare(c.key, c.revision) for c in request.compares],
            [_operation(operation) for operation in request.operations],
        )
        return pb.MetaTxnResponse(succeeded=result.succeeded, revision=result.revision)

    async def Watch(
        self, request: pb.MetaWatchRequest, context: Context
    ) -> AsyncIterator[pb.MetaWatchResponse]:
        async with served(context):
            yield pb.MetaWatchResponse(created=True)
            async for events in self._store.watch(request.prefix, request.after_revision):
                yield pb.MetaWatchResponse(events=[_event(event) for event in events])
            raise UnavailableError("the metadata store ended the watch")

    @unary
    async def LeaseGrant(self, request: pb.MetaLeaseGrantRequest, context: Context) -> pb.MetaLease:
        lease = await self._store.lease_grant(request.ttl_s)
        return pb.MetaLease(id=lease.id, ttl_s=lease.ttl_s)

    @unary
    async def LeaseKeepAlive(self, request: pb.MetaLeaseRequest, context: Context) -> pb.MetaLease:
        lease = await self._store.lease_keep_alive(request.id)
        return pb.MetaLease(id=lease.id, ttl_s=lease.ttl_s)

    @unary
    async def LeaseRevoke(
        self, request: pb.MetaLeaseRequest, context: Context
    ) -> pb.MetaLeaseRevokeResponse:
        await self._store.lease_revoke(request.id)
        return pb.MetaLeaseRevokeResponse()


def _item(found: Versioned) -> pb.MetaItem:
    return pb.MetaItem(key=found.key, value=found.value, revision=found.revision)


def _event(event: WatchEvent) -> pb.MetaItem:
    item = pb.MetaItem(key=event.key, revision=event.revision)
    if event.value is None:
        item.deleted = True
    else:
        item.value = event.value
    return item


def _operation(operation: pb.MetaOperation) -> Operation:
    if operation.HasField("put"):
        return Put(operation.key, operation.put, operation.lease)
    return Delete(operation.key)
