"""The served side of a process: services behind interceptors, with health and reflection.

The simulator serves the same services behind the same interceptors on its network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from logstore.base.address import Address
from logstore.base.tls import TlsOptions
from logstore.proto.channel import listen, make_server
from logstore.proto.coordinator_v1 import (
    accesses_pb2_grpc,
    coordinator_pb2_grpc,
    placement_pb2_grpc,
)
from logstore.proto.reflection import add_reflection
from logstore.proto.v1 import accesses_pb2_grpc as instance_accesses_pb2_grpc
from logstore.proto.v1 import log_pb2_grpc, node_pb2_grpc

Services = Mapping[str, Any]
"""Full gRPC name -> servicer."""

_GENERATED = {
    "logstore.v1": (log_pb2_grpc, node_pb2_grpc, instance_accesses_pb2_grpc),
    "coordinator.v1": (coordinator_pb2_grpc, placement_pb2_grpc, accesses_pb2_grpc),
}


def add_services(server: grpc.aio.Server, services: Services) -> None:
    """Have the server serve them; `KeyError` for a name of which no service is generated."""
    for name, servicer in services.items():
        package, _, short = name.rpartition(".")
        generated = {k: v for module in _GENERATED[package] for k, v in vars(module).items()}
        generated[f"add_{short}Servicer_to_server"](servicer, server)


class GrpcServer:
    """Use as: `listen`, `start`, `ready`; then `leave`, `stop`."""

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> None:
        self._server = make_server(interceptors)
        self._health = health.aio.HealthServicer()
        self._services: tuple[str, ...] = ()

    def listen(self, address: str, tls: TlsOptions | None) -> str:
        """Bind `host:port` and return it with the port that was taken (port 0: any).

        `AddressInUseError`; `InvalidArgumentError` for an address that is none.
        """
        host = Address.of(address, port_min=0).host
        return str(Address(host, listen(self._server, address, tls)))

    async def start(self, services: Services) -> None:
        """Serve; health says that it is not ready."""
        self._services = ("", *services)
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        add_services(self._server, services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server, [*services, health.SERVICE_NAME])
        await self._server.start()

    async def ready(self) -> None:
        """Health says that calls are served, of the process ("") and of each service."""
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def _say(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in self._services:
            await self._health.set(service, status)

    async def leave(self) -> None:
        """Health says, for good, that calls go elsewhere; they are still served."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Take no call any more; those in progress are cancelled after the grace."""
        await self._server.stop(grace_s)
