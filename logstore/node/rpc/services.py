"""What an instance serves, and behind what: by gRPC, and in the simulator."""

from typing import Any

import grpc.aio

from logstore.node.instance.instance import Instance
from logstore.node.rpc.access_service import AccessService
from logstore.node.rpc.admin_service import NodeAdmin
from logstore.node.rpc.log_service import InstanceRouteService, LogService
from logstore.node.rpc.peer_service import PeerService
from logstore.proto.handshake import Doorkeeper


def services_of(instance: Instance) -> dict[str, Any]:
    """Full gRPC name -> servicer."""
    return {
        "logstore.v1.LogService": LogService(instance),
        "logstore.v1.RouteService": InstanceRouteService(instance),
        "logstore.v1.PeerService": PeerService(instance),
        "logstore.v1.AccessService": AccessService(instance.node),
        "logstore.v1.NodeAdmin": NodeAdmin(instance),
    }


def interceptors_of(instance: Instance) -> list[grpc.aio.ServerInterceptor]:
    """What every call passes, in this order."""
    return [Doorkeeper(lambda: (instance.claim.cluster, instance.node.instance))]
