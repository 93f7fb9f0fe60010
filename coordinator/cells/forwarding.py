"""Calls that belong to a cell, at a coordinator that may not lead it: answered here or forwarded.

`coordinator.calls` says what a call is of: one of a shard goes to the leader of the shard's cell,
one of a log or the cluster to the leader of cell "0", and any coordinator answers one of anyone. A
call is sent to another coordinator once: when the connection is lost its outcome is unknown, as for
any client.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from coordinator.calls import CALLS, Call, Of
from coordinator.cells.assignment import LOG_WIDE, cell_of, cell_of_all
from coordinator.cells.cell import Cell
from coordinator.migration.ledger import migration_table
from logstore.base.errors import UnavailableError
from logstore.meta.port import MetadataStore
from logstore.meta.records import cell_leader_key
from logstore.meta.tables import leader_table
from logstore.proto.status import served
from logstore.proto.transport import Transport

PACKAGE = "coordinator.v1."
LEADER_WAIT_S = 6.0
"""How long a call waits for a leader of its cell; longer than a failover takes."""
LEADER_POLL_S = 0.1
TIMEOUT_S = 300.0
FORWARDED = "logstore-forwarded"

Led = Mapping[str, Cell]


class CellRouter(grpc.aio.ServerInterceptor):
    """Serves a call by the work of its cell, if that is led here, else forwards it."""

    def __init__(self, store: MetadataStore, led: Led, cells: int, transport: Transport) -> None:
        self._store, self._led, self._cells, self._transport = store, led, cells, transport

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        service, _, method = path.removeprefix("/").partition("/")
        name = service.removeprefix(PACKAGE)
        known = CALLS.get((name, method)) if service.startswith(PACKAGE) else None
        if handler is None or known is None or known.of is Of.ANYONE:
            return handler

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with served(context):
                cell = await self._cell_of(known, request)
                forwarded = any(k == FORWARDED for k, _ in context.invocation_metadata() or ())
                work, leader = await self._leader(cell, forwarded)
            if work is not None:
                return await getattr(work.services[name], method)(request, context)
            return await self._forward(leader, path, request, context)

        serialize = handler.response_serializer
        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=handler.request_deserializer,
            response_serializer=lambda r: r if isinstance(r, bytes) else serialize(r),
        )

    async def _cell_of(self, call: Call, request: Any) -> str:
        """The shard of a call: its field `shard`, the shard of the migration `id`, or `parents`."""
        if call.of is not Of.SHARD:
            return LOG_WIDE
        parents = getattr(request, "parents", None)
        if parents is not None:
            return cell_of_all(parents, self._cells)
        shard: str = getattr(request, "shard", "")
        migration: str = getattr(request, "id", "")
        if not shard and migration:
            found = await migration_table(self._store).get(migration)
            shard = found.shard if found is not None else ""
        return cell_of(shard, self._cells) if shard else LOG_WIDE

    async def _leader(self, cell: str, forwarded: bool) -> tuple[Cell | None, str]:
        """The work here, or the leader's address; waits for a new leader, within a bound."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + LEADER_WAIT_S
        while True:
            work = self._led.get(cell)
            if work is not None:
                return work, ""
            if not forwarded:  # who forwarded has read that we lead: we are about to
                found = await leader_table(self._store).get(cell_leader_key(cell))
                address = found.address if found is not None else ""
                if address and await self._reachable(address):
                    return None, address
            if loop.time() >= until_s:
                raise UnavailableError(f"cell {cell} has no leader that can be reached")
            await asyncio.sleep(LEADER_POLL_S)

    async def _reachable(self, address: str) -> bool:
        """Whether there is a connection: what is sent to a dead leader would be in doubt."""
        channel = self._transport.channel(address)
        try:
            async with asyncio.timeout(LEADER_POLL_S * 5):
                await channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def _forward(
        self, address: str, path: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bytes:
        call: Any = self._transport.channel(address).unary_unary(
            path, request_serializer=type(request).SerializeToString
        )
        left_s = context.time_remaining()
        timeout_s = TIMEOUT_S if left_s is None else min(left_s, TIMEOUT_S)
        try:
            answer: bytes = await call(request, timeout=timeout_s, metadata=((FORWARDED, "1"),))
        except grpc.aio.AioRpcError as e:
            trailer = tuple(e.trailing_metadata() or ())
            await context.abort(e.code(), e.details() or "", trailer)
        return answer
