"""Each call between members names its caller, the called instance and the cluster; a wrong one is
refused.

An address may belong to another cluster or instance by now. Clients of users send no names.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from logstore.base.errors import WrongClusterError
from logstore.proto.status import served

CLUSTER_HEADER = "logstore-cluster"
TO_HEADER = "logstore-to"


class MemberChannel(grpc.aio.Channel):
    """A channel whose every call names the caller's cluster and the instance that it means."""

    def __init__(self, channel: grpc.aio.Channel, cluster: str, to: str = "") -> None:
        self._channel = channel
        said = ((CLUSTER_HEADER, cluster), (TO_HEADER, to))
        self._said = tuple((name, value) for name, value in said if value)

    def unary_unary(self, *args: Any, **named: Any) -> Any:
        return partial(self._channel.unary_unary(*args, **named), metadata=self._said)

    def unary_stream(self, *args: Any, **named: Any) -> Any:
        return partial(self._channel.unary_stream(*args, **named), metadata=self._said)

    def stream_unary(self, *args: Any, **named: Any) -> Any:
        return partial(self._channel.stream_unary(*args, **named), metadata=self._said)

    def stream_stream(self, *args: Any, **named: Any) -> Any:
        return partial(self._channel.stream_stream(*args, **named), metadata=self._said)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    async def __aenter__(self) -> "MemberChannel":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()


def check_caller(
    said: "Iterable[tuple[str, str | bytes]] | None", cluster: str, instance: str = ""
) -> None:
    """`WrongClusterError` when the caller means another member than this one.

    `cluster`, `instance`: ours; an empty one is not known yet, or not checked.
    """
    for name, value in said or ():
        if name == CLUSTER_HEADER and cluster and value != cluster:
            raise WrongClusterError(
                f"the caller is of cluster {value!r}, this is cluster {cluster}"
            )
        if name == TO_HEADER and instance and value != instance:
            raise WrongClusterError(f"the caller means instance {value!r}, this is {instance}")


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Refuses, before anything is done, every call that means another member."""

    def __init__(self, ours: Callable[[], tuple[str, str]]) -> None:
        """`ours`: our cluster and instance, as `check_caller` takes them."""
        self._ours = ours

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        try:
            check_caller(handler_call_details.invocation_metadata, *self._ours())
        except WrongClusterError as e:
            return handler and _refusing(handler, e)
        return handler


def _refusing(handler: Any, error: WrongClusterError) -> Any:
    """A handler of the same kind that answers with the error."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async with served(context):
            raise error

    kind = f"{'stream' if handler.request_streaming else 'unary'}_" + (
        "stream" if handler.response_streaming else "unary"
    )
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        refuse,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
