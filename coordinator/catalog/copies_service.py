"""The calls of coordinator.v1.Catalog about copies on disks, deleted logs and retired
instances."""

from coordinator.catalog.copies import CopiesAdmin
from coordinator.catalog.retiring import Retiring
from coordinator.rpc_errors import Context, answered, unary
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogServicer


class CopiesService(CatalogServicer):
    """The calls of `Copies` and `Retiring`."""

    def __init__(self, copies: CopiesAdmin, retiring: Retiring) -> None:
        self.copies, self._retiring = copies, retiring

    @unary
    async def RestoreLog(self, request: pb.RestoreLogRequest, context: Context) -> pb.JsonResponse:
        return answered(await self.copies.restore(request.name, dry_run=request.dry_run))

    @unary
    async def CountRecords(
        self, request: pb.CountRecordsRequest, context: Context
    ) -> pb.JsonResponse:
        return answered(await self.copies.count(request.log))

    @unary
    async def ListCopies(self, request: pb.ListCopiesRequest, context: Context) -> pb.JsonResponse:
        return answered(await self.copies.list(request.instance, request.log))

    @unary
    async def DiscardCopy(self, request: pb.CopyRequest, context: Context) -> pb.JsonResponse:
        return answered(
            await self.copies.discard(request.instance, request.replica_id, dry_run=request.dry_run)
        )

    @unary
    async def AdoptCopy(self, request: pb.CopyRequest, context: Context) -> pb.JsonResponse:
        return answered(
            await self.copies.adopt(request.instance, request.replica_id, dry_run=request.dry_run)
        )

    @unary
    async def RetireInstance(
        self, request: pb.RetireInstanceRequest, context: Context
    ) -> pb.JsonResponse:
        return answered(await self._retiring.retire(request.instance, dry_run=request.dry_run))
