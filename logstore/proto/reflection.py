"""Server reflection under both of its names, v1 and v1alpha, that finds methods too.

The package `grpcio-reflection` serves v1alpha only, and finds no method by its name; newer tools
(grpcurl, Postman) ask v1, and describe a method before they call it.
"""

from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

ALPHA = reflection.SERVICE_NAME
V1 = "grpc.reflection.v1.ServerReflection"


def _know_v1() -> None:
    """The messages of v1 are those of v1alpha in another package."""
    found = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(found)
    old, new = f".{found.package}.", ".grpc.reflection.v1."
    found.name, found.package = found.name.replace("v1alpha", "v1"), new.strip(".")
    found.ClearField("options")
    for message in found.message_type:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(old, new)
    for method in found.service[0].method:
        method.input_type = method.input_type.replace(old, new)
        method.output_type = method.output_type.replace(old, new)
    descriptor_pool.Default().AddSerializedFile(found.SerializeToString())


_know_v1()


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        """Of a method: the file of its service, which alone the pool knows by name."""
        service, _, method = fully_qualified_name.rpartition(".")
        try:
            found = descriptor_pool.Default().FindServiceByName(service)
        except KeyError:
            return super()._file_containing_symbol(request, fully_qualified_name)
        known = method in found.methods_by_name
        return super()._file_containing_symbol(request, service if known else fully_qualified_name)


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Have the server describe these services (full names) and reflection's own."""
    servicer = _Servicer([*services, ALPHA, V1])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handler,))
